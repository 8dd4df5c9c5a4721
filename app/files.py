"""Files that a browser sends, and what the disk says to keeping them."""

from __future__ import annotations

import errno
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, ListFiles
from gradio.utils import get_upload_folder

from trainer.errors import UserError


@dataclass(frozen=True)
class Upload:
    """A file that came from a browser.

    Attributes:
        path: where it lies; it is read, and left there.
        name: what it was called, without folders; never trusted.
    """

    path: Path
    name: str


def file_drop(**options: Any) -> gr.File:
    """A `gr.File` that gives its handler a list of `Upload`.

    Gradio's own gives paths only, with names that the server has changed. A subclass would do, but
    gradio writes a ``.pyi`` file beside the module of each one. Where gradio has made the component
    anew, as for any update of its properties, paths arrive after all: handlers take `as_uploads`
    of what they get.
    """
    drop = gr.File(**options)
    drop.preprocess = _uploads  # type: ignore[method-assign]
    return drop


def as_uploads(value: Sequence[Upload | str] | str | None) -> list[Upload]:
    """What a handler was given, as uploads, by whichever names are known.

    Raises:
        UserError: a path is not one of an uploaded file.
    """
    items = [value] if isinstance(value, str) else (value or [])
    return [
        item if isinstance(item, Upload) else _checked(Path(item), Path(item).name)
        for item in items
    ]


def _uploads(payload: ListFiles | FileData | None) -> list[Upload]:
    if payload is None:
        return []
    files = payload.root if isinstance(payload, ListFiles) else [payload]
    return [_checked(Path(file.path), Path(file.orig_name or file.path).name) for file in files]


def _checked(path: Path, name: str) -> Upload:
    """A request can name any path: gradio checks only some forms of file data."""
    if not path.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise UserError("That file was not uploaded.", "Drop it into the field.")
    return Upload(path.resolve(), name or path.name)


def forget(uploads: Sequence[Upload]) -> None:
    """Remove what the browser sent, now that it is stored or refused."""
    for upload in uploads:
        upload.path.unlink(missing_ok=True)


def move_new(source: Path, target: Path) -> None:
    """Moves a file to a name that is not taken; a rename alone would replace what has it.

    Raises:
        OSError: from the file system, and where it is taken.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def to_show(path: Path) -> str:
    """A copy of a picture where Gradio may serve it from, with all that is in the file.

    Raises:
        UserError: there is no room.
    """
    target = Path(get_upload_folder()) / "shown" / path.parent.name / path.name
    with disk_trouble():
        if not target.exists() or target.stat().st_mtime_ns != path.stat().st_mtime_ns:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    return str(target)


def slug(text: str, limit: int = 40) -> str:
    """Lower-case ASCII letters, digits and single dashes made from any text; may be empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:limit].strip("-")


@contextmanager
def disk_trouble() -> Iterator[None]:
    """What the file system refuses, as a sentence.

    Raises:
        UserError: for any `OSError` within.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"It could not be saved: {reason}.",
            "Free some space on the disk, or make the folder datasets writable, and try again.",
        ) from error
