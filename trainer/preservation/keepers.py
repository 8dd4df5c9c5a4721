"""Which kind of preservation a run has, made ready before its first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.conditioning import TextSource
from trainer.config.concepts import preserved_share
from trainer.config.schema import TrainingConfig
from trainer.data.cache import TensorCache
from trainer.data.latents import LatentSource
from trainer.data.sets import Picture
from trainer.diffusion import Size
from trainer.events import Progress
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.preservation.looks import choose_looks
from trainer.preservation.pictures import (
    ClassPicture,
    PictureKeeper,
    drawn_pictures,
    given_pictures,
)
from trainer.preservation.prompts import preserved_prompts
from trainer.preservation.remembered import PredictionKeeper, joined
from trainer.preservation.remembering import Teacher, remember_drawings, remember_looks
from trainer.preservation.rows import Keeper, Rhythm

Notice = Callable[[str], None]


def preserves(config: TrainingConfig) -> bool:
    """Whether a run holds anything in place."""
    return config.preservation.method != "none" and config.preservation.weight > 0


def make_keeper(
    base: BaseModel,
    config: TrainingConfig,
    pictures: Sequence[Picture],
    captions: Sequence[str],
    *,
    text: TextSource,
    latents: LatentSource,
    device: Device,
    cache: TensorCache,
    notice: Notice,
    progress: Progress,
) -> Keeper | None:
    """What a run preserves, from its resolved configuration; None where it preserves nothing.

    One process computes, the others wait and find it in the cache. UNet and text encoders have to
    be on the device; the VAE is moved there only to encode pictures of the user's own.

    Raises:
        UserError: the folder of class pictures is missing, or holds none that can be used.
    """
    if not preserves(config):
        return None
    if not device.is_main:
        device.wait_for_everyone()
    settings, training = config.preservation, config.training
    largest = training.batch_size * training.accumulation
    rhythm = Rhythm(preserved_share(config), settings.every, largest)
    size = commonest_size(pictures)
    keeper: Keeper
    if settings.method == "pictures":
        found = _class_pictures(base, config, size, latents, device, cache, notice, progress)
        keeper = PictureKeeper(base, found, rhythm, training.seed)
    else:
        prompts = preserved_prompts(base, config, captions, device, cache)
        teacher = Teacher(base, text, device, cache, size, settings.seed)

        parts = [remember_drawings(teacher, prompts, settings.pictures, progress)]
        of_size = [
            (picture, caption)
            for picture, caption in zip(pictures, captions, strict=True)
            if (picture.crop.height, picture.crop.width) == size
        ]
        looks = [
            (latents.latents(picture, False), prompt)
            for picture, prompt in choose_looks(config, of_size, settings.pictures)
        ]
        if looks:
            parts.append(remember_looks(teacher, looks, progress))
        remembered = joined(parts)
        keeper = PredictionKeeper(
            remembered, prompts, rhythm, config.adapter.text_encoder, training.seed
        )
    if device.is_main:
        device.wait_for_everyone()
    return keeper


def commonest_size(pictures: Sequence[Picture]) -> Size:
    """(height, width) in pixels that most of the pictures have: rows of it share their passes."""
    sizes = Counter((picture.crop.height, picture.crop.width) for picture in pictures)
    return max(sizes, key=lambda size: (sizes[size], size))


def _class_pictures(
    base: BaseModel,
    config: TrainingConfig,
    size: Size,
    latents: LatentSource,
    device: Device,
    cache: TensorCache,
    notice: Notice,
    progress: Progress,
) -> list[ClassPicture]:
    folder = config.preservation.folder
    if not folder:
        return drawn_pictures(
            base,
            config,
            size=size,
            device=device,
            cache=cache,
            progress=progress,
        )
    with device.instead([base.vae], []):
        return given_pictures(base, config, Path(folder), latents, notice)
