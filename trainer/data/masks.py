"""Masks: which part of a picture counts in the loss. Never torch.

A mask is grey: white counts, black does not. It comes from the picture's own alpha channel, or
from a file: ``NAME.mask.png`` beside ``NAME.png`` (any kind of picture; ``NAME.png.mask.png`` too),
or a picture of the same name in a folder ``masks`` next to it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from trainer.config.schema import ImagesConfig
from trainer.data.buckets import CropPlan
from trainer.data.caption_files import PictureIndex
from trainer.data.findings import Finding, ImageProblem
from trainer.data.images import fit, load_alpha, load_grey, read_file
from trainer.data.names import list_names, matching_key
from trainer.data.scan import FolderContents, FoundFile

if TYPE_CHECKING:
    from trainer.data.sets import ImageEntry

_MARKS = (".mask",)
"""What a mask's name has between its picture's name and its own suffix."""
_FOLDERS = ("masks",)
"""Names of folders next to pictures, of masks with the pictures' names; in lower case."""
MAX_STRETCH = 0.02
"""How far a mask's aspect ratio may be off its picture's, relative."""


@dataclass(frozen=True)
class MaskFile:
    """The mask of a picture, and the SHA-256 of its bytes, in hex, when the set was read."""

    path: Path
    digest: str

    def read(self) -> bytes:
        """The file's bytes. Raises `ImageProblem` where it cannot be read, or was changed."""
        data = read_file(self.path)
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise ImageProblem(
                "The mask has been changed since the image set was read.",
                "Leave the files alone while training is prepared, and start again.",
            )
        return data


# ------------------------------------------------------------------------------ by name


def take_masks(contents: FolderContents) -> dict[str, FoundFile]:
    """Takes the masks out of a folder's pictures; gives them by the names of their pictures.

    ``a.mask.png`` (or ``a.png.mask.png``) is the mask of each picture ``a`` beside it. A folder
    ``masks`` holds masks where the name of one of its files is that of a picture next to the
    folder; otherwise it holds pictures. A mask without a picture is used for nothing, and named.
    """
    index = PictureIndex(contents.pictures)
    folders = {
        file.folder
        for file in contents.pictures
        if PurePosixPath(file.folder).name.casefold() in _FOLDERS and index.beside(_outside(file))
    }
    masks: dict[str, FoundFile] = {}
    pictures: list[FoundFile] = []
    orphans: list[str] = []
    for file in contents.pictures:
        mark = next((one for one in _MARKS if matching_key(file.stem).endswith(one)), "")
        if not mark and file.folder not in folders:
            pictures.append(file)
            continue
        owners = index.beside(file.stem[: -len(mark)] if mark else _outside(file))
        for picture in owners:
            masks.setdefault(picture.name, file)
        if not owners:
            orphans.append(file.shown)
    contents.pictures = pictures
    if orphans:
        message = "A mask, but no picture beside it has its name, so it is used for nothing."
        contents.findings.append(Finding(list_names(orphans), "warning", message))
    if masks:
        names = sorted({file.shown for file in masks.values()})
        message = 'Masks of pictures: used with images.masks = "files", and never trained on.'
        contents.findings.append(Finding(list_names(names), "note", message))
    return masks


def _outside(file: FoundFile) -> str:
    """The stem that the picture of a file in a folder of masks has."""
    path = PurePosixPath(file.stem)
    return (path.parent.parent / path.name).as_posix()


# ------------------------------------------------------------------------------ as numbers


def latent_mask(
    entry: ImageEntry, config: ImagesConfig, crop: CropPlan, flip: bool, factor: int
) -> np.ndarray | None:
    """How much each latent of a picture lies inside its mask.

    The mask is resized, cut and mirrored as the picture is, and averaged over the pixels of each
    latent.

    Args:
        factor: pixels for each latent along a side.

    Returns:
        (crop.height / factor, crop.width / factor) float32 in [0, 1]; None: no mask.

    Raises:
        ImageProblem: the mask is damaged, or has another shape than the picture.
    """
    mask = _load(entry, config)
    if mask is None:
        return None
    pixels = fit_mask(mask, crop, flip)
    rows, columns = crop.height // factor, crop.width // factor
    blocks = pixels.reshape(rows, factor, columns, factor)
    return blocks.mean(axis=(1, 3), dtype=np.float32) / np.float32(255)


def fit_mask(mask: Image.Image, crop: CropPlan, flip: bool) -> np.ndarray:
    """A mask as `trainer.data.images.fit` fits its picture: (height, width) uint8.

    Resized by area means, which never overshoot black or white as the picture's Lanczos may.
    """
    return fit(mask, crop, flip, Image.Resampling.BOX)


def mask_problem(entry: ImageEntry, config: ImagesConfig, crop: CropPlan) -> ImageProblem | None:
    """Why a picture can't be trained with its mask; None where it can."""
    try:
        mask = _load(entry, config)
    except ImageProblem as problem:
        return ImageProblem(f"Its mask can't be used. {problem.reason}", problem.hint)
    if mask is not None and not fit_mask(mask, crop, False).any():
        return ImageProblem(
            "Its mask is black all over the part that is trained on: nothing of it would count.",
            "Paint white what counts, or delete the mask.",
        )
    return None


def _load(entry: ImageEntry, config: ImagesConfig) -> Image.Image | None:
    if config.masks == "alpha":
        return load_alpha(entry.read())
    if config.masks == "none" or entry.mask is None:
        return None
    mask = load_grey(entry.mask.read())
    stretch = mask.width * entry.header.height / (mask.height * entry.header.width)
    if abs(stretch - 1) > MAX_STRETCH:
        raise ImageProblem(
            f"It is {mask.width} × {mask.height} pixels, and the picture {entry.header.width} × "
            f"{entry.header.height}: another shape.",
            "Make the mask from the picture itself, in its size.",
        )
    return mask
