"""The pictures of an image set as training sees them: fitted to a bucket, and as latents."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from trainer.config.schema import ImagesConfig
from trainer.data.buckets import CropPlan, crop_facts
from trainer.data.cache import TensorCache, content_key
from trainer.data.findings import ImageProblem
from trainer.data.images import load_rgb
from trainer.data.masks import fit, latent_mask
from trainer.data.sets import Picture
from trainer.errors import UserError
from trainer.events import CACHING, Progress
from trainer.models.base import TILE, BaseModel

_DECODERS = 2  # threads that decode pictures for the VAE: memory for as many of the largest ones


class MaskSource:
    """How much each part of a picture counts, at the size of its latents.

    Args:
        config: its ``masks`` and ``mask_outside``.
        factor: pixels for each latent along a side.
    """

    def __init__(self, config: ImagesConfig, factor: int) -> None:
        self.config = config
        self.factor = factor
        self._masks: dict[tuple[str, str, CropPlan, bool], Tensor | None] = {}

    def weights(self, pictures: Sequence[Picture], flips: Sequence[bool]) -> Tensor | None:
        """(B, 1, h, w) float32 in [0, 1] for pictures of one size; None where all counts.

        Raises:
            UserError: a mask is gone, or another one by now.
        """
        if self.config.masks == "none":
            return None
        masks = [self._mask(*pair) for pair in zip(pictures, flips, strict=True)]
        if all(mask is None for mask in masks):
            return None
        crop = pictures[0].crop
        whole = torch.ones(1, crop.height // self.factor, crop.width // self.factor)
        return torch.stack([whole if mask is None else mask for mask in masks])

    def _mask(self, picture: Picture, flip: bool) -> Tensor | None:
        """(1, h, w); the rest counts ``mask_outside``."""
        entry, crop = picture.entry, picture.crop
        key = (entry.id, entry.mask.digest if entry.mask else "", crop, flip)
        if key not in self._masks:
            try:
                inside = latent_mask(entry, self.config, crop, flip, self.factor)
            except ImageProblem as problem:
                hint = "Put it back as it was, or go on with: resume RUN --accept-changes"
                raise UserError(problem.reason, hint, "images_changed") from problem
            outside = self.config.mask_outside
            self._masks[key] = (
                None
                if inside is None
                else torch.from_numpy(outside + (1 - outside) * inside).unsqueeze(0)
            )
        return self._masks[key]


class LatentSource:
    """Latents of pictures, from the cache or from the VAE.

    The mean of the VAE's posterior is used: its spread is far below the noise that training adds,
    and a fixed value can be cached once.

    Args:
        base: its VAE is used while caching; in float32, since SDXL's overflows in fp16.
    """

    def __init__(self, base: BaseModel, cache: TensorCache, background: str) -> None:
        self.base = base
        self.cache = cache
        self.background = background

    def fill(
        self,
        pictures: Sequence[Picture],
        flips: Sequence[bool],
        progress: Progress,
        ready: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> int:
        """Compute what the cache lacks. Returns how many had to be computed.

        Args:
            progress: is told how many are there.
            ready: puts the VAE where it can compute; only where there is something to.
        """
        total = len(pictures) * len(flips)
        pairs = [(picture, flip) for picture in pictures for flip in flips]
        # Equal pictures have one key.
        lacking = {self._key(*pair): pair for pair in pairs if self._cached(*pair) is None}
        missing = list(lacking.values())
        done = total - len(missing)
        progress(done, total, CACHING)
        with ready() if missing else nullcontext():
            for (picture, flip), pixels in zip(missing, self._decoded(missing), strict=True):
                self._encode(picture, flip, pixels)
                done += 1
                progress(done, total, CACHING)
        return len(missing)

    def _decoded(self, pairs: Sequence[tuple[Picture, bool]]) -> Iterator[np.ndarray]:
        """Pixels of pictures, in order; the next ones are decoded while the VAE is at work."""
        with ThreadPoolExecutor(_DECODERS) as pool:
            ahead: deque[Future[np.ndarray]] = deque()
            try:
                for pair in pairs:
                    ahead.append(pool.submit(self._pixels, *pair))
                    if len(ahead) > 2 * _DECODERS:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def latents(self, picture: Picture, flip: bool) -> Tensor:
        """Scaled latents (C, height / f, width / f) float32 on the CPU."""
        cached = self._cached(picture, flip)
        if cached is not None:
            return cached
        return self._encode(picture, flip, self._pixels(picture, flip))

    def _cached(self, picture: Picture, flip: bool) -> Tensor | None:
        tensors = self.cache.get(self._key(picture, flip))
        return None if tensors is None else tensors["latents"]

    def _key(self, picture: Picture, flip: bool) -> str:
        return content_key(
            image=picture.entry.id,
            crop=crop_facts(picture.crop),
            flip=flip,
            background=picture.entry.background(self.background),
            vae=self.base.vae_fingerprint,
            **({"tile": TILE} if self.base.is_cut(*picture.crop.size) else {}),
        )

    def _pixels(self, picture: Picture, flip: bool) -> np.ndarray:
        below = picture.entry.background(self.background)
        return fit(load_rgb(picture.entry.read(), below), picture.crop, flip)

    def _encode(self, picture: Picture, flip: bool, pixels: np.ndarray) -> Tensor:
        latents = encode_pixels(self.base, pixels)
        self.cache.put(self._key(picture, flip), {"latents": latents})
        return latents


@torch.no_grad()
def encode_pixels(base: BaseModel, pixels: np.ndarray) -> Tensor:
    """The scaled mean of the posterior of the base model's VAE for one picture.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (C, H / f, W / f) float32 on the CPU.
    """
    parameter = next(base.vae.parameters())
    image = torch.from_numpy(pixels).to(parameter.device, parameter.dtype)
    image = (image / 127.5 - 1.0).permute(2, 0, 1).unsqueeze(0)  # (1, 3, H, W) in [-1, 1]
    with base.in_tiles(*pixels.shape[:2]):
        posterior = base.vae.encode(image, return_dict=False)[0]
    return base.scaled(posterior.mean).squeeze(0).float().cpu()
