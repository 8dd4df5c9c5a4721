"""Pictures and masks as training sees them, and which part counts in the loss. Never torch.

A mask is grey: white counts, black does not. It comes from the picture's own alpha channel, or
from a file that `trainer.data.pairing` finds by its name.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance

from trainer.config.schema import ImagesConfig
from trainer.data.buckets import WHOLE, CropPlan, Focus, pixels_of
from trainer.data.findings import ImageProblem
from trainer.data.images import load_alpha, load_grey, read_file

if TYPE_CHECKING:
    from trainer.data.sets import ImageEntry


def fit(
    image: Image.Image,
    crop: CropPlan,
    flip: bool,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> np.ndarray:
    """Resize and crop a picture, and all else that ``crop`` says; mirror it if ``flip``.

    Args:
        image: mode RGB or L, upright and whole, that ``crop`` was planned for. Colours of mode L,
            which are those of a mask, stay.

    Returns:
        (crop.height, crop.width, 3) uint8; without the last axis for mode L.
    """
    image = seen(image, crop)
    if crop.rotation:
        image = _rotated(image, crop.rotation)
    resized = image.resize((crop.resize_width, crop.resize_height), resampling)
    right, bottom = crop.left + crop.width, crop.top + crop.height
    cut = resized.crop((crop.left, crop.top, right, bottom))
    if image.mode == "RGB":
        cut = _coloured(cut, crop)
    pixels = np.array(cut, dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels


_TURNS = (
    None,
    Image.Transpose.ROTATE_270,  # anticlockwise
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_90,
)


def seen(image: Image.Image, view: CropPlan | Focus, *, whole: bool = False) -> Image.Image:
    """A picture turned, mirrored and cut to a box as it is seen; ``whole``: not cut."""
    turn = _TURNS[view.turns % 4]
    image = image if turn is None else image.transpose(turn)
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.mirrored else image
    if whole or view.box == WHOLE:
        return image
    return image.crop(pixels_of(view.box, *image.size))


def _rotated(image: Image.Image, degrees: float) -> Image.Image:
    """Rotated about its middle, and cut to the largest part of its shape without empty corners."""
    width, height = image.size
    across, down = (
        (
            length * abs(math.cos(math.radians(degrees))),
            other * abs(math.sin(math.radians(degrees))),
        )
        for length, other in ((width, height), (height, width))
    )
    share = min(width / sum(across), height / sum(down))
    left, top = width * (1 - share) / 2, height * (1 - share) / 2
    turned = image.rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop((math.ceil(left), math.ceil(top), int(width - left), int(height - top)))


def _coloured(image: Image.Image, crop: CropPlan) -> Image.Image:
    if crop.brightness != 1:
        image = ImageEnhance.Brightness(image).enhance(crop.brightness)
    if crop.hue:
        hue, saturation, value = image.convert("HSV").split()
        shift = round(crop.hue / 360 * 256)
        hue = hue.point([(level + shift) % 256 for level in range(256)])
        image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    return image


MAX_STRETCH = 0.02  # how far a mask's aspect ratio may be off its picture's, relative


@dataclass(frozen=True)
class MaskFile:
    """The mask of a picture."""

    path: Path
    digest: str  # SHA-256 of its bytes, in hex, when the set was read
    name: str  # fit for showing: below the set's folder

    def read(self) -> bytes:
        """The file's bytes. Raises `ImageProblem` where it cannot be read, or was changed."""
        try:
            data = read_file(self.path)
        except ImageProblem as problem:
            raise ImageProblem(f"{self.name}: {problem.reason}", problem.hint) from problem
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise ImageProblem(
                f"{self.name}: The mask has been changed since the image set was read.",
                "Put it back as it was, and go on.",
            )
        return data


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
    """A mask as `fit` fits its picture: (height, width) uint8.

    Resized by area means, which never overshoot black or white as the picture's Lanczos may.
    """
    return fit(mask, crop, flip, Image.Resampling.BOX)


def read_mask(entry: ImageEntry, config: ImagesConfig, crop: CropPlan) -> np.ndarray | None:
    """(height, width) uint8, as it counts in training; None where the picture has none.

    Raises:
        ImageProblem: it is damaged, or has another shape than the picture.
    """
    mask = _load(entry, config)
    return None if mask is None else fit_mask(mask, crop, False)


def judge_mask(
    entry: ImageEntry, config: ImagesConfig, crop: CropPlan
) -> ImageProblem | tuple[str, ...]:
    """What is to be said of a picture's mask, if anything; a problem where it can't be used."""
    try:
        mask = _load(entry, config)
    except ImageProblem as problem:
        return ImageProblem(f"Its mask can't be used. {problem.reason}", problem.hint)
    if mask is None:
        return ()
    pixels = fit_mask(mask, crop, False)
    if not pixels.any():
        return ImageProblem(
            "Its mask is black all over the part that is trained on: nothing of it would count.",
            "Paint white what counts, or delete the mask.",
        )
    said = {
        READ_AS[mask.info.get("read", "")]: "read" in mask.info,
        FAINT: pixels.max() <= _FAINT or pixels.mean() <= _FEW,
        ALL_WHITE: pixels.min() == 255,
    }
    return tuple(message for message, holds in said.items() if holds)


_DARK, _FAINT = 127, 63  # levels of 255
_FEW = 0.003 * 255  # the mean of a mask: 28 × 28 of 512 × 512 pixels in white
READ_AS = {
    "": "",
    "levels": "Its mask has black and one dark level, as scripts save 0 and 1 or the colours of "
    "classes: that level counts as white. Save masks in black and white if that is not meant.",
    "alpha": "Its mask is black, with a shape in its transparency: what is opaque counts. Save "
    "masks in black and white if that is not meant.",
}
FAINT = (
    "Its mask lets nearly nothing of it count: what is white is very small, or all of it is dark. "
    "Paint white what counts, or delete the mask."
)
ALL_WHITE = (
    "All masks let everything count (they are white all over, or opaque), so they change nothing. "
    "Paint black what is not to count."
)


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
    levels = [level for level, count in enumerate(mask.histogram()) if count]
    if len(levels) == 2 and levels[0] == 0 and levels[1] <= _DARK:
        mask = mask.point([0] + [255] * 255)
        mask.info["read"] = "levels"
    return mask
