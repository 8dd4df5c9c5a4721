"""The image sets on this machine: which there are, whose they are, and what is noted about them.

A set is a folder in ``datasets/``. Those that the page made have a hidden folder of their own, in
which the page keeps its notes; all others (the bundled ones, and folders that somebody put there)
are read and never written to.
"""

from __future__ import annotations

import itertools
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, TypeAdapter
from pydantic.dataclasses import dataclass

from app.files import disk_trouble, slug
from trainer import places
from trainer.data.names import display_name
from trainer.data.pairing import read_folder
from trainer.data.scan import FolderContents
from trainer.data.sets import MAX_IMAGES
from trainer.errors import UserError
from trainer.runs.atomic import publish_folder, temporary_name, write_bytes
from trainer.text import numbered

HIDDEN = ".rarebit"
MAX_TITLE = 80
MAX_WORD = 60
_NOTES = "set.json"
_naming = threading.Lock()


def _encodable(value: object) -> object:
    """A name with bytes that are no UTF-8 (lone surrogates) cannot be written: they are shown."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


_Text = Annotated[str, BeforeValidator(_encodable)]
_Title = Annotated[_Text, AfterValidator(lambda text: text[:MAX_TITLE])]
_Word = Annotated[_Text, AfterValidator(lambda text: text[:MAX_WORD])]


@dataclass(frozen=True)
class SetFolder:
    """An image set.

    Attributes:
        id: the folder's name, exactly as on disk: what the page and its API call the set.
        owned: the page made it, and may change it.
    """

    id: str
    path: Path
    owned: bool

    @property
    def shown(self) -> str:
        """The id, fit for showing."""
        return display_name(self.id)

    @property
    def hidden(self) -> Path:
        """Where the page keeps what belongs to the set and is no part of it."""
        return self.path / HIDDEN if self.owned else self.path.parent / HIDDEN / self.id

    def check_owned(self) -> None:
        """Raises `UserError` where the page may not write to it."""
        if not self.owned:
            raise UserError(
                f"{self.shown} is read only: it came with Rarebit, or was put here by hand.",
                "Make a copy of it first.",
            )


@dataclass(frozen=True)
class SetNotes:
    """What the page remembers of a set.

    Attributes:
        title: as somebody typed it.
        copied_from: id of the set that it is a copy of, or "".
        names: what uploaded pictures were called, by the name that they have now.
    """

    title: _Title = ""
    trigger: _Word = ""
    class_word: _Word = ""
    copied_from: _Text = ""
    names: dict[_Text, _Text] = field(default_factory=dict)


_notes = TypeAdapter(SetNotes)


def list_sets(root: Path) -> list[SetFolder]:
    """All image sets below a folder: the page's own first, each kind by name."""
    folders = [
        SetFolder(path.name, path, (path / HIDDEN / _NOTES).is_file())
        for path in (root.iterdir() if root.is_dir() else ())
        if path.name[0] not in "._" and path.is_dir()
    ]
    return sorted(folders, key=lambda one: (not one.owned, one.id))


def title_of(image_set: SetFolder) -> str:
    """What a set is called on the page."""
    return (read_notes(image_set).title if image_set.owned else "") or image_set.shown


def title_at(path: Path) -> str:
    """What the set in a folder is called on the page; else the folder's name."""
    folder = places.PROJECT / path
    return read_notes(SetFolder(path.name, folder, True)).title or path.name


def set_choices() -> list[tuple[str, str]]:
    """(title, id) of every image set on this machine, the page's own first."""
    return [(title_of(one), one.id) for one in list_sets(places.DATASETS)]


def free_title(root: Path, title: str) -> str:
    """A title that no set has yet: numbered where it is taken."""
    taken = {title_of(one).casefold() for one in list_sets(root)}
    names = itertools.chain([title], (f"{title} {number}" for number in itertools.count(2)))
    return next(name for name in names if name.casefold() not in taken)


_NO_NAME = re.compile(r"(?i)(?:img|dsc[nf]?|pxl|image|photo|screenshot)?[\W\d_]*")
"""What cameras and sorted folders call pictures: it names no set."""


def title_for(root: Path, stems: Iterable[str]) -> str:
    """A title that no set has, of what all files are called; with today's date where it is taken.

    Those of several files count without the numbers at their ends.
    """
    found = set(stems)
    found = found if len(found) == 1 else {stem.rstrip("0123456789-_. ()") for stem in found}
    title = display_name(found.pop()).strip()[: MAX_TITLE - 20]
    title = "pictures" if found or _NO_NAME.fullmatch(title) else title
    if free_title(root, title) == title:
        return title
    return free_title(root, f"{title} {time.strftime('%Y-%m-%d')}")


def rename_set(root: Path, image_set: SetFolder, title: str) -> None:
    """Call a set something else; its folder, which runs know, keeps its name.

    Raises:
        UserError: it is read only, the title is empty, or another set has it.
    """
    image_set.check_owned()
    title = title.strip()
    if not title:
        raise UserError("The new name is empty.", "Type one.")
    if title.casefold() == title_of(image_set).casefold() or title == free_title(root, title):
        write_notes(image_set, replace(read_notes(image_set), title=title))
        return
    raise UserError(f"Another image set is called “{title}”.", "Choose another name.")


def delete_set(image_set: SetFolder) -> None:
    """Remove a set's folder, with all its pictures and captions.

    Raises:
        UserError: it is read only, or cannot be removed.
    """
    image_set.check_owned()
    doomed = temporary_name(image_set.path)
    with disk_trouble():
        image_set.path.rename(doomed)  # gone from every list at once, whatever happens below
        shutil.rmtree(doomed)


def subjects_in(image_set: SetFolder) -> list[Path]:
    """Its folder; of a set without pictures of its own, the folders in it that have some."""
    contents = contents_of(image_set)
    folders = {file.path.parent for file in contents.pictures}
    inner = folders and image_set.path not in folders and not contents.tables
    return sorted(folders) if inner and len(folders) > 1 else [image_set.path]


def find_set(root: Path, set_id: str) -> SetFolder:
    """The set of an id. The id is compared, never made part of a path.

    Raises:
        UserError: there is none.
    """
    for one in list_sets(root):
        if one.id == set_id:
            return one
    raise UserError(
        f"There is no image set “{display_name(set_id[:MAX_TITLE])}” on this machine.",
        "Choose one from the list, or upload pictures.",
    )


def read_notes(image_set: SetFolder) -> SetNotes:
    """What is noted about a set; what cannot be read counts as not noted."""
    try:
        return _notes.validate_json((image_set.hidden / _NOTES).read_bytes())
    except (OSError, ValueError):
        return SetNotes()


def write_notes(image_set: SetFolder, notes: SetNotes) -> None:
    """Remember what is noted about a set.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    with disk_trouble():
        _write_notes(image_set.hidden, notes)


def _write_notes(hidden: Path, notes: SetNotes) -> None:
    hidden.mkdir(parents=True, exist_ok=True)
    write_bytes(hidden / _NOTES, _notes.dump_json(notes, indent=1))


def make_set(root: Path, title: str, fill: Callable[[Path], SetNotes]) -> SetFolder:
    """Make a set, which appears when it is whole; its id is the title's slug, numbered if taken.

    Args:
        fill: writes the pictures into an empty folder, and gives the set's notes. When it raises,
            nothing is left.
    """
    root.mkdir(parents=True, exist_ok=True)
    building = temporary_name(root / "set")
    building.mkdir()
    try:
        _write_notes(building / HIDDEN, fill(building))
        with _naming:
            taken = {path.name.casefold() for path in root.iterdir()}
            names = numbered(slug(title) or "pictures")
            final = root / next(name for name in names if name not in taken)
            publish_folder(building, final)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return SetFolder(final.name, final, owned=True)


def contents_of(image_set: SetFolder) -> FolderContents:
    """The files of a set, sorted by kind; none is opened.

    Raises:
        UserError: it holds far too much.
    """
    return read_folder(image_set.path, MAX_IMAGES)


def picture_path(image_set: SetFolder, picture: str) -> Path:
    """Where a picture lies. The name is compared with those of the set, never made a path.

    Raises:
        UserError: the set has no such picture.
    """
    for file in contents_of(image_set).pictures:
        if file.name == picture:
            return file.path
    raise UserError(
        f"{image_set.shown} has no picture “{display_name(picture[:200])}”.",
        "It may have been removed in another tab: choose the image set again.",
    )
