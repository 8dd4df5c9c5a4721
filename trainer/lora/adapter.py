"""What an adapter consists of, apart from any model and from any file layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from trainer.lora.layouts import LayerNames
from trainer.lora.names import ModuleKey
from trainer.memory.devices import Precision
from trainer.models.families import FamilyName


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
        magnitude: of DoRA, whose change depends on the base model's weight (`change_on`).
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
    def shape(self) -> tuple[int, ...]:
        """Of its change: (out, in) or (out, in, height, width)."""
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def dead(self) -> bool:
        """Whether it changes nothing at all, as before the first step of training."""
        plain = self.magnitude is None
        return plain and (self.alpha == 0 or not self.up.any() or not self.down.any())


@dataclass(frozen=True)
class Adapter:
    """A trained LoRA in memory, apart from any model.

    Attributes:
        layers: by part and canonical path.
        family: of the base model that it is for; None where nothing tells.
        metadata: as the tools show it, see `trainer.lora.metadata`.
        source: what messages call it, such as the path of its file.
        names: what its tensors are called in the file that it was read from; else empty.
        precision: coarsest number format of the matrices in that file; in memory all are float32.
    """

    layers: dict[ModuleKey, LoraLayer]
    family: FamilyName | None = None
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    source: str = "The adapter"
    names: dict[ModuleKey, LayerNames] = field(default_factory=dict[ModuleKey, LayerNames])
    precision: Precision = "fp32"

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
