"""Rows of what the base model predicted before training (see `remembering`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.diffusion import Points, Size
from trainer.preservation.prompts import PreservedPrompts
from trainer.preservation.rows import KeptRows, Rhythm
from trainer.seeds import derive_seed

SPOKEN = 2
"""Further prompts for each row, whose text features are held: nearly free, and they add variety."""


@dataclass(frozen=True)
class Remembered:
    """Points and what the base model predicts there.

    Attributes:
        prompts: N.
        noised, predicted: (N, C, H, W) on the CPU, in the UNet's number format.
        timesteps: (N,) int64.
        size: (height, width) of the pictures in pixels.
    """

    prompts: tuple[str, ...]
    noised: Tensor
    predicted: Tensor
    timesteps: Tensor
    size: Size


class PredictionKeeper:
    """Rows from what is remembered; each point comes up equally often, in a new order each time.

    Args:
        holds_text: whether text features are held too.
        seed: of the order.
    """

    def __init__(
        self,
        remembered: Remembered,
        prompts: PreservedPrompts,
        rhythm: Rhythm,
        holds_text: bool,
        seed: int,
    ) -> None:
        self.remembered, self.prompts = remembered, prompts
        self.rhythm, self.holds_text, self.seed = rhythm, holds_text, seed

    def rows(self, step: int, slots: Sequence[int], total: int) -> KeptRows | None:
        """See `trainer.preservation.rows.Keeper`."""
        numbers = [self.rhythm.number(step, row) for row in self.rhythm.of_slots(slots, total)]
        if not numbers:
            return None
        known = self.remembered
        places = [self._place(number) for number in numbers]
        spoken = [
            self.prompts.choose(number * SPOKEN + turn, seed=self.seed, purpose="spoken")
            for number in numbers
            for turn in range(SPOKEN)
        ]
        points = Points(
            tuple(known.prompts[place] for place in places),
            known.noised[places],
            known.timesteps[places],
            ((known.size, (0, 0), known.size),) * len(places),
        )
        words = tuple(spoken) if self.holds_text else ()
        wanted = known.predicted[places]
        return KeptRows(points, wanted, words, self.rhythm.count(total), self.holds_text)

    def _place(self, number: int) -> int:
        """Row ``number`` of the run, as a place among the points."""
        count = len(self.remembered.prompts)
        pass_over, place = divmod(number, count)
        order = random.Random(derive_seed(self.seed, "remembered", pass_over))
        return order.sample(range(count), count)[place]


def joined(parts: Sequence[Remembered]) -> Remembered:
    """Several of one size as one."""
    return Remembered(
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        noised=torch.cat([part.noised for part in parts]),
        predicted=torch.cat([part.predicted for part in parts]),
        timesteps=torch.cat([part.timesteps for part in parts]),
        size=parts[0].size,
    )
