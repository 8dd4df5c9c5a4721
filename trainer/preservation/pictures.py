"""Pictures of the class, trained on beside the pictures of the subject.

The prior-preservation loss of DreamBooth (arXiv 2208.12242, eq. 2): its second term, weighed by
lambda (``preservation.weight``), is the ordinary loss on pictures that the base model drew for
"a CLASS", or on a folder of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer.config.schema import TrainingConfig
from trainer.data.cache import TensorCache, content_key
from trainer.data.gather import scan_again
from trainer.data.latents import LatentSource
from trainer.data.report import fit_pictures
from trainer.diffusion import Points, Size, add_noise, draw_noise, target
from trainer.events import Progress
from trainer.generation.sampling import Drawing, draw_latents
from trainer.lora.attach import disabled
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.models.families import PredictionType
from trainer.preservation.prompts import class_prompts
from trainer.preservation.rows import KeptRows, Rhythm
from trainer.seeds import derive_seed, derive_uniform

INFERENCE_STEPS = 25
GUIDANCE = 5.0


@dataclass(frozen=True)
class ClassPicture:
    """One picture to train on.

    Attributes:
        latents: (C, H, W) float32 on the CPU.
        sizes: what SDXL is told of it: original size, corner of the crop, size shown.
    """

    prompt: str
    latents: Tensor
    sizes: tuple[Size, Size, Size]


class PictureKeeper:
    """Rows from class pictures in turn, each with its own noise and timestep.

    Args:
        pictures: all of one size.
        seed: of noise and timesteps.
    """

    def __init__(
        self, base: BaseModel, pictures: Sequence[ClassPicture], rhythm: Rhythm, seed: int
    ) -> None:
        self.alpha_bar = base.noise_scheduler().alphas_cumprod
        self.prediction: PredictionType = base.prediction_type
        self.pictures, self.rhythm, self.seed = pictures, rhythm, seed

    def rows(self, step: int, slots: Sequence[int], total: int) -> KeptRows | None:
        """See `trainer.preservation.rows.Keeper`."""
        count, rows = self.rhythm.count(total), self.rhythm.of_slots(slots, total)
        if not rows:
            return None
        numbers = [self.rhythm.number(step, row) for row in rows]
        chosen = [self.pictures[number % len(self.pictures)] for number in numbers]
        latents = torch.stack([picture.latents for picture in chosen])
        channels, height, width = latents.shape[1:]
        noise = torch.stack(
            [
                draw_noise((channels, height, width), row, seed=self.seed, step=step)
                for row in numbers
            ]
        )
        timesteps = torch.tensor([self._timestep(step, row, count) for row in rows])
        points = Points(
            tuple(picture.prompt for picture in chosen),
            add_noise(latents, noise, self.alpha_bar, timesteps),
            timesteps,
            tuple(picture.sizes for picture in chosen),
        )
        wanted = target(latents, noise, self.alpha_bar, timesteps, self.prediction)
        return KeptRows(points, wanted, (), count, holds_text=False)

    def _timestep(self, step: int, row: int, count: int) -> int:
        """Stratified over the rows of a step, as `trainer.diffusion.draw_timesteps`."""
        offset = derive_uniform(self.seed, step, "class picture timesteps")
        return int((row + offset) / count * len(self.alpha_bar))


def drawn_pictures(
    base: BaseModel,
    config: TrainingConfig,
    *,
    size: Size,
    device: Device,
    cache: TensorCache,
    progress: Progress,
) -> list[ClassPicture]:
    """Pictures that the base model draws for each class word, once: they are kept in the cache.

    Args:
        size: (height, width) in pixels.
    """
    prompts = class_prompts(config)
    pictures = []
    count = config.preservation.pictures
    for number in range(count):
        drawing = Drawing(
            prompt=prompts[number % len(prompts)],
            negative="",
            seed=derive_seed(config.preservation.seed, "class picture", number) % 2**31,
            width=size[1],
            height=size[0],
            inference_steps=INFERENCE_STEPS,
            guidance=GUIDANCE,
        )
        key = content_key(
            kind="class picture",
            base=base.output_key,
            dtype=device.precision,
            **asdict(drawing),
        )
        kept = cache.get(key)
        if kept is None:
            with disabled(base):
                kept = {"latents": draw_latents(base, [drawing], device)[0].float().cpu()}
            cache.put(key, kept)
        pictures.append(ClassPicture(drawing.prompt, kept["latents"], (size, (0, 0), size)))
        progress(number + 1, count, "drawing class pictures")
    return pictures


def given_pictures(
    base: BaseModel,
    config: TrainingConfig,
    folder: Path,
    latents: LatentSource,
    notice: Callable[[str], None],
) -> list[ClassPicture]:
    """Class pictures of the user's own, cut to squares; one without a caption is called "a CLASS".

    Raises:
        UserError: there is no such folder, or nothing in it can be used.
    """
    images = config.images.model_copy(
        update={"buckets": False, "upscale": True, "masks": "none", "path": folder}
    )
    report = fit_pictures(scan_again(folder), images, base.resolution_step)
    for finding in report.findings:
        if finding.severity == "error":
            notice(f"Class pictures: {finding}")
    prompts = class_prompts(config)
    return [
        ClassPicture(
            picture.entry.caption or prompts[number % len(prompts)],
            latents.latents(picture, False),
            (
                (picture.entry.header.height, picture.entry.header.width),
                (picture.crop.top, picture.crop.left),
                (picture.crop.height, picture.crop.width),
            ),
        )
        for number, picture in enumerate(report.fitted)
    ]
