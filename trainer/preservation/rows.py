"""Rows that go through the UNet beside the pictures, so that it stays as it was there.

Which rows a step preserves is a pure function of seed and step, however the step is cut into
batches and processes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.diffusion import Points, Sizes, add_noise, draw_noise, target
from trainer.models.base import BaseModel
from trainer.models.families import PredictionType
from trainer.seeds import derive_seed, derive_uniform


@dataclass(frozen=True)
class PreservedRows:
    """What one forward pass preserves."""

    points: Points  # R prompts with their noised latents and timesteps
    wanted: Tensor  # (R, C, H, W), what the UNet is to predict there
    count: int  # such rows in the whole step, over batches and processes: the loss's denominator
    text_features: bool  # whether the prompts' text features are preserved too


@dataclass(frozen=True)
class RowSchedule:
    """How many rows are preserved in which step."""

    share: float  # rows for each picture of a step that preserves
    every: int  # each k-th step preserves
    largest: int  # pictures in the largest step

    def count(self, total: int) -> int:
        """Rows in a step of ``total`` pictures; at least one."""
        return max(1, round(self.share * total))

    def of_slots(self, slots: Sequence[int], total: int) -> list[int]:
        """Which of a step's rows go with some of its pictures, evenly spread.

        However a step is cut into batches and processes, every row is taken exactly once.
        """
        own, count = set(slots), self.count(total)
        return [row for row in range(count) if row * total // count in own]

    def number(self, step: int, row: int) -> int:
        """Index of a step's row, counting all preserved rows of the run."""
        return step // self.every * self.count(self.largest) + row


@dataclass(frozen=True)
class Predictions:
    """What the base model predicts at N points, all on the CPU in the UNet's number format."""

    points: Points
    predicted: Tensor


@dataclass(frozen=True)
class PredictionPreservation:
    """Rows from the base model's predictions: each comes up equally often, in changing order."""

    known: Predictions
    schedule: RowSchedule
    text_features: bool  # whether text features are preserved too
    seed: int  # of the order

    def rows(self, step: int, slots: Sequence[int], total: int) -> PreservedRows | None:
        """The rows of a batch in a step that preserves: a pure function of its arguments.

        Args:
            slots: of the batch's pictures, counted over the whole step.
            total: pictures in the whole step.
        """
        schedule = self.schedule
        numbers = [schedule.number(step, row) for row in schedule.of_slots(slots, total)]
        if not numbers:
            return None
        places = [self._place(number) for number in numbers]
        return PreservedRows(
            self.known.points[places],
            self.known.predicted[places],
            schedule.count(total),
            self.text_features,
        )

    def _place(self, number: int) -> int:
        """The point of row ``number`` of the run."""
        count = len(self.known.points)
        turn, place = divmod(number, count)
        order = random.Random(derive_seed(self.seed, "remembered", turn))
        return order.sample(range(count), count)[place]


@dataclass(frozen=True)
class ClassPicture:
    """One picture of the class to train on."""

    prompt: str
    latents: Tensor  # (C, H, W) float32 on the CPU
    sizes: Sizes  # what SDXL is conditioned on


class PicturePreservation:
    """Rows from class pictures in turn, each with its own noise and timestep.

    Args:
        pictures: all of one size.
        seed: of noise and timesteps.
    """

    def __init__(
        self, base: BaseModel, pictures: Sequence[ClassPicture], schedule: RowSchedule, seed: int
    ) -> None:
        self.alpha_bar = base.noise_scheduler().alphas_cumprod
        self.prediction: PredictionType = base.prediction_type
        self.pictures, self.schedule, self.seed = pictures, schedule, seed

    def rows(self, step: int, slots: Sequence[int], total: int) -> PreservedRows | None:
        """As `PredictionPreservation.rows`."""
        count, rows = self.schedule.count(total), self.schedule.of_slots(slots, total)
        if not rows:
            return None
        numbers = [self.schedule.number(step, row) for row in rows]
        chosen = [self.pictures[number % len(self.pictures)] for number in numbers]
        latents = torch.stack([picture.latents for picture in chosen])
        channels, height, width = latents.shape[1:]
        noise = torch.stack(
            [
                draw_noise((channels, height, width), number, seed=self.seed, step=step)
                for number in numbers
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
        return PreservedRows(points, wanted, count, text_features=False)

    def _timestep(self, step: int, row: int, count: int) -> int:
        """Stratified over the rows of a step, as `trainer.training.batches.draw_timesteps`."""
        offset = derive_uniform(self.seed, step, "class picture timesteps")
        return int((row + offset) / count * len(self.alpha_bar))


Preservation = PredictionPreservation | PicturePreservation
