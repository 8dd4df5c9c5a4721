"""The memory modes a run can be in, and the order in which they are tried.

Each of them gives the same gradients to float precision, those of the weights as they are kept;
they differ in what is kept for the backward pass, and so in speed. Weights in 8 or 4 bits come
last, whatever their speed: they are another base model, if only slightly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from trainer.config.concepts import preserved_share
from trainer.config.schema import TrainingConfig
from trainer.memory.devices import ROWS
from trainer.memory.quantized import Bits

Mode = Literal["plain", "lean", "feed_forward"]

# Time of a step beside that of the plain path; measured on a CPU, the last one assumed for cards.
_MODE_COST: dict[Mode, float] = {"plain": 1.0, "lean": 1.0, "feed_forward": 1.04}
_WEIGHTS: list[Bits] = ["full", "8bit", "4bit"]
_WEIGHTS_COST: dict[Bits, float] = {"full": 1.0, "8bit": 1.1, "4bit": 1.2}
_CHECKPOINTING_COST = 1.32
_HALVING_COST = 1.1


@dataclass(frozen=True)
class Rung:
    """One way to compute a training step.

    Attributes:
        mode: what the frozen layers keep.
        checkpointing: full gradient checkpointing as well.
        pictures: pictures in one forward pass, of a batch of `batch`.
        apart: whether preserved prompts get a pass of their own.
        share: preserved rows for each picture; 0: none.
        weights: how the frozen weights are kept.
        tiling: whether large pictures go through the VAE in tiles.
    """

    mode: Mode
    checkpointing: bool
    pictures: int
    apart: bool
    batch: int
    share: float
    weights: Bits = "full"
    tiling: bool = False

    @property
    def preserves(self) -> bool:
        """Whether anything is preserved."""
        return self.share > 0

    @property
    def kept(self) -> int:
        """Preserved rows in the largest forward pass."""
        return math.ceil(self.share * self.pictures)

    @property
    def rows(self) -> int:
        """Rows of the largest forward pass with gradients."""
        return max(self.pictures, self.kept) if self.apart else self.pictures + self.kept

    @property
    def rows_without_gradients(self) -> int:
        """Rows of the largest pass without gradients: two a picture, as for drawing with guidance.

        It needs less memory than a training step of the pictures, even with full checkpointing.
        """
        return min(ROWS, 2 * self.pictures)

    @property
    def accumulates(self) -> bool:
        """Whether a step takes several passes even without accumulation."""
        return self.pictures < self.batch or (self.apart and self.preserves)

    @property
    def cost(self) -> float:
        """Time of a step beside that of the plain path, about."""
        halvings = (self.batch / self.pictures - 1) ** 0.5
        time = _MODE_COST[self.mode] * _HALVING_COST ** (halvings + (self.apart and self.preserves))
        time *= _WEIGHTS_COST[self.weights]
        return time * (_CHECKPOINTING_COST if self.checkpointing else 1.0)

    def changes(self, before: Rung) -> dict[str, object]:
        """The configuration fields that lead from another rung to this one."""
        fields = {
            "memory.mode": (self.mode, before.mode),
            "memory.pictures_at_once": (self.pictures, before.pictures),
            "memory.preserve_apart": (self.apart, before.apart),
            "training.gradient_checkpointing": (self.checkpointing, before.checkpointing),
            "memory.base_weights": (self.weights, before.weights),
            "memory.vae_tiling": (_on(self.tiling), _on(before.tiling)),
        }
        return {name: now for name, (now, then) in fields.items() if now != then}


def _on(switch: bool) -> str:
    return "on" if switch else "off"


def base_weights(config: TrainingConfig) -> Bits:
    """How the frozen weights are kept: what ``memory.base_weights`` comes to."""
    wanted = config.memory.base_weights
    return "full" if wanted == "auto" else wanted


def rung_of(config: TrainingConfig) -> Rung:
    """The rung that a resolved configuration asks for; "auto" begins with lean, which costs
    nothing."""
    memory, training = config.memory, config.training
    return Rung(
        mode="lean" if memory.mode == "auto" else memory.mode,
        checkpointing=training.gradient_checkpointing,
        pictures=min(memory.pictures_at_once or training.batch_size, training.batch_size),
        apart=memory.preserve_apart,
        batch=training.batch_size,
        share=preserved_share(config),
        weights=base_weights(config),
        tiling=memory.vae_tiling == "on",
    )


def rungs_below(rung: Rung) -> Iterator[Rung]:
    """The rungs with the same weights that need less memory than this one, the fastest first."""
    modes: list[Mode] = ["plain", "lean", "feed_forward"]
    found = [
        replace(rung, mode=mode, checkpointing=checkpointing, pictures=pictures, apart=apart)
        for mode in modes[modes.index(rung.mode) :]
        for checkpointing in ((True,) if rung.checkpointing else (False, True))
        for pictures in _halved(rung.pictures)
        for apart in ((False, True) if rung.preserves and not rung.apart else (rung.apart,))
        # Checkpointing makes everything again anyway.
        if not (checkpointing and mode == "feed_forward" and rung.mode != "feed_forward")
    ]
    yield from sorted((other for other in found if other != rung), key=lambda other: other.cost)


def with_smaller_weights(rung: Rung) -> Iterator[Rung]:
    """The same with weights in fewer bits."""
    for weights in _WEIGHTS[_WEIGHTS.index(rung.weights) + 1 :]:
        yield replace(rung, weights=weights, tiling=True)


def smallest(rung: Rung) -> Rung:
    """What needs the least memory with the same weights."""
    mode: Mode = "lean" if rung.mode == "plain" else rung.mode
    apart = rung.apart or rung.preserves
    return replace(rung, mode=mode, checkpointing=True, pictures=1, apart=apart, tiling=True)


def _halved(count: int) -> list[int]:
    counts = [count]
    while counts[-1] > 1:
        counts.append(-(-counts[-1] // 2))
    return counts
