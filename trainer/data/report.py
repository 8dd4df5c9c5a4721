"""What training would make of an image set, and everything that is doubtful in it.

Told once: ``check-images``, the start of a training and the page show this report. What is counted
stands in `SetReport.facts`, what is doubtful in `trainer.data.checks`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from trainer.answers import Answer
from trainer.config.schema import CaptionsConfig, ImagesConfig
from trainer.data.captions import CHUNK_TOKENS, caption_lines
from trainer.data.checks import findings_of
from trainer.data.findings import Finding, ImageProblem, merge_findings
from trainer.data.fitted import FittedSet, plan_entry
from trainer.data.masks import ALL_WHITE, judge_mask
from trainer.data.names import display_name, list_names
from trainer.data.sets import ImageEntry, ImageSet, Picture
from trainer.errors import UserError
from trainer.text import counted

_NAMES_SHOWN = 12
_TAGS_SHOWN = 12


@dataclass(frozen=True)
class Fact:
    """One thing that is counted in a set."""

    line: str  # as the whole report says it; "" is not said there
    short: str = ""  # in the short form that opens every training; "" is not said there


@dataclass(frozen=True)
class SetReport(Answer):
    """What an image set comes to at a resolution."""

    unsaid = ("fitted",)

    path: str  # of the set
    resolution: int  # in pixels
    pictures: int  # how many will train; ``left_out`` will not
    left_out: int
    shown_per_epoch: int  # pictures with their repeats
    captions: int  # how many pictures have one of their own
    caption_lines: int  # how many captions there are in all; a picture may have several
    formats: dict[str, int]  # pictures by format
    buckets: dict[str, int]  # pictures by size as "width × height", most pictures first
    # Pictures whose caption lacks the trigger, which is then put in front.
    lacking_trigger: list[str]
    # Captions, as they are trained, by the chunks of 75 tokens that they take; None where not
    # counted.
    caption_chunks: dict[str, int] | None
    # Pictures whose caption has more than ``captions.max_tokens``; None where not counted.
    cut_captions: list[str] | None
    # Words in at least 80 % of the captions, with the number of captions.
    sticking_words: dict[str, int]
    # The comma-separated parts of the captions, with the number of captions, most first.
    tags: dict[str, int]
    # Pictures with the mask that the configuration asks for; None where it asks for none.
    masks: int | None
    class_pictures: dict[str, int]  # of regularisation, by folder
    splits: dict[str, int]  # what is not trained on, with how many pictures or tables
    findings: list[Finding]  # doubts, the gravest first
    fitted: list[Picture] = field(repr=False)  # the pictures that will train, with their cuts

    def facts(self) -> Iterator[Fact]:
        """All that is counted, in the order in which it is said."""
        pictures, out = counted(self.pictures, "picture"), self.left_out
        yield Fact(
            f"{self.path}: {pictures} can be trained on, {out} left out",
            f"{pictures}, {out} left out" if out else pictures,
        )
        yield Fact(f"in an epoch: {self.shown_per_epoch} (with repeats)")
        yield Fact(f"formats: {_counts(self.formats)}")
        yield Fact(f"buckets: {_counts(self.buckets)}")
        captions = counted(self.caption_lines, "caption")
        several = f" ({captions} in all)" if self.caption_lines > self.captions else ""
        yield Fact(f"captions: {self.captions} of {self.pictures}{several}", captions)
        if common := {tag: count for tag, count in self.tags.items() if count > 1}:
            yield Fact(f"commonest tags: {_counts(dict(list(common.items())[:_TAGS_SHOWN]))}")
        if self.lacking_trigger:
            names = list_names(self.lacking_trigger)
            yield Fact(f"without the trigger word, which will be put in front: {names}")
        longer = {n: count for n, count in (self.caption_chunks or {}).items() if n != "1"}
        if longer:
            long = sum(longer.values())
            several = _counts({f"in {n} chunks": count for n, count in longer.items()})
            yield Fact(
                f"captions over {CHUNK_TOKENS} tokens, read in chunks: {long} ({several})",
                f"{long} over {CHUNK_TOKENS} tokens",
            )
        if self.cut_captions is not None:
            cut = len(self.cut_captions)
            yield Fact(f"captions that are cut: {cut}", f"{cut} cut" if cut else "")
        if self.masks is not None:
            masks = f"{self.masks} of {self.pictures}"
            yield Fact(f"masks: {masks}", f"masks {masks}")
        if self.class_pictures:
            count = counted(sum(self.class_pictures.values()), "class picture")
            yield Fact(f"class pictures: {_counts(self.class_pictures)}", count)
        if self.splits:
            names = ", ".join(self.splits)
            yield Fact(f"not trained on: {_counts(self.splits)}", f"not trained on: {names}")

    @property
    def summary(self) -> str:
        """The report in one line, such as "12 pictures, 12 captions, 3 over 75 tokens"."""
        return ", ".join(fact.short for fact in self.facts() if fact.short)

    def lines(self) -> Iterator[str]:
        """The whole report for a terminal."""
        yield "\n  ".join(fact.line for fact in self.facts() if fact.line)
        yield from (f"{one.severity}: {one.in_words(_NAMES_SHOWN)}" for one in self.findings)

    def check_usable(self) -> None:
        """Raises `UserError` where no picture can be used."""
        if not self.fitted:
            reasons = [finding for finding in self.findings if finding.severity == "error"]
            raise UserError(
                f"None of the {self.left_out} pictures in {self.path} can be used at resolution "
                f"{self.resolution}: {reasons[-1]}",
                "Do what it says, or choose another folder.",
            )


def describe_set(
    image_set: ImageSet,
    images: ImagesConfig,
    captions: CaptionsConfig,
    *,
    step: int,
    count_chunks: Callable[[str], int] | None = None,
) -> SetReport:
    """Report on an image set.

    Args:
        images: with its resolution filled in.
        step: bucket sides are multiples of it, in pixels.
        count_chunks: of a text, see `trainer.models.text`; None: captions are not measured.
    """
    fitted, refused = _fit_entries(image_set.entries, images, step)
    found = FittedSet(image_set, fitted, images, captions, step, count_chunks)
    cuts = [one.crop for picture in fitted for one in picture.in_each_size]
    sizes = Counter("{} × {}".format(*crop.size) for crop in cuts)
    return SetReport(
        path=display_name(str(image_set.root)),
        resolution=images.resolution or 0,
        pictures=len(fitted),
        left_out=len(image_set.left_out) + len(image_set.entries) - len(fitted),
        shown_per_epoch=len(images.sides) * sum(entry.repeats for entry in found.entries),
        captions=len(found.captioned),
        caption_lines=sum(len(caption_lines(entry.caption)) for entry in found.captioned),
        formats=dict(Counter(entry.header.format for entry in found.entries).most_common()),
        buckets=dict(sizes.most_common()),
        lacking_trigger=found.lacking_trigger,
        caption_chunks=found.chunk_counts,
        cut_captions=found.cut_captions,
        sticking_words=found.sticking_words,
        tags=found.tags,
        class_pictures=dict(image_set.class_folders),
        splits=dict(image_set.splits),
        masks=None if found.masked is None else sum(found.masked),
        findings=merge_findings([*image_set.findings, *refused, *findings_of(found)]),
        fitted=fitted,
    )


def _fit_entries(
    entries: Iterable[ImageEntry], images: ImagesConfig, step: int
) -> tuple[list[Picture], list[Finding]]:
    """The cut of each picture that can be used, and a word on the others and on masks.

    Args:
        images: with its resolution filled in.
        step: bucket sides are multiples of it, in pixels.
    """
    fitted: list[Picture] = []
    refused: list[tuple[str, ImageProblem]] = []
    masks: dict[str, list[str]] = defaultdict(list)  # pictures by what is said of their masks
    for entry in entries:
        try:
            crops = [
                plan_entry(entry, images.at(side), step, upscale=images.upscale)
                for side in images.sides
            ]
            said: dict[str, None] = {}
            for crop in dict.fromkeys(crops):
                judged = judge_mask(entry, images, crop)
                if isinstance(judged, ImageProblem):
                    raise judged
                said |= dict.fromkeys(judged)
        except ImageProblem as problem:
            refused.append((entry.name, problem))
        else:
            fitted.append(Picture(entry, crops[0], others=tuple(crops[1:])))
            for message in said:
                masks[message].append(entry.name)
    if len(masks[ALL_WHITE]) < len(fitted):
        del masks[ALL_WHITE]
    doubts = [Finding.of_several(names, "warning", said) for said, names in masks.items() if names]
    return fitted, [*_left_out(refused), *doubts]


def _left_out(refused: Iterable[tuple[str, ImageProblem]]) -> Iterator[Finding]:
    """Why pictures are left out; reasons that differ in their numbers alone are one finding."""
    alike: dict[str, list[tuple[str, ImageProblem]]] = defaultdict(list)
    for name, problem in refused:
        alike[re.sub(r"\d+", "", str(problem))].append((name, problem))
    for same in alike.values():
        reason = str(same[0][1])
        if any(str(problem) != reason for _, problem in same):
            reason = reason.replace("It is", "The first is", 1)
        yield Finding.of_several([name for name, _ in same], "error", f"Left out. {reason}")


def fit_pictures(image_set: ImageSet, images: ImagesConfig, step: int) -> SetReport:
    """As `describe_set`, where all is as a training needs it.

    Args:
        images: with its resolution filled in.
        step: bucket sides are multiples of it, in pixels.

    Raises:
        UserError: the resolution does not suit the model, or no picture can be used.
    """
    check_resolutions(images, step)
    report = describe_set(image_set, images, CaptionsConfig(), step=step)
    report.check_usable()
    return report


def check_resolutions(images: ImagesConfig, step: int) -> None:
    """Raises `UserError` unless all resolutions are multiples of ``step``, in pixels."""
    for side in images.sides:
        if side % step:
            below = max(step, side // step * step)
            raise UserError(
                f"images.resolution {side} is not a multiple of {step}, which this base model "
                "needs.",
                f"Use {below} or {below + step}." if below < side else f"Use {below}.",
            )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"
