"""Rows that go through the UNet beside the pictures, to hold something in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trainer.diffusion import Points


@dataclass(frozen=True)
class KeptRows:
    """What one batch preserves.

    Attributes:
        points: R prompts with their noised latents and timesteps.
        wanted: (R, C, H, W), what the UNet is to predict there.
        spoken: further prompts, whose text features alone are held; may be empty.
        count: such rows in the whole step, over batches and processes: the loss's denominator.
        holds_text: whether the text features of all these prompts are to stay the base model's.
    """

    points: Points
    wanted: Tensor
    spoken: tuple[str, ...]
    count: int
    holds_text: bool

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts whose text features are needed, those of the points first."""
        return (*self.points.prompts, *self.spoken)


class Keeper(Protocol):
    """Gives each batch the rows that it preserves."""

    def rows(self, step: int, slots: Sequence[int], total: int) -> KeptRows | None:
        """The rows of a batch in a step that preserves: a pure function of its arguments.

        Args:
            slots: of the batch's pictures, counted over the whole step.
            total: pictures in the whole step.
        """
        ...


@dataclass(frozen=True)
class Rhythm:
    """How many rows come when.

    Attributes:
        share: rows for each picture of a step that preserves.
        every: such steps are each k-th.
        largest: pictures in the largest step.
    """

    share: float
    every: int
    largest: int

    def count(self, total: int) -> int:
        """Rows in a step of ``total`` pictures; at least one."""
        return max(1, round(self.share * total))

    def of_slots(self, slots: Sequence[int], total: int) -> list[int]:
        """Which of a step's rows go with some of its pictures: each with one, evenly spread.

        However a step is cut into batches and processes, every row is taken exactly once.
        """
        own, count = set(slots), self.count(total)
        return [row for row in range(count) if row * total // count in own]

    def number(self, step: int, row: int) -> int:
        """The place of a step's row in the endless row of all that are preserved in a run."""
        return step // self.every * self.count(self.largest) + row
