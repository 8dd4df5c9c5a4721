"""The pictures of an image set as training sees them: fitted to a bucket, and as latents."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.config.concepts import concepts_of
from trainer.config.schema import ImagesConfig, TrainingConfig
from trainer.data.buckets import CropPlan, plan_crop
from trainer.data.cache import TensorCache, content_key
from trainer.data.holding import held_out_ids
from trainer.data.images import ImageProblem, fit, load_rgb
from trainer.data.inspections import Inspections
from trainer.data.masks import latent_mask, mask_problem
from trainer.data.order import balanced_repeats
from trainer.data.sets import ImageEntry, ImageSet, scan_image_set
from trainer.errors import UserError
from trainer.events import Progress
from trainer.memory.tiling import TILE, in_tiles, is_cut
from trainer.models.load import BaseModel
from trainer.places import cache_folder

_DECODERS = 2
"""Threads that decode pictures for the VAE: memory for as many of the largest ones."""


@dataclass(frozen=True)
class Picture:
    """One image, how it is cut, and which of the run's concepts it shows, counted from 0."""

    entry: ImageEntry
    crop: CropPlan
    concept: int = 0


def gather_pictures(
    config: TrainingConfig,
    step: int,
    notice: Callable[[str], None],
    progress: Progress | None = None,
) -> tuple[list[Picture], list[Picture]]:
    """The pictures of all concepts of a run: what is trained on, and what is kept out of training.

    What is trained on is repeated so that each concept gets its share.

    Args:
        config: with its resolution filled in.
        step: bucket sides are multiples of it, in pixels.
        notice: is told what is doubtful about the pictures.
        progress: is told while the pictures of a concept are read.

    Raises:
        UserError: a folder is missing, or none of its pictures can be used.
    """
    concepts = concepts_of(config)
    groups: list[list[Picture]] = []
    for number, concept in enumerate(concepts):
        image_set = scan_again(concept.path, progress)
        prefix = f"{concept.path.name}/" if len(concepts) > 1 else ""
        for finding in image_set.findings:
            if finding.severity != "note":
                notice(f"{prefix}{finding}")
        pictures, refused = fit_pictures(image_set, config.images, step)
        for sentence in refused:
            notice(prefix + sentence)
        groups.append([_of_concept(picture, number, prefix) for picture in pictures])
    split = [split_held_out(group, config) for group in groups]
    groups = [trained for trained, _ in split]
    repeats = [[picture.entry.repeats for picture in group] for group in groups]
    balanced = balanced_repeats(repeats, [concept.repeats for concept in concepts])
    return [
        replace(picture, entry=replace(picture.entry, repeats=count))
        for group, counts in zip(groups, balanced, strict=True)
        for picture, count in zip(group, counts, strict=True)
    ], [picture for _, held_out in split for picture in held_out]


def scan_again(path: Path, progress: Progress | None = None) -> ImageSet:
    """`scan_image_set`, which decodes only what it has not seen in an earlier run."""
    inspections = Inspections(cache_folder() / "inspections", path)
    image_set = scan_image_set(path, progress=progress, inspect=inspections.inspect)
    inspections.save()
    return image_set


def split_held_out(
    pictures: Sequence[Picture], config: TrainingConfig
) -> tuple[list[Picture], list[Picture]]:
    """What is trained on of a concept's pictures, and what is kept out to measure by."""
    ids = [picture.entry.id for picture in pictures]
    held = held_out_ids(ids, config.evaluation.validation, config.training.seed)
    return (
        [picture for picture in pictures if picture.entry.id not in held],
        [picture for picture in pictures if picture.entry.id in held],
    )


def _of_concept(picture: Picture, number: int, prefix: str) -> Picture:
    entry = replace(picture.entry, name=prefix + picture.entry.name)
    return replace(picture, entry=entry, concept=number)


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
        if problem := mask_problem(entry, config, crop):
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


class MaskSource:
    """How much each part of a picture counts, at the size of its latents.

    Args:
        config: its ``masks`` and ``mask_outside``.
        factor: pixels for each latent along a side.
    """

    def __init__(self, config: ImagesConfig, factor: int) -> None:
        self.config = config
        self.factor = factor
        self._kept: dict[tuple[str, int, bool], Tensor | None] = {}

    def weights(self, pictures: Sequence[Picture], flips: Sequence[bool]) -> Tensor | None:
        """(B, 1, h, w) float32 in [0, 1] for pictures of one size; None where all counts."""
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
        key = (picture.entry.id, picture.concept, flip)
        if key not in self._kept:
            inside = latent_mask(picture.entry, self.config, picture.crop, flip, self.factor)
            outside = self.config.mask_outside
            self._kept[key] = (
                None
                if inside is None
                else torch.from_numpy(outside + (1 - outside) * inside).unsqueeze(0)
            )
        return self._kept[key]


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
        lacking = {self._key(*pair): pair for pair in pairs if self._kept(*pair) is None}
        missing = list(lacking.values())
        done = total - len(missing)
        progress(done, total, "caching")
        with ready() if missing else nullcontext():
            for (picture, flip), pixels in zip(missing, self._decoded(missing), strict=True):
                self._encode(picture, flip, pixels)
                done += 1
                progress(done, total, "caching")
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
        kept = self._kept(picture, flip)
        return self._encode(picture, flip, self._pixels(picture, flip)) if kept is None else kept

    def _kept(self, picture: Picture, flip: bool) -> Tensor | None:
        kept = self.cache.get(self._key(picture, flip))
        return None if kept is None else kept["latents"]

    def _key(self, picture: Picture, flip: bool) -> str:
        cut = is_cut(self.base.tiling, picture.crop.width, picture.crop.height)
        return content_key(
            image=picture.entry.id,
            crop=asdict(picture.crop),
            flip=flip,
            background=self.background,
            vae=self.base.vae_fingerprint,
            **({"tile": TILE} if cut else {}),
        )

    def _pixels(self, picture: Picture, flip: bool) -> np.ndarray:
        return fit(load_rgb(picture.entry.read(), self.background), picture.crop, flip)

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
    vae, cut = base.vae, is_cut(base.tiling, *pixels.shape[:2])
    parameter = next(vae.parameters())
    image = torch.from_numpy(pixels).to(parameter.device, parameter.dtype)
    image = (image / 127.5 - 1.0).permute(2, 0, 1).unsqueeze(0)  # (1, 3, H, W) in [-1, 1]
    with in_tiles(vae, cut):
        posterior = vae.encode(image, return_dict=False)[0]
    return (posterior.mean * vae.config["scaling_factor"]).squeeze(0).float().cpu()
