"""What an adapter consists of, apart from any model and from any file layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from trainer.lora.names import ModuleKey, Part
from trainer.models.families import FamilyName

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass(frozen=True)
class Magnitude:
    """The lengths that DoRA (arXiv 2402.09353, eq. 5) gives to the parts of a weight.

    Attributes:
        values: float32 on the CPU, one for each row or column.
        by: ``rows`` for each output, as PEFT has it; ``columns`` for each input, as LyCORIS and the
            paper.
    """

    values: Tensor
    by: Literal["rows", "columns"]


@dataclass(frozen=True)
class LoraLayer:
    """One layer's adapter, float32 on the CPU.

    Attributes:
        down: A, (rank, in) or (rank, in, height, width).
        up: B, (out, rank) or (out, rank, 1, 1).
        alpha: the change of the weight is alpha / rank · up · down.
        magnitude: of DoRA, whose change depends on the base model's weight (`trainer.lora.dora`).
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Magnitude | None = None

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.down.shape[0]

    @property
    def dead(self) -> bool:
        """Whether it changes nothing at all, as before the first step of training."""
        plain = self.magnitude is None
        return plain and (self.alpha == 0 or not self.up.any() or not self.down.any())


@dataclass(frozen=True)
class AdapterFile:
    """An adapter apart from any model and from any file layout.

    Attributes:
        layers: by part and canonical path.
        family: of the base model that it is for; None where nothing tells.
        metadata: as the tools show it, see `trainer.lora.metadata`.
        source: what messages call it, such as the path of its file.
    """

    layers: dict[ModuleKey, LoraLayer]
    family: FamilyName | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    source: str = "The adapter"

    @property
    def is_dora(self) -> bool:
        """Whether its change depends on the base model's weights."""
        return any(layer.magnitude is not None for layer in self.layers.values())

    @property
    def ranks(self) -> list[int]:
        """The ranks that there are, the smallest first."""
        return sorted({layer.rank for layer in self.layers.values()})

    @property
    def size_in_words(self) -> str:
        """Such as "68 layers of rank 8", "260 layers of rank 4 to 16"."""
        ranks = self.ranks
        span = " to ".join(map(str, dict.fromkeys([*ranks[:1], *ranks[-1:]])))
        return f"{len(self.layers)} layers of rank {span}" if ranks else "no layers"

    def dead_layers(self) -> list[ModuleKey]:
        """The layers that change nothing."""
        return [key for key, layer in self.layers.items() if layer.dead]


def count_parts(keys: Iterable[ModuleKey]) -> dict[Part, int]:
    """How many of the layers are in each part."""
    return dict(Counter(key.part for key in keys))
