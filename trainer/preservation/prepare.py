"""What a run preserves, made ready before its first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.conditioning import TextSource
from trainer.config.concepts import preserved_share
from trainer.config.schema import ConceptConfig, TrainingConfig
from trainer.data.latents import LatentSource
from trainer.data.sets import Picture
from trainer.diffusion import Size
from trainer.events import Progress
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.preservation.class_pictures import drawn_pictures, given_pictures
from trainer.preservation.prompts import preserved_prompts, prompts_for_own_pictures
from trainer.preservation.rows import (
    PicturePreservation,
    PredictionPreservation,
    Preservation,
    RowSchedule,
)
from trainer.preservation.teacher import Teacher

Notice = Callable[[str], None]


def prepare_preservation(
    base: BaseModel,
    config: TrainingConfig,
    pictures: Sequence[tuple[Picture, str]],
    class_folders: Sequence[tuple[Path, ConceptConfig]] = (),
    *,
    text: TextSource,
    latents: LatentSource,
    device: Device,
    notice: Notice,
    progress: Progress,
) -> Preservation | None:
    """What a run preserves, from its resolved configuration; None where it preserves nothing.

    One process computes, the others wait and find it in the cache. UNet and text encoders have to
    be on the device; the VAE is moved there only to encode class pictures of the user's own.

    Args:
        pictures: what is trained on, with the captions as they are trained.
        class_folders: of regularisation pictures in the image sets; for the method pictures where
            no other folder is given.

    Raises:
        UserError: the folder of class pictures is missing, or holds none that can be used.
    """
    settings, training = config.preservation, config.training
    if settings.method == "none" or settings.weight == 0:
        return None
    if not device.is_main:
        device.wait_for_everyone()
    largest = training.batch_size * training.accumulation
    schedule = RowSchedule(preserved_share(config), settings.every, largest)
    size = commonest_size([picture for picture, _ in pictures])
    cache = text.cache
    preservation: Preservation
    folders = [(Path(settings.folder), None)] if settings.folder else class_folders
    if settings.method == "pictures" and folders:
        with device.instead([base.vae], []):
            given = [
                picture
                for folder, concept in folders
                for picture in given_pictures(base, config, folder, concept, latents, notice)
            ]
        preservation = PicturePreservation(base, given, schedule, training.seed)
    elif settings.method == "pictures":
        drawn = drawn_pictures(
            base, config, size=size, device=device, cache=cache, progress=progress
        )
        preservation = PicturePreservation(base, drawn, schedule, training.seed)
    else:
        captions = [caption for _, caption in pictures]
        prompts = preserved_prompts(base, config, captions, device, cache)
        of_size = [pair for pair in pictures if _size(pair[0]) == size]
        own = [
            (latents.latents(picture, False), prompt)
            for picture, prompt in prompts_for_own_pictures(config, of_size, settings.pictures)
        ]
        teacher = Teacher(base, text, device, cache, size, settings.seed)
        known = teacher.predictions(prompts, settings.pictures, own, progress)
        preservation = PredictionPreservation(
            known, prompts, schedule, config.adapter.text_encoder, training.seed
        )
    if device.is_main:
        device.wait_for_everyone()
    return preservation


def commonest_size(pictures: Sequence[Picture]) -> Size:
    """(height, width) in pixels that most of the pictures have: rows of it share their passes."""
    sizes = Counter(map(_size, pictures))
    return max(sizes, key=lambda size: (sizes[size], size))


def _size(picture: Picture) -> Size:
    return picture.sizes[2]
