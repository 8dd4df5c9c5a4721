"""What changes a set as a whole, and how it is undone: edits of all captions, removed pictures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import TypeAdapter

from app.files import disk_trouble
from app.tabs.images.captions import caption_paths, read_captions, saving, write_caption
from app.tabs.images.imagesets import SetFolder, contents_of, picture_path
from app.tabs.images.storage import mask_path
from trainer.data.buckets import Focus
from trainer.data.captions import (
    caption_lines,
    clean_caption,
    clean_lines,
    contains_word,
    replace_word,
    without_word,
)
from trainer.data.names import display_name, list_names
from trainer.data.pairing import FOCUS_SUFFIX, looks_like_mask, words_of
from trainer.errors import UserError
from trainer.runs.atomic import temporary_name, write_bytes

EditKind = Literal["front", "end", "remove", "replace"]
TextSuffix = Literal[".txt", ".focus"]
"""Of captions, and of how pictures are turned and cut."""
MAX_TEXT = 500
MOST_ENTRIES = 20
REMOVED = "removed"
_HISTORY = "history.json"

# ------------------------------------------------------------------------------ one edit


@dataclass(frozen=True)
class Edit:
    """What is done to every caption.

    Attributes:
        text: what is added, removed, or looked for.
        other: what takes its place ("replace").
        whole_words: whether "car" leaves "scarf" alone.
    """

    kind: EditKind
    text: str
    other: str = ""
    whole_words: bool = True

    @property
    def adds(self) -> bool:
        """Whether it adds its text, instead of looking for it."""
        return self.kind in ("front", "end")

    @property
    def sought(self) -> str:
        """The text, cleaned; what is added is without the commas that set it off."""
        text = clean_caption(self.text)
        return text.strip(", ") if self.adds else text

    def __str__(self) -> str:
        ends = {
            "front": "at the front",
            "end": "at the end",
            "remove": "taken out",
            "replace": f"replaced by “{self.other.strip()}”",
        }
        return f"“{self.sought}” {ends[self.kind]}"

    def apply(self, caption: str) -> str:
        """A caption after the edit, cleaned; each of several lines is edited by itself.

        What is added is set off by a comma, and not added to a caption that has it already. Upper
        and lower case make no difference in what is looked for.
        """
        lines = caption_lines(caption) or [""]
        return clean_lines("\n".join(map(self._apply_to_line, lines)))

    def _apply_to_line(self, caption: str) -> str:
        text = self.sought
        if self.adds:
            if contains_word(caption, text):
                return caption
            parts = [text, caption] if self.kind == "front" else [caption, text]
            return clean_caption(", ".join(part for part in parts if part))
        if self.kind == "remove" and self.whole_words:
            return clean_caption(without_word(caption, text))
        other = clean_caption(self.other) if self.kind == "replace" else ""
        if self.whole_words:
            return replace_word(caption, text, other)
        pattern = re.compile(re.escape(text), re.IGNORECASE)
        return clean_caption(pattern.sub(lambda _: other, caption))


@dataclass(frozen=True)
class Change:
    """A caption before and after an edit."""

    picture: str
    before: str
    after: str


def preview(captions: Mapping[str, str], edit: Edit) -> list[Change]:
    """The captions that an edit changes.

    Raises:
        UserError: there is nothing to add or to look for.
    """
    if not edit.sought:
        what = "add" if edit.adds else "look for"
        raise UserError(f"There is no text to {what}.", "Type it into the first field.")
    if len(edit.text) > MAX_TEXT or len(edit.other) > MAX_TEXT:
        raise UserError(f"The text is longer than {MAX_TEXT} characters.", "Shorten it.")
    changed = [Change(name, before, edit.apply(before)) for name, before in captions.items()]
    return [change for change in changed if change.after != change.before]


def apply_edit(image_set: SetFolder, edit: Edit, seen: Mapping[str, str]) -> list[Change]:
    """Do an edit to the captions that were seen in the preview; it can be undone.

    Args:
        seen: captions by picture, as the preview was made from them.

    Raises:
        UserError: a caption has changed since (then nothing is done), or nothing can be saved.
    """
    changes = preview(seen, edit)
    apply_changes(image_set, changes, str(edit))
    return changes


def apply_changes(image_set: SetFolder, changes: Sequence[Change], what: str) -> None:
    """Write captions that were shown; it can be undone.

    Raises:
        UserError: a caption has changed since (then nothing is done), or nothing can be saved.
    """
    with saving:
        now = read_captions(image_set)
        if any(now.get(change.picture) != change.before for change in changes):
            raise UserError(
                "Captions have changed since the preview, perhaps in another tab. Nothing was "
                "done.",
                "Look at the preview again.",
            )
        write_captions(image_set, changes, what)


def write_captions(
    image_set: SetFolder, changes: Sequence[Change], what: str, suffix: TextSuffix = ".txt"
) -> None:
    """Write captions, so that it can be undone. The caller holds `saving`.

    Args:
        what: is done, in a few words.
        suffix: of the files.

    Raises:
        UserError: nothing can be saved.
    """
    if changes:
        pairs = {change.picture: (change.before, change.after) for change in changes}
        _write_history(image_set, [*history(image_set), Done(what, pairs, suffix=suffix)])
    paths = caption_paths(image_set, suffix)
    for change in changes:
        write_caption(paths[change.picture], change.after)


def remove_picture(image_set: SetFolder, picture: str) -> None:
    """Take a picture, its caption and its mask out of a set; undo brings them back.

    Raises:
        UserError: the set is not the page's own, has no such picture, or nothing can be moved.
    """
    with saving, disk_trouble():
        captions, path = caption_paths(image_set), picture_path(image_set, picture)
        files = [captions[picture], path.with_suffix(FOCUS_SUFFIX), path]
        _put_aside(image_set, picture, files, f"{display_name(path.name)} removed")


def _put_aside(
    image_set: SetFolder, picture: str, files: Sequence[Path], what: str, made: str = ""
) -> None:
    """Take a picture's mask and further files away, so that undo can bring them back.

    The caller holds `saving`.

    Args:
        what: is done, in a few words.
        made: name of a file beside the picture that takes their place, which undo removes.
    """
    folder = temporary_name(image_set.hidden / REMOVED / "x").name.strip(".")
    target = image_set.hidden / REMOVED / folder
    target.mkdir(parents=True)
    done = Done(what, picture=picture, folder=folder, made=made)
    _write_history(image_set, [*history(image_set), done])
    if mask := contents_of(image_set).masks.get(picture):
        # It may lie in another folder, and be named as the picture is.
        mask.path.rename(target / mask_path(image_set.path / picture, mask.path).name)
    for file in filter(Path.exists, files):
        file.rename(target / file.name)


def change_mask(image_set: SetFolder, picture: str, mask: bytes | None) -> None:
    """Give a picture a mask in place of the one that it has, or none; undo brings the old one back.

    Args:
        mask: a PNG file.

    Raises:
        UserError: the set is not the page's own, has no such picture, or nothing can be written.
    """
    image_set.check_owned()
    with saving, disk_trouble():
        path = picture_path(image_set, picture)
        new = path.with_suffix(".mask.png")
        what = f"{'mask of' if mask else 'no mask for'} {display_name(path.name)}"
        _put_aside(image_set, picture, [], what, new.name if mask else "")
        if mask:
            write_bytes(new, mask)


def set_focus(image_set: SetFolder, picture: str, focus: Focus | None) -> None:
    """Choose how a picture is turned and cut; None: as it is. It can be undone.

    Raises:
        UserError: the set is not the page's own, has no such picture, or nothing can be saved.
    """
    image_set.check_owned()
    what = f"crop of {display_name(picture_path(image_set, picture).name)}"
    with saving:
        before = read_captions(image_set, FOCUS_SUFFIX)[picture]
        after = words_of(focus) if focus else ""
        if after != before:
            write_captions(image_set, [Change(picture, before, after)], what, FOCUS_SUFFIX)


# ------------------------------------------------------------------------------ undo


@dataclass(frozen=True)
class Done:
    """One thing that can be undone.

    Attributes:
        what: in a few words.
        captions: before and after, by picture; empty where files were taken away.
        suffix: of their files; that of crops where these were changed.
        picture: the one whose files were taken away, or "".
        folder: below the set's hidden folder, where these lie.
        made: name of a file beside the picture that took their place.
    """

    what: str
    captions: dict[str, tuple[str, str]] = field(default_factory=dict)
    suffix: TextSuffix = ".txt"
    picture: str = ""
    folder: str = ""
    made: str = ""


_history = TypeAdapter(list[Done])


def history(image_set: SetFolder) -> list[Done]:
    """What can be undone, the latest last: a file beside the set, so that it outlives a reload."""
    try:
        return _history.validate_json((image_set.hidden / _HISTORY).read_bytes())
    except (OSError, ValueError):
        return []


def _write_history(image_set: SetFolder, done: list[Done]) -> None:
    """The newest ones; what falls out of the list stays done."""
    with disk_trouble():
        image_set.hidden.mkdir(parents=True, exist_ok=True)
        data = _history.dump_json(done[-MOST_ENTRIES:], indent=1)
        write_bytes(image_set.hidden / _HISTORY, data)


def undo(image_set: SetFolder) -> str:
    """Undo the latest thing; gives a sentence about it.

    A caption that was changed since is left as it is, and named.

    Raises:
        UserError: there is nothing to undo, or nothing can be saved.
    """
    with saving:
        done = history(image_set)
        if not done:
            raise UserError("There is nothing to undo.")
        latest = done[-1]
        message = _bring_back(image_set, latest) if latest.picture else _restore(image_set, latest)
        _write_history(image_set, done[:-1])
    return message


def _restore(image_set: SetFolder, done: Done) -> str:
    now, paths = read_captions(image_set, done.suffix), caption_paths(image_set, done.suffix)
    same = [name for name, (_, after) in done.captions.items() if now.get(name) == after]
    for name in same:
        write_caption(paths[name], done.captions[name][0])
    where = f" in {len(same)} captions" if done.suffix == ".txt" else ""
    message = f"Undone{where}: {done.what}."
    changed = [display_name(name) for name in done.captions if name not in same]
    if changed:
        message += f" Left alone, since they were changed or removed later: {list_names(changed)}."
    return message


def _bring_back(image_set: SetFolder, done: Done) -> str:
    # A set may have been downloaded, history and all: its names never lead anywhere else.
    source = image_set.hidden / REMOVED / PurePosixPath(done.folder).name
    below = [part for part in PurePosixPath(done.picture).parent.parts if part not in ("..", "/")]
    target = Path(image_set.path, *below)
    name = PurePosixPath(done.picture).name
    returns = (source / name).exists()
    with disk_trouble():
        if done.made and not looks_like_mask(PurePosixPath(done.made).stem):
            raise UserError("The list of what can be undone is damaged.", "Nothing was changed.")
        if done.made:
            (target / PurePosixPath(done.made).name).unlink(missing_ok=True)
        for file in sorted(
            source.iterdir(), key=lambda path: path.suffix not in (".txt", FOCUS_SUFFIX)
        ):
            if not (target / file.name).exists():
                target.mkdir(parents=True, exist_ok=True)
                file.rename(target / file.name)
        shutil.rmtree(source, ignore_errors=True)
    return f"{display_name(name)} is back." if returns else f"Undone: {done.what}."
