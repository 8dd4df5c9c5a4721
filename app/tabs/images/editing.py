"""What one browser tab has seen of captions, and what follows from it when it saves.

The text and the picture that it belongs to come from the browser in one request; which version it
was made from is kept here. Requests carry a rising number, so that a late one never replaces a
newer one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from app.tabs.images.captionfiles import (
    CaptionConflict,
    read_caption,
    save_caption,
    saving,
    version_of,
)
from app.tabs.images.captions_edit import Edit
from app.tabs.images.imagesets import SetFolder, find_set, read_notes
from app.tabs.images.storage import copy_set
from trainer.errors import UserError

SaveState = Literal["saved", "unchanged", "late", "conflict"]


@dataclass(frozen=True)
class Outcome:
    """What became of a save.

    Attributes:
        image_set, picture: where the caption lies now: in a copy, if the set was read only.
        saved: the caption on the disk; in a conflict that of the other tab.
        copied: the copy was made for this save.
    """

    state: SaveState
    image_set: SetFolder
    picture: str
    saved: str = ""
    copied: bool = False


@dataclass(frozen=True)
class Preview:
    """An edit of all captions as it was shown: of which set, and from which captions."""

    set_id: str
    edit: Edit
    seen: dict[str, str]


@dataclass
class Session:
    """What one tab has seen.

    Attributes:
        versions: of captions, by set and picture.
        stamps: the number of the latest request about a picture.
        copies: the copy that was made of a read-only set, by the set's id.
        preview: the latest one of an edit of all captions.
    """

    versions: dict[tuple[str, str], str] = field(default_factory=dict)
    stamps: dict[tuple[str, str], float] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    preview: Preview | None = None

    def opened(self, image_set: SetFolder) -> None:
        """A set was chosen: edits of it are meant for it, and not for a copy made earlier."""
        self.copies.pop(image_set.id, None)

    def see(self, image_set: SetFolder, picture: str, caption: str) -> None:
        """A caption was shown."""
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
        with saving():
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
                known = read_caption(image_set, picture).version
                self.stamps[image_set.id, picture] = stamp
            return self._write(image_set, picture, text, known, copied)

    def _write(
        self, image_set: SetFolder, picture: str, text: str, known: str, copied: bool
    ) -> Outcome:
        try:
            saved = save_caption(image_set, picture, text, known)
        except CaptionConflict as conflict:
            return Outcome("conflict", image_set, picture, conflict.saved.text)
        self.versions[image_set.id, picture] = saved.version
        return Outcome("saved", image_set, picture, saved.text, copied)

    def overwrite(self, root: Path, set_id: str, picture: str, text: str) -> Outcome:
        """Save over whatever is there: somebody has seen both and chosen.

        Raises:
            UserError: as `save`.
        """
        with saving():
            image_set = find_set(root, set_id)
            known = read_caption(image_set, picture).version
            return self._write(image_set, picture, text, known, copied=False)

    def copy(self, root: Path, image_set: SetFolder, picture: str = "") -> tuple[SetFolder, str]:
        """A copy of a read-only set to write to, made once; and a picture's name in it.

        Raises:
            UserError: nothing in it can be used, or there is no room.
        """
        with saving():
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
