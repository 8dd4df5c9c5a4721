"""Caption files of the page's own sets: read, and saved only over what was seen.

Two browsers may have one caption open. Each save says which version it was made from, and a save
over anything else is refused with both texts.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.files import disk_trouble
from app.tabs.images.imagesets import SetFolder, contents_of
from trainer.data.captions import MAX_CAPTION_BYTES, clean_caption, decode_caption
from trainer.data.names import display_name
from trainer.data.sidecars import read_start
from trainer.errors import UserError
from trainer.runs.atomic import write_text

NOTHING = "none"
_saving = threading.RLock()


@dataclass(frozen=True)
class Caption:
    """A caption as it lies on the disk.

    Attributes:
        text: "" where there is none.
        version: of the text; equal texts have equal versions.
    """

    text: str
    version: str


class CaptionConflict(Exception):
    """The caption on the disk is not the one that was edited.

    Attributes:
        saved: the one on the disk.
    """

    def __init__(self, saved: Caption) -> None:
        super().__init__("the caption was changed elsewhere")
        self.saved = saved


def version_of(text: str) -> str:
    """What tells versions of a caption apart."""
    cleaned = clean_caption(text)
    if not cleaned:
        return NOTHING
    return hashlib.sha256(cleaned.encode("utf-8", "surrogatepass")).hexdigest()[:16]


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


def read_caption(image_set: SetFolder, picture: str) -> Caption:
    """The caption of a picture of one of the page's own sets.

    Raises:
        UserError: the set has no such picture, or its caption cannot be read.
    """
    return _read(_caption_path(image_set, picture))


def save_caption(image_set: SetFolder, picture: str, text: str, version: str) -> Caption:
    """Save a caption, cleaned to one line; an empty one removes the file.

    Args:
        version: of the caption that the text was made from.

    Raises:
        CaptionConflict: there is another one by now.
        UserError: the set is not the page's own, has no such picture, or nothing can be saved.
    """
    path = _caption_path(image_set, picture)
    with saving():
        saved = _read(path)
        if saved.version not in (version, version_of(text)):
            raise CaptionConflict(saved)
        write_caption(path, text)
        return _read(path)


@contextmanager
def saving() -> Iterator[None]:
    """Held by whoever looks at captions in order to change them."""
    with _saving:
        yield


def write_caption(path: Path, text: str) -> None:
    """Write a caption file, or remove it for an empty text. The caller holds `saving`.

    Raises:
        UserError: nothing can be saved.
    """
    cleaned = clean_caption(text)
    with disk_trouble():
        if cleaned:
            write_text(path, f"{cleaned}\n")
        else:
            path.unlink(missing_ok=True)


def caption_paths(image_set: SetFolder) -> dict[str, Path]:
    """The caption file of each picture, there or not.

    Raises:
        UserError: the set is not the page's own.
    """
    _check_owned(image_set)
    return {file.name: file.path.with_suffix(".txt") for file in contents_of(image_set).pictures}


def read_captions(image_set: SetFolder) -> dict[str, str]:
    """All captions of one of the page's own sets, by picture; "" where there is none.

    Raises:
        UserError: as `read_caption`.
    """
    return {picture: _read(path).text for picture, path in caption_paths(image_set).items()}


def _caption_path(image_set: SetFolder, picture: str) -> Path:
    _check_owned(image_set)
    return picture_path(image_set, picture).with_suffix(".txt")


def _check_owned(image_set: SetFolder) -> None:
    if not image_set.owned:
        raise UserError(
            f"{image_set.shown} is read only: it came with Rarebit, or was put here by hand.",
            "Make a copy of it first.",
        )


def _read(path: Path) -> Caption:
    try:
        text = decode_caption(read_start(path, MAX_CAPTION_BYTES))
    except FileNotFoundError:
        return Caption("", NOTHING)
    except OSError as error:
        raise UserError(
            f"The caption {display_name(path.name)} cannot be read ({error.strerror}).",
            "Check that the file may be read, or delete it.",
        ) from error
    return Caption(text, version_of(text))
