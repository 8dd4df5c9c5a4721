"""The image sets on this machine: which there are, whose they are, and what is noted about them.

A set is a folder in ``datasets/``. Those that the page made have a hidden folder of their own, in
which the page keeps its notes; all others (the bundled ones, and folders that somebody put there)
are read and never written to.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from app.files import disk_trouble, slug
from trainer.data.folders import FolderContents, look_into
from trainer.data.images import Inspection, inspect_image
from trainer.data.names import display_name
from trainer.data.sets import MAX_IMAGES, ImageSet, Progress, scan_image_set
from trainer.errors import UserError
from trainer.runs.atomic import building_folder, write_json

HIDDEN = ".rarebit"
MAX_TITLE = 80
MAX_WORD = 60

_NOTES = "set.json"
_MAX_NOTES_BYTES = 16 << 20

_naming = threading.Lock()
_reserved: set[Path] = set()


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


@dataclass(frozen=True)
class SetNotes:
    """What the page remembers of a set.

    Attributes:
        title: as somebody typed it.
        copied_from: id of the set that it is a copy of, or "".
        names: what uploaded pictures were called, by the name that they have now.
    """

    title: str = ""
    trigger: str = ""
    class_word: str = ""
    copied_from: str = ""
    names: dict[str, str] = field(default_factory=dict)


def list_sets(root: Path) -> list[SetFolder]:
    """All image sets below a folder: the page's own first, each kind by name."""
    folders = [
        SetFolder(path.name, path, (path / HIDDEN / _NOTES).is_file())
        for path in (root.iterdir() if root.is_dir() else ())
        if path.name[0] not in "._" and path.is_dir()
    ]
    return sorted(folders, key=lambda one: (not one.owned, one.id))


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
        path = image_set.hidden / _NOTES
        if path.stat().st_size > _MAX_NOTES_BYTES:
            return SetNotes()
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return SetNotes()
    if not isinstance(found, dict):
        return SetNotes()
    names = found.get("names")
    texts = {key: value for key, value in found.items() if isinstance(value, str)}
    return SetNotes(
        texts.get("title", "")[:MAX_TITLE],
        texts.get("trigger", "")[:MAX_WORD],
        texts.get("class_word", "")[:MAX_WORD],
        texts.get("copied_from", ""),
        {key: value for key, value in names.items() if isinstance(value, str)}
        if isinstance(names, dict)
        else {},
    )


def write_notes(image_set: SetFolder, notes: SetNotes) -> None:
    """Remember what is noted about a set.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    with disk_trouble():
        image_set.hidden.mkdir(parents=True, exist_ok=True)
        write_json(image_set.hidden / _NOTES, _encodable(asdict(notes)))


def _encodable(value: object) -> object:
    """Names with bytes that are no UTF-8 (lone surrogates) cannot be written: made visible."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value


@contextmanager
def new_set(root: Path, title: str) -> Iterator[tuple[Path, SetFolder]]:
    """Gives an empty folder to fill, and the set that it becomes on leaving.

    When the block raises, nothing is left. The id is made from the title, numbered if taken.
    """
    root.mkdir(parents=True, exist_ok=True)
    final = _reserve(root, slug(title) or "pictures")
    try:
        with building_folder(final) as folder:
            (folder / HIDDEN).mkdir()
            write_new_notes(folder, SetNotes(title=title[:MAX_TITLE]))
            yield folder, SetFolder(final.name, final, owned=True)
    finally:
        _reserved.discard(final)


def write_new_notes(folder: Path, notes: SetNotes) -> None:
    """The notes of a set that is still being made, in the folder that `new_set` gave."""
    write_json(folder / HIDDEN / _NOTES, _encodable(asdict(notes)))


def _reserve(root: Path, stem: str) -> Path:
    """A folder's name that nobody has, or is about to have."""
    with _naming:
        taken = {path.name.casefold() for path in root.iterdir()}
        number = 1
        while (name := stem if number == 1 else f"{stem}-{number}") in taken or (
            root / name in _reserved
        ):
            number += 1
        _reserved.add(root / name)
        return root / name


def contents_of(image_set: SetFolder) -> FolderContents:
    """The files of a set, sorted by kind; none is opened.

    Raises:
        UserError: it holds far too much.
    """
    return look_into(image_set.path, MAX_IMAGES)


def scan(image_set: SetFolder, progress: Progress | None = None) -> ImageSet:
    """Read a set as training does; pictures that have not changed are not decoded again.

    Raises:
        UserError: nothing in it can be used.
    """
    return scan_image_set(image_set.path, progress=progress, inspect=_inspect_once)


def _inspect_once(path: Path) -> Inspection:
    with suppress(OSError, ValueError):
        status = path.stat()
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        return _inspect(path, identity)
    return inspect_image(path)


@lru_cache(maxsize=20_000)
def _inspect(path: Path, identity: tuple[int, ...]) -> Inspection:
    return inspect_image(path)
