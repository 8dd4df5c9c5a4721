"""How well a model predicts the pictures of an image set: loss at fixed noise and timesteps.

    likeness = 1 - mean over timesteps of E_on(t) / E_off(t)

``E(t)`` is the squared error of the prediction, averaged over the pictures, with the adapter and
without it; of masked pictures over what counts in training. 0: no better than the base model; 1
would be perfect; below 0: worse than the base.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from trainer.config.schema import ObjectiveConfig
from trainer.data.latents import LatentSource, MaskSource
from trainer.data.sets import Picture
from trainer.diffusion import Points, add_noise, predict, stratified_timesteps, target
from trainer.losses import loss_weights, sample_errors
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.seeds import derive_seed

TIMESTEPS = 3

Captioned = tuple[Picture, str]
"""A picture and its caption: with the trigger to ask what it does, without to ask what the rest of
the caption does."""


@dataclass(frozen=True)
class Example:
    """Pictures of one size at their points."""

    points: Points  # all timesteps of the first picture, then those of the second, and so on
    wanted: Tensor  # (N, C, H, W), what a perfect model would predict
    weights: Tensor  # (N,), how training weighs them
    # (N, 1, H, W), how much each place counts; None where all count alike.
    masks: Tensor | None = None


@dataclass(frozen=True)
class Losses:
    """Errors at fixed points."""

    weighted: float  # mean loss, weighed as in training
    by_timestep: Tensor  # (T,), plain squared error for each timestep, averaged over the pictures


def make_examples(
    base: BaseModel,
    pictures: Sequence[Captioned],
    latents: LatentSource,
    objective: ObjectiveConfig,
    *,
    masks: MaskSource | None = None,
    timesteps: int = TIMESTEPS,
) -> list[Example]:
    """The points at which pictures are predicted by their captions: a pure function of content.

    Args:
        objective: how timesteps are weighed, see `trainer.losses.loss_weights`.
        masks: of the pictures; None where all of them counts.
    """
    scheduler = base.noise_scheduler()
    alpha_bar, prediction = scheduler.alphas_cumprod, base.prediction_type
    strata = stratified_timesteps(timesteps, int(scheduler.config["num_train_timesteps"]))
    by_size: dict[tuple[int, int], list[Captioned]] = defaultdict(list)
    for picture, caption in pictures:
        by_size[picture.crop.width, picture.crop.height].append((picture, caption))
    examples: list[Example] = []
    for members in by_size.values():
        shown = [picture for picture, _ in members]
        clean = torch.stack([latents.latents(picture, False) for picture in shown])
        clean = clean.repeat_interleave(timesteps, dim=0)  # (N, C, H, W)
        noise = torch.cat([_noise(picture, clean, timesteps) for picture in shown])
        steps = strata.repeat(len(members))
        counting = masks.weights(shown, [False] * len(shown)) if masks else None
        points = Points(
            prompts=tuple(caption for _, caption in members for _ in range(timesteps)),
            noised=add_noise(clean, noise, alpha_bar, steps),
            timesteps=steps,
            sizes=tuple(picture.sizes for picture in shown for _ in range(timesteps)),
        )
        wanted = target(clean, noise, alpha_bar, steps, prediction)
        weights = loss_weights(alpha_bar, steps, prediction, objective)
        counting = None if counting is None else counting.repeat_interleave(timesteps, dim=0)
        examples.append(Example(points, wanted, weights, counting))
    return examples


def measure_losses(base: BaseModel, examples: Sequence[Example], device: Device) -> Losses:
    """The errors with the adapters as they are on the model now.

    Raises:
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("no pictures to measure on")
    errors = torch.cat([
        sample_errors(predict(base, example.points, device), example.wanted, example.masks)
        for example in examples
    ])  # fmt: skip
    weights = torch.cat([example.weights for example in examples])
    steps = torch.cat([example.points.timesteps for example in examples])
    by_timestep = torch.stack(
        [errors[steps == step].mean() for step in cast(Tensor, steps.unique())]
    )
    return Losses((weights * errors).mean().item(), by_timestep)


def likeness(adapted: Losses, base: Losses) -> float:
    """How much better than the base model the pictures are predicted, see above."""
    return likeness_by_noise(adapted, base).mean().item()


def likeness_by_noise(adapted: Losses, base: Losses) -> Tensor:
    """(T,), the same at each timestep, from the least noise to the most."""
    return 1.0 - adapted.by_timestep / base.by_timestep.clamp_min(1e-12)


def _noise(picture: Picture, like: Tensor, count: int) -> Tensor:
    """(count, C, H, W), by the picture's content alone."""
    seed = derive_seed(0, "validation noise", picture.entry.id)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, *like.shape[1:]), generator=generator)
