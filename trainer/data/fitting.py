"""Pictures and masks as training sees them: resized, cut, rotated and coloured by their plan."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance

from trainer.data.buckets import CropPlan


def fit(
    image: Image.Image,
    crop: CropPlan,
    flip: bool,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> np.ndarray:
    """Resize and crop a picture, and all else that ``crop`` says; mirror it if ``flip``.

    Args:
        image: mode RGB or L, upright, of the shape that ``crop`` was planned for. Colours of mode
            L, which are those of a mask, stay.

    Returns:
        (crop.height, crop.width, 3) uint8; without the last axis for mode L.
    """
    if crop.rotation:
        image = _rotated(image, crop.rotation)
    resized = image.resize((crop.resize_width, crop.resize_height), resampling)
    right, bottom = crop.left + crop.width, crop.top + crop.height
    cut = resized.crop((crop.left, crop.top, right, bottom))
    if image.mode == "RGB":
        cut = _coloured(cut, crop)
    pixels = np.array(cut, dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels


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
