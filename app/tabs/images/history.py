"""What was done to a set as a whole, kept beside it so that it can be undone after a reload."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from app.files import disk_trouble
from app.tabs.images.captionfiles import caption_paths, read_captions, saving, write_caption
from app.tabs.images.imagesets import SetFolder, contents_of
from trainer.data.names import display_name, list_names
from trainer.errors import UserError
from trainer.runs.atomic import temporary_name, write_json

KEPT = 20
REMOVED = "removed"
_FILE = "history.json"
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Entry:
    """One thing that can be undone.

    Attributes:
        what: in a few words.
        captions: before and after, by picture; empty for a removal.
        picture: the removed one, or "".
        folder: below the set's hidden folder, where what was removed lies.
    """

    what: str
    captions: dict[str, tuple[str, str]] = field(default_factory=dict)
    picture: str = ""
    folder: str = ""

    @classmethod
    def of_captions(cls, what: str, captions: dict[str, tuple[str, str]]) -> Entry:
        """A bulk edit."""
        return cls(what, captions)

    def as_json(self) -> dict[str, object]:
        """For the file."""
        captions = {name: list(pair) for name, pair in self.captions.items()}
        fields = {"what": self.what, "picture": self.picture, "folder": self.folder}
        return {**fields, "captions": captions}

    @classmethod
    def from_json(cls, value: object) -> Entry | None:
        """From the file; None for anything that this program did not write."""
        if not isinstance(value, dict):
            return None
        texts = [value.get(name) for name in ("what", "picture", "folder")]
        captions = value.get("captions")
        if not isinstance(captions, dict) or not all(isinstance(text, str) for text in texts):
            return None
        pairs = {
            str(name): (str(pair[0]), str(pair[1]))
            for name, pair in captions.items()
            if isinstance(pair, list) and len(pair) == 2
        }
        what, picture, folder = (str(text) for text in texts)
        return cls(what, pairs, picture, folder)


def entries(image_set: SetFolder) -> list[Entry]:
    """What can be undone, the latest last."""
    path = image_set.hidden / _FILE
    try:
        if path.stat().st_size > _MAX_BYTES:
            return []
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    read = [Entry.from_json(value) for value in found] if isinstance(found, list) else []
    return [entry for entry in read if entry is not None]


def remember(image_set: SetFolder, entry: Entry) -> None:
    """Note something that can be undone; what fell out of the list stays done.

    Raises:
        UserError: nothing can be saved.
    """
    _write(image_set, [*entries(image_set), entry][-KEPT:])


def _write(image_set: SetFolder, kept: list[Entry]) -> None:
    with disk_trouble():
        image_set.hidden.mkdir(parents=True, exist_ok=True)
        write_json(image_set.hidden / _FILE, [entry.as_json() for entry in kept])


def remove_picture(image_set: SetFolder, picture: str) -> None:
    """Take a picture and its caption out of a set, into a folder from which undo brings it back.

    Raises:
        UserError: the set is not the page's own, has no such picture, or nothing can be moved.
    """
    with saving(), disk_trouble():
        captions = caption_paths(image_set)
        path = next((f.path for f in contents_of(image_set).pictures if f.name == picture), None)
        if path is None or picture not in captions:
            shown = display_name(picture[:200])
            raise UserError(f"{image_set.shown} has no picture “{shown}”.", "Reload the page.")
        folder = temporary_name(image_set.hidden / REMOVED / "x").name.strip(".")
        target = image_set.hidden / REMOVED / folder
        target.mkdir(parents=True)
        entry = Entry(f"{PurePosixPath(picture).name} removed", {}, picture, folder)
        remember(image_set, replace(entry, what=display_name(entry.what)))
        for file in (captions[picture], path):
            if file.exists():
                file.rename(target / file.name)


def undo(image_set: SetFolder) -> str:
    """Undo the latest thing; gives a sentence about it.

    A caption that was changed since is left as it is, and named.

    Raises:
        UserError: there is nothing to undo, or nothing can be saved.
    """
    with saving():
        kept = entries(image_set)
        if not kept:
            raise UserError("There is nothing to undo.")
        entry = kept[-1]
        message = _bring_back(image_set, entry) if entry.picture else _restore(image_set, entry)
        _write(image_set, kept[:-1])
    return message


def _restore(image_set: SetFolder, entry: Entry) -> str:
    now, paths = read_captions(image_set), caption_paths(image_set)
    same = [name for name, (_, after) in entry.captions.items() if now.get(name) == after]
    for name in same:
        write_caption(paths[name], entry.captions[name][0])
    message = f"Undone in {len(same)} captions: {entry.what}."
    changed = [display_name(name) for name in entry.captions if name not in same]
    if changed:
        message += f" Left alone, since they were changed or removed later: {list_names(changed)}."
    return message


def _bring_back(image_set: SetFolder, entry: Entry) -> str:
    # Both come from our own file, yet a path is only ever made from plain names.
    source = image_set.hidden / REMOVED / PurePosixPath(entry.folder).name
    below = [part for part in PurePosixPath(entry.picture).parent.parts if part not in ("..", "/")]
    target = Path(image_set.path, *below)
    with disk_trouble():
        files = sorted(source.iterdir(), key=lambda path: path.suffix != ".txt")
        for file in files:
            if not (target / file.name).exists():
                target.mkdir(parents=True, exist_ok=True)
                file.rename(target / file.name)
        shutil.rmtree(source, ignore_errors=True)
    return f"{display_name(PurePosixPath(entry.picture).name)} is back."
