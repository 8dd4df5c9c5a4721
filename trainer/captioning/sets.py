"""Captions for the pictures of a set: made, looked at, and only then written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from PIL import Image

from trainer.answers import Answer
from trainer.captioning.wording import Wording, WordReport, report_words
from trainer.data.captions import REFUSAL, clean_lines
from trainer.data.colours import WHITE
from trainer.data.findings import ImageProblem
from trainer.data.gather import scan_again
from trainer.data.images import load_rgb
from trainer.data.masks import seen
from trainer.data.sets import ImageEntry, ImageFile
from trainer.errors import UserError
from trainer.events import Progress, no_progress
from trainer.runs.atomic import write_text
from trainer.text import counted

CANCELLED = "cancelled"
"""Code of the error that a withdrawn request raises at its next sign of life."""
_SAME_FAILURES = 3
"""So many pictures in a row with one and the same fault end the work."""


class Captioner:
    """Whatever makes captions."""

    title = ""  # what it is, for people
    parallel = 1  # pictures that it takes at a time

    def caption(self, name: str, picture: Image.Image, wording: Wording) -> str:
        """What it says of an RGB picture.

        Raises:
            ImageProblem: it has nothing to say of this one.
            UserError: it can't go on with any.
        """
        raise NotImplementedError

    def settle(self, captions: dict[str, str], wording: Wording) -> dict[str, str]:
        """Captions by picture, once those of all are known: what they share may count."""
        return captions


@dataclass(frozen=True)
class Proposal:
    """A picture's caption as it is and as it may become."""

    picture: str
    before: str
    after: str


@dataclass(frozen=True)
class CaptionedSet(Answer):
    """Proposed captions; nothing is written yet."""

    unsaid = ("paths",)

    captioner: str  # what made them
    proposals: tuple[Proposal, ...]  # for the pictures that were asked for, in their order
    problems: dict[str, str]  # why others have none, by picture
    kept: int  # pictures left alone since they have a caption
    report: WordReport  # on all captions of the set, the proposed ones among them
    stopped: bool = False  # the work was ended before all were done
    written: tuple[str, ...] = ()  # pictures whose caption was written
    paths: dict[str, Path] = field(default_factory=dict[str, Path], repr=False)

    @property
    def exit_status(self) -> int:
        """130 where it was stopped."""
        return 130 if self.stopped else 0

    def lines(self) -> Iterator[str]:
        if self.captioner:
            yield f"Captions by {self.captioner}"
        for one in self.proposals:
            yield f"{one.picture}: {one.after}"
            if one.before:
                yield f"  instead of: {one.before}"
        yield from (f"{name}: no caption. {reason}" for name, reason in self.problems.items())
        if self.kept:
            yield f"{counted(self.kept, 'picture')} with a caption left alone; --all takes them too"
        yield from self.report.lines()
        if self.stopped:
            yield "Stopped: the captions made until then are above."
        if self.written:
            yield f"{counted(len(self.written), 'caption')} written."
        elif self.proposals:
            yield "Nothing is written yet: --write does that."


def caption_set(
    root: Path,
    captioner: Callable[[], Captioner],
    wording: Wording,
    *,
    everything: bool = False,
    pictures: Collection[str] = (),
    progress: Progress = no_progress,
) -> CaptionedSet:
    """Propose captions for the pictures of a set.

    Args:
        captioner: is loaded only where a picture needs it.
        everything: pictures that have a caption, too.
        pictures: only those of these names; they may have a caption.
        progress: what it raises ends the work; what is done until then stays, as with Ctrl-C.

    Raises:
        UserError: there is no such set or picture, or not one caption could be made.
    """
    image_set = scan_again(root)
    asked = image_set.named(pictures)
    wanted = [one for one in asked if everything or pictures or not one.caption]
    said: dict[str, str] = {}
    problems: dict[str, str] = {}
    stopped, made = False, None
    if wanted:
        try:
            progress(0, len(wanted), "Loading")
            made = captioner()
            _ask(made, wanted, wording, said, problems, progress)
        except KeyboardInterrupt:
            stopped = True
        except UserError as error:
            if not said:
                raise
            stopped = True
            if error.code != CANCELLED:
                problems |= {one.name: str(error) for one in wanted if one.name not in said}
    if made is not None:
        said = made.settle(said, wording)
    finished = {name: wording.finish(text) for name, text in said.items()}
    problems |= {
        name: "Nothing is left of its caption without the words to leave out."
        if said[name]
        else "Nothing in it is sure enough to be said."
        for name, text in finished.items()
        if not text
    }
    refused = {name: text for name, text in finished.items() if text and REFUSAL.match(text)}
    problems |= {
        name: f"That is no caption: “{text[:80]}”. Ask another model, or write it yourself."
        for name, text in refused.items()
    }
    finished |= dict.fromkeys(refused, "")
    proposals = tuple(
        Proposal(one.name, one.caption or "", finished[one.name])
        for one in wanted
        if finished.get(one.name) and finished[one.name] != one.caption
    )
    captions = {one.name: finished.get(one.name) or one.caption or "" for one in image_set.entries}
    paths = {one.name: one.source.path for one in wanted if isinstance(one.source, ImageFile)}
    title = made.title if made else ""
    kept, report = len(asked) - len(wanted), report_words(captions, wording)
    return CaptionedSet(title, proposals, problems, kept, report, stopped, paths=paths)


def _ask(
    captioner: Captioner,
    wanted: Sequence[ImageEntry],
    wording: Wording,
    said: dict[str, str],
    problems: dict[str, str],
    progress: Progress,
) -> None:
    """Ask about each picture, several at a time, and note the answers as they come."""

    def one(entry: ImageEntry) -> str:
        picture = load_rgb(entry.read(), entry.background(WHITE))
        picture = seen(picture, entry.focus) if entry.focus else picture
        return captioner.caption(entry.name, picture, wording)

    waiting, at_work, same = list(reversed(wanted)), dict[Future[str], str](), list[str]()
    while waiting or at_work:
        while waiting and len(at_work) < captioner.parallel:
            entry = waiting.pop()
            at_work[_started(partial(one, entry))] = entry.name
        done, _ = wait(at_work, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            name = at_work.pop(future)
            try:
                said[name] = future.result()
            except ImageProblem as problem:
                problems[name] = str(problem)
                same.append(str(problem))
        if not said and len(same) >= _SAME_FAILURES and len(set(same)) == 1:
            raise UserError(f"{captioner.title}: {same[0]}", "Nothing was captioned.")
        progress(len(said) + len(problems), len(wanted), "Captioning")


def _started(work: Callable[[], str]) -> Future[str]:
    """Work in a thread of its own, which holds up nobody who ends: a server may hang for long."""
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised again where the answer is taken
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def write_captions(found: CaptionedSet) -> CaptionedSet:
    """Write the proposals beside their pictures, each where nothing else has been written since.

    Raises:
        OSError: a file cannot be written.
    """
    written, problems = list[str](), dict(found.problems)
    for one in found.proposals:
        reason = _write(found.paths.get(one.picture), one)
        if reason:
            problems[one.picture] = reason
        else:
            written.append(one.picture)
    return replace(found, written=tuple(written), problems=problems)


def _write(picture: Path | None, one: Proposal) -> str:
    """Write a caption; gives why it was not, or ""."""
    if picture is None:
        return "Its caption is in a table, and tables are never changed."
    path = picture.with_suffix(".txt")
    try:
        there = clean_lines(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        there = None
    if there is None and one.before:
        return "Its caption is in a file of another name, which is not changed."
    if there and there != one.before:
        return "Its caption was changed in the meantime, and is left alone."
    write_text(path, f"{one.after}\n")
    return ""
