"""The pictures of an image set as training sees them: fitted to a bucket, and as latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from trainer.cache import TensorCache, content_key
from trainer.config import ImagesConfig
from trainer.data.buckets import CropPlan, plan_crop
from trainer.data.images import ImageProblem, fit, load_rgb
from trainer.data.sets import ImageEntry, ImageSet
from trainer.errors import UserError
from trainer.models.load import BaseModel


@dataclass(frozen=True)
class Picture:
    """One image and how it is cut."""

    entry: ImageEntry
    crop: CropPlan


def fit_pictures(
    image_set: ImageSet, config: ImagesConfig, step: int
) -> tuple[list[Picture], list[str]]:
    """Cut plans for all images of a set.

    Args:
        config: with its resolution filled in.
        step: bucket sides are multiples of it, in pixels.

    Returns:
        The pictures that can be used, and a sentence about each of the others.

    Raises:
        UserError: the resolution does not suit the model, or no picture can be used.
    """
    resolution = config.resolution or 0
    check_resolution(resolution, step)
    pictures, refused = [], []
    for entry in image_set.entries:
        header = entry.header
        try:
            crop = plan_crop(
                header.width, header.height, resolution, step, config.buckets, config.upscale
            )
        except ImageProblem as problem:
            refused.append(f"{entry.name}: {problem}")
            continue
        pictures.append(Picture(entry, crop))
    if not pictures:
        raise UserError(
            f"None of the {len(image_set.entries)} pictures in {image_set.root} can be used at "
            f"resolution {resolution}: {refused[0]}",
            "Use larger pictures, a lower images.resolution, or images.upscale = true.",
        )
    return pictures, refused


def check_resolution(resolution: int, step: int) -> None:
    """Raises `UserError` unless ``resolution`` is a multiple of ``step``, both in pixels."""
    if resolution % step:
        below = max(step, resolution // step * step)
        raise UserError(
            f"images.resolution {resolution} is not a multiple of {step}, which this base model "
            "needs.",
            f"Use {below} or {below + step}." if below < resolution else f"Use {below}.",
        )


class LatentSource:
    """Latents of pictures, from the cache or from the VAE.

    The mean of the VAE's posterior is used: its spread is far below the noise that training adds,
    and a fixed value can be cached once.

    Args:
        base: its VAE is used while caching; in float32, since SDXL's overflows in fp16.
    """

    def __init__(self, base: BaseModel, cache: TensorCache, background: str) -> None:
        self.vae: AutoencoderKL = base.vae
        self.vae_fingerprint = base.vae_fingerprint
        self.cache = cache
        self.background = background

    def fill(
        self,
        pictures: Sequence[Picture],
        flips: Sequence[bool],
        progress: Callable[[int, int], None],
    ) -> int:
        """Compute what the cache lacks. Returns how many had to be computed."""
        total = len(pictures) * len(flips)
        computed = done = 0
        for picture in pictures:
            for flip in flips:
                if self.cache.get(self._key(picture, flip)) is None:
                    self._compute(picture, flip)
                    computed += 1
                done += 1
                progress(done, total)
        return computed

    def latents(self, picture: Picture, flip: bool) -> Tensor:
        """Scaled latents (C, height / f, width / f) float32 on the CPU."""
        kept = self.cache.get(self._key(picture, flip))
        return self._compute(picture, flip) if kept is None else kept["latents"]

    def _key(self, picture: Picture, flip: bool) -> str:
        return content_key(
            image=picture.entry.id,
            crop=asdict(picture.crop),
            flip=flip,
            background=self.background,
            vae=self.vae_fingerprint,
        )

    def _compute(self, picture: Picture, flip: bool) -> Tensor:
        rgb = load_rgb(picture.entry.read(), self.background)
        latents = encode_pixels(self.vae, fit(rgb, picture.crop, flip))
        self.cache.put(self._key(picture, flip), {"latents": latents})
        return latents


@torch.no_grad()
def encode_pixels(vae: AutoencoderKL, pixels: np.ndarray) -> Tensor:
    """The scaled mean of the VAE's posterior for one picture.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (C, H / f, W / f) float32 on the CPU.
    """
    parameter = next(vae.parameters())
    image = torch.from_numpy(pixels).to(parameter.device, parameter.dtype)
    image = (image / 127.5 - 1.0).permute(2, 0, 1).unsqueeze(0)  # (1, 3, H, W) in [-1, 1]
    posterior = vae.encode(image, return_dict=False)[0]
    return (posterior.mean * vae.config["scaling_factor"]).squeeze(0).float().cpu()
