"""The field that files are dropped into, which also tells what they were called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, ListFiles
from gradio.utils import get_upload_folder

from app.tabs.images.uploads import Upload
from trainer.errors import UserError


def file_drop(**options: Any) -> gr.File:
    """A `gr.File` that gives its handler a list of `app.tabs.images.uploads.Upload`.

    Gradio's own gives the paths only, whose names the server has made tame; this one also tells
    the names as the browser sent them. A subclass would do, but gradio writes a ``.pyi`` file
    beside the module of each one. Where gradio has made the component anew, as for any update of
    its properties, paths arrive after all: handlers take `as_uploads` of what they get.
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
    return [_upload(file) for file in files]


def _upload(file: FileData) -> Upload:
    path = Path(file.path)
    return _checked(path, Path(file.orig_name or path.name).name or path.name)


def _checked(path: Path, name: str) -> Upload:
    if not path.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise UserError("That file was not uploaded.", "Drop it into the field.")
    return Upload(path.resolve(), name)


def forget(uploads: list[Upload]) -> None:
    """Remove what the browser sent, now that it is stored or refused."""
    for upload in uploads:
        upload.path.unlink(missing_ok=True)
