"""Versions of a picture: other crops, rotations and colours. Never torch.

A version is the picture with another `CropPlan`: its latents, its mask and what SDXL is conditioned
on follow from that. Which one is trained is a pure function of seed, step and picture; what it is
like is one of seed, picture and its number. So each version is encoded once, and cached.
"""

from __future__ import annotations

from dataclasses import replace

from trainer.config.schema import ImagesConfig
from trainer.data.buckets import CropPlan
from trainer.data.masks import mask_problem
from trainer.data.sets import Picture
from trainer.seeds import derive_seed, derive_uniform


def variants_of(picture: Picture, images: ImagesConfig, seed: int) -> list[Picture]:
    """All versions of a picture, the picture as it is first.

    A version of which a mask lets nothing count is left as the picture is.
    """
    found = [picture]
    for number in range(1, images.variant_count):
        crop = _variant(picture, images, (seed, picture.entry.id, number))
        usable = images.masks == "none" or mask_problem(picture.entry, images, crop) is None
        found.append(replace(picture, crop=crop) if usable else picture)
    return found


def variant_choice(seed: int, step: int, image_id: str, count: int) -> int:
    """Which of so many versions of a picture is shown at a step."""
    return derive_seed(seed, "variant", step, image_id) % count


def _variant(picture: Picture, images: ImagesConfig, purpose: tuple[int, str, int]) -> CropPlan:
    def drawn(name: str, most: float) -> float:
        """Uniform from ``-most`` to ``most``."""
        return most * (2 * derive_uniform(*purpose, name) - 1)

    crop = picture.crop
    if images.random_crop:
        crop = _other_crop(picture, 1 - abs(drawn("size", images.random_crop)), purpose)
    return replace(
        crop,
        rotation=drawn("rotation", images.rotation),
        brightness=1 + drawn("brightness", images.brightness),
        hue=drawn("hue", images.hue),
    )


def _other_crop(picture: Picture, share: float, purpose: tuple[int, str, int]) -> CropPlan:
    """A cut of at least a share of what is cut now, anywhere; never enlarged for it."""
    crop, header = picture.crop, picture.entry.header
    factor = min(1 / share, max(1.0, header.width / crop.resize_width))
    width, height = round(crop.resize_width * factor), round(crop.resize_height * factor)
    return replace(
        crop,
        resize_width=width,
        resize_height=height,
        left=round(derive_uniform(*purpose, "left") * (width - crop.width)),
        top=round(derive_uniform(*purpose, "top") * (height - crop.height)),
    )
