"""The section of the configuration about pictures: which, how they are fitted and varied."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from trainer.config.section import FilePath, PictureSide, Probability, Section, Several, field

_MASKED = {"images.masks": ("alpha", "files")}
_VARIANTS = 8  # versions of a picture, where something is random and nothing else is said


class ImagesConfig(Section, title="Pictures"):
    """The pictures and how they are fitted."""

    path: FilePath = field(
        Path(), title="Image set", flag="--images DIR", resume=True, private=True, place=True
    )
    """Image set: a folder of pictures (flat, nested, or kohya's N_name folders), or a folder with
    metadata.jsonl, metadata.csv or a parquet table. Never written to."""
    resolution: PictureSide | None = field(None, flag="--resolution PX", memory=True)
    """How large pictures are in training: the side of a square in pixels; other shapes get the same
    area. A multiple of 64 (of 32 for the built-in model). Empty: the base model's own."""
    resolutions: Several[PictureSide] = field((), title="Several resolutions", memory=True)
    """Train every picture at each of these resolutions in turn, such as [512, 768]: in an epoch
    each picture comes up once at each. images.resolution is then one of them (empty: the largest),
    and previews and measuring go by it. Empty: images.resolution alone."""
    buckets: bool = field(True, title="Keep the pictures' shapes (buckets)", memory=True)
    """Fit each picture to the nearest of several shapes of the same area. Off: everything is cut to
    a square."""
    upscale: bool = field(False, title="Enlarge small pictures")
    """Enlarge pictures that are smaller than their bucket. Off: they train in a smaller bucket,
    since enlarging teaches blur."""
    flip: bool = field(False, title="Mirror half of the time")
    """Show each picture mirrored half of the time. Not for faces, text or anything whose left and
    right differ."""
    random_crop: float = field(0.0, title="Random crops", ge=0.0, le=0.5)
    """Cut other parts out of the pictures: up to this share of each side is left out at random. 0
    to 0.5. Nothing is enlarged for it, so it wants pictures larger than the resolution."""
    rotation: float = field(0.0, title="Random rotation, in degrees", ge=0.0, le=45.0)
    """Turn the pictures at random by up to so many degrees to either side; corners that become
    empty are cut off. A few degrees are enough."""
    brightness: float = field(0.0, title="Random brightness", ge=0.0, lt=1.0)
    """Make the pictures darker or brighter at random by up to this share, so that the light of the
    set is not learned. 0 to below 1; 0.1 to 0.2 is enough."""
    hue: float = field(0.0, title="Random hue, in degrees", ge=0.0, le=180.0)
    """Turn the colours of the pictures at random by up to so many degrees of the colour circle.
    Only where colours are not to be learned."""
    variants: int | None = field(
        None, title="Versions of each picture", ge=2, le=64,
        needs={"images.random_crop or images.rotation or images.brightness or images.hue": True},
    )  # fmt: skip
    """How many versions of each picture are made and cached for images.random_crop, rotation,
    brightness and hue: the first is the picture as it is, every other has its own of all four.
    Each step shows one. Empty: 8. More take more disk, and time before the first step."""
    background: str = field("#ffffff", title="Background colour", pattern=r"^#[0-9a-fA-F]{6}$")
    """Colour under transparent pixels, as #rrggbb."""
    masks: Literal["none", "alpha", "files"] = field("none")
    """What of a picture counts in the loss. none: all of it. alpha: what is not transparent. files:
    what is white in NAME.mask.png, NAME-masklabel.png or NAME_mask.png beside the picture, or in a
    folder masks next to it; a picture without a mask counts whole."""
    mask_outside: Probability = field(0.1, needs=_MASKED)
    """How much the rest counts where a mask is used. 0 to 1; at 0 the adapter may draw anything
    there."""

    def at(self, resolution: int) -> ImagesConfig:
        """The same with one resolution alone."""
        return self.model_copy(update={"resolution": resolution, "resolutions": ()})

    @property
    def variant_count(self) -> int:
        """Versions of each picture; 1 where nothing is random."""
        varies = self.random_crop or self.rotation or self.brightness or self.hue
        return (self.variants or _VARIANTS) if varies else 1

    @property
    def sides(self) -> tuple[int, ...]:
        """All resolutions, `resolution` first; empty where that is left to the base model."""
        first = () if self.resolution is None else (self.resolution,)
        return tuple(dict.fromkeys((*first, *sorted(self.resolutions, reverse=True))))
