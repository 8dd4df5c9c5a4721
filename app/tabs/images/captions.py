"""Captions of the page's own sets: read, and saved only over what was seen.

Two browsers may have one caption open. Each save says which version it was made from, and a save
over anything else is refused with both texts.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from app.files import disk_trouble
from app.tabs.images.imagesets import SetFolder, contents_of, find_set, picture_path, read_notes
from app.tabs.images.setview import SetView, look_at
from app.tabs.images.storage import copy_set
from trainer import places
from trainer.data.caption_files import read_start
from trainer.data.captions import MAX_CAPTION_BYTES, clean_lines, decode_caption
from trainer.data.names import display_name
from trainer.errors import UserError
from trainer.runs.atomic import write_text

NOTHING = "none"
saving = threading.RLock()
"""Held by whoever looks at a set in order to change it."""
ONE_CHOICE = 2.0
"""Seconds in which a list tells one choice once more."""


class CaptionConflict(Exception):
    """The caption on the disk, `saved`, is not the one that was edited."""

    def __init__(self, saved: str) -> None:
        super().__init__("the caption was changed elsewhere")
        self.saved = saved


def version_of(text: str) -> str:
    """What tells versions of a caption apart; equal texts have equal ones, `NOTHING` if empty."""
    cleaned = clean_lines(text)
    data = cleaned.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:16] if cleaned else NOTHING


def read_caption(image_set: SetFolder, picture: str) -> str:
    """The caption of a picture of one of the page's own sets; "" where there is none.

    Raises:
        UserError: the set has no such picture, or its caption cannot be read.
    """
    return _read(_caption_path(image_set, picture))


def read_captions(image_set: SetFolder, suffix: str = ".txt") -> dict[str, str]:
    """All captions of one of the page's own sets, by picture; "" where there is none.

    Args:
        suffix: of another kind of short texts beside pictures.

    Raises:
        UserError: as `read_caption`.
    """
    return {picture: _read(path) for picture, path in caption_paths(image_set, suffix).items()}


def captions_of(view: SetView) -> dict[str, str]:
    """The captions of the pictures that can be used."""
    if view.folder.owned:
        usable = {one.name for one in view.pictures if one.entry}
        captions = read_captions(view.folder)
        return {name: text for name, text in captions.items() if name in usable}
    return {one.name: one.caption for one in view.pictures if one.entry}


def save_caption(image_set: SetFolder, picture: str, text: str, version: str) -> str:
    """Save a caption, its lines cleaned; an empty one removes the file. Gives what was saved.

    Args:
        version: of the caption that the text was made from.

    Raises:
        CaptionConflict: there is another one by now.
        UserError: the set is not the page's own, has no such picture, or nothing can be saved.
    """
    path = _caption_path(image_set, picture)
    with saving:
        saved = _read(path)
        if version_of(saved) not in (version, version_of(text)):
            raise CaptionConflict(saved)
        write_caption(path, text)
    return clean_lines(text)


def write_caption(path: Path, text: str) -> None:
    """Write a caption file, or remove it for an empty text. The caller holds `saving`.

    Raises:
        UserError: nothing can be saved.
    """
    cleaned = clean_lines(text)
    with disk_trouble():
        if cleaned:
            write_text(path, f"{cleaned}\n")
        else:
            path.unlink(missing_ok=True)


def caption_paths(image_set: SetFolder, suffix: str = ".txt") -> dict[str, Path]:
    """The caption file of each picture, there or not; or that with another suffix.

    Raises:
        UserError: the set is not the page's own.
    """
    image_set.check_owned()
    return {file.name: file.path.with_suffix(suffix) for file in contents_of(image_set).pictures}


def _caption_path(image_set: SetFolder, picture: str) -> Path:
    image_set.check_owned()
    return picture_path(image_set, picture).with_suffix(".txt")


def _read(path: Path) -> str:
    try:
        return decode_caption(read_start(path, MAX_CAPTION_BYTES))
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(
            f"The caption {display_name(path.name)} cannot be read ({error.strerror}).",
            "Check that the file may be read, or delete it.",
        ) from error


@dataclass(frozen=True)
class Outcome:
    """What became of a save.

    Attributes:
        image_set, picture: where the caption lies now: in a copy, if the set was read only.
        saved: the caption on the disk; in a conflict that of the other tab.
        copied: the copy was made for this save.
    """

    state: Literal["saved", "unchanged", "late", "conflict"]
    image_set: SetFolder
    picture: str
    saved: str = ""
    copied: bool = False


@dataclass
class CaptionSession:
    """What one browser tab has seen of captions, and what follows from it when it saves.

    The text and the picture that it belongs to come from the browser in one request; which version
    it was made from is remembered here. Requests carry a rising number, so that a late one never
    replaces a newer one.

    Attributes:
        versions: of captions, by set and picture.
        stamps: the number of the latest request about a picture.
        copies: the copy that was made of a read-only set, by the set's id.
        choice: of a set, the one that was open then, and when, in seconds.
        seen: set and picture of the caption that was shown last.
    """

    versions: dict[tuple[str, str], str] = field(default_factory=dict)
    stamps: dict[tuple[str, str], float] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    choice: tuple[str, str, float] = ("", "", 0.0)
    seen: tuple[str, str] = ("", "")

    def is_told_again(self, set_id: str, opened: str) -> bool:
        """Whether a choice is the one that was told just now: a list of gradio's tells each twice.

        The late answer of the second would close a picture that was clicked meanwhile.
        """
        with saving:
            before, self.choice = self.choice, (set_id, opened, time.monotonic())
        return before[:2] == self.choice[:2] and self.choice[2] - before[2] < ONE_CHOICE

    def opened(self, image_set: SetFolder) -> None:
        """A set was chosen: edits of it are meant for it, and not for a copy made earlier."""
        self.copies.pop(image_set.id, None)

    def see(self, image_set: SetFolder, picture: str, caption: str) -> None:
        """A caption was shown."""
        self.seen = image_set.id, picture
        self.versions[image_set.id, picture] = version_of(caption)

    def save(
        self, root: Path, set_id: str, picture: str, text: str, loaded: str, stamp: float
    ) -> Outcome:
        """Save what was typed, unless the caption was changed elsewhere.

        Args:
            loaded: the caption that was shown before typing; it counts where this tab's past is
                forgotten, as after a restart of the server.
            stamp: the request's number; 0 for none.

        Raises:
            UserError: there is no such set or picture, or nothing can be saved.
        """
        with saving:
            image_set, picture = self._follow(root, set_id, picture)
            if stamp and stamp <= self.stamps.get((image_set.id, picture), 0):
                return Outcome("late", image_set, picture)
            self.stamps[image_set.id, picture] = stamp
            known = self.versions.get((image_set.id, picture), version_of(loaded))
            if version_of(text) == known:
                return Outcome("unchanged", image_set, picture, text)
            copied = not image_set.owned
            if copied:
                image_set, picture = self.copy(root, image_set, picture)
                known = version_of(read_caption(image_set, picture))
                self.stamps[image_set.id, picture] = stamp
            return self._write(image_set, picture, text, known, copied)

    def overwrite(self, root: Path, set_id: str, picture: str, text: str) -> Outcome:
        """Save over whatever is there: somebody has seen both and chosen.

        Raises:
            UserError: as `save`.
        """
        with saving:
            image_set = find_set(root, set_id)
            known = version_of(read_caption(image_set, picture))
            return self._write(image_set, picture, text, known, copied=False)

    def _write(
        self, image_set: SetFolder, picture: str, text: str, known: str, copied: bool
    ) -> Outcome:
        try:
            saved = save_caption(image_set, picture, text, known)
        except CaptionConflict as conflict:
            return Outcome("conflict", image_set, picture, conflict.saved)
        self.see(image_set, picture, saved)
        return Outcome("saved", image_set, picture, saved, copied)

    def copy(self, root: Path, image_set: SetFolder, picture: str = "") -> tuple[SetFolder, str]:
        """A copy of a read-only set to write to, made once; and a picture's name in it.

        Raises:
            UserError: nothing in it can be used, or there is no room.
        """
        with saving:
            if image_set.id not in self.copies:
                self.copies[image_set.id] = copy_set(root, image_set).id
            return self._follow(root, image_set.id, picture)

    def _follow(self, root: Path, set_id: str, picture: str) -> tuple[SetFolder, str]:
        """The set to write to: a request that was under way while it was copied means the copy."""
        copy_id = self.copies.get(set_id)
        if copy_id is None:
            return find_set(root, set_id), picture
        try:
            image_set = find_set(root, copy_id)
        except UserError:  # it was deleted: the next edit makes another
            del self.copies[set_id]
            return find_set(root, set_id), picture
        names = {old: new for new, old in read_notes(image_set).names.items()}
        return image_set, names.get(picture, picture)


@dataclass(frozen=True)
class Typed:
    """A caption as it stands in the browser.

    Attributes:
        opened: id of the open set.
        picture: name of the open picture, or "".
        text: the caption's field.
        loaded: the caption that was shown before typing.
        base: the base model.
        listed: names of the pictures that are shown beside each other.
        stamp: the request's number, which rises; 0 for none.
    """

    opened: str
    picture: str
    text: str
    loaded: str
    session: CaptionSession
    base: str
    listed: list[str]
    stamp: float = 0

    @property
    def view(self) -> SetView:
        """The set as it is now."""
        return look_at(find_set(places.DATASETS, self.opened), self.base)
