"""The gallery's pictures: our thumbnails, where the page may serve them from."""

from __future__ import annotations

from pathlib import Path

from gradio.utils import get_upload_folder

from app.files import disk_trouble
from app.tabs.images.setview import PictureView, SetView
from app.tabs.images.thumbnails import make_thumbnails

_MARKS = {"error": "✕ ", "warning": "! "}


def thumbnails(pictures: list[PictureView]) -> list[Path]:
    """The files of thumbnails, made where they are not there yet.

    Raises:
        UserError: the disk is full.
    """
    with disk_trouble():
        folder = Path(get_upload_folder()) / "thumbnails"
        return make_thumbnails([picture.wanted() for picture in pictures], folder)


def labelled(view: SetView) -> list[tuple[str, str]]:
    """All pictures with their names, those with doubts marked."""
    files = thumbnails(list(view.pictures))
    labels = [_MARKS.get(picture.severity or "", "") + picture.shown for picture in view.pictures]
    return [(str(file), label) for file, label in zip(files, labels, strict=True)]
