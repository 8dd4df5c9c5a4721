"""What an adapter consists of, apart from any model and from any file layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from trainer.lora.family_layers import ModuleKey
from trainer.lora.layouts import LayerNames
from trainer.lora.lycoris import FormName, LycorisForm, form_change, read_form
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
        form: of LyCORIS's other kinds; down and up are then empty.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Magnitude | None = None
    form: LycorisForm | None = None

    @classmethod
    def of_form(
        cls, form: LycorisForm, alpha: float, magnitude: Magnitude | None = None
    ) -> LoraLayer:
        """A layer of one of LyCORIS's other kinds."""
        return cls(torch.empty(0, 0), torch.empty(0, 0), alpha, magnitude, form)

    @classmethod
    def of_trained(
        cls, tensors: Mapping[str, Tensor], scale: tuple[int, float], largest: tuple[int, ...]
    ) -> LoraLayer:
        """A layer of what trains, by the names that it has there (`layers.parameters_on`).

        Args:
            scale: the rank and the alpha that it is trained with.
            largest: as of `read_form`.

        Raises:
            ValueError: the tensors don't go together.
        """
        rank, alpha = scale
        if "lora_A" in tensors:
            lengths = tensors.get("magnitude")
            magnitude = None if lengths is None else Magnitude(lengths.flatten(), "rows")
            return cls(tensors["lora_A"], tensors["lora_B"], float(alpha), magnitude)
        name: FormName = "LoHa" if "hada_w1_a" in tensors else "LoKr"
        form = read_form(name, tensors, largest)
        return cls.of_form(form, alpha * form.rank / rank)  # W1 ⊗ W2, both whole, has no rank

    @property
    def rank(self) -> int:
        """Rows of A, or what alpha is divided by."""
        return self.form.rank if self.form else self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its change: (out, in) or (out, in, height, width); of OFT (out,)."""
        return self.form.shape if self.form else (self.up.shape[0], *self.down.shape[1:])

    @property
    def kind(self) -> str:
        """Such as "LoRA", "DoRA" or "LoHa"."""
        return self.form.name if self.form else "DoRA" if self.magnitude else "LoRA"

    @property
    def needs_base(self) -> bool:
        """Whether its change depends on the base model's weight."""
        return self.magnitude is not None or (self.form is not None and self.form.needs_base)

    @property
    def dead(self) -> bool:
        """Whether it changes nothing at all, as before the first step of training."""
        if self.needs_base:
            return False
        parts = [form_change(self.form)] if self.form else [self.up, self.down]
        return self.alpha == 0 or not all(part.any() for part in parts)


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
        embeddings: tensors of the bundled embeddings, by the embedding's name and their own.
        left_out: names of the tensors in that file that were not read.
    """

    layers: dict[ModuleKey, LoraLayer]
    family: FamilyName | None = None
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    source: str = "The adapter"
    names: dict[ModuleKey, LayerNames] = field(default_factory=dict[ModuleKey, LayerNames])
    precision: Precision = "fp32"
    embeddings: dict[str, dict[str, Tensor]] = field(default_factory=dict[str, dict[str, Tensor]])
    left_out: tuple[str, ...] = ()

    @property
    def kinds(self) -> list[str]:
        """The kinds of its layers, such as "LoRA" and "DoRA", the commonest first."""
        return [kind for kind, _ in Counter(x.kind for x in self.layers.values()).most_common()]

    @property
    def other_kinds(self) -> str:
        """Its kinds but for LoRA, such as "LoHa and DoRA"."""
        return " and ".join(kind for kind in self.kinds if kind != "LoRA")

    @property
    def is_plain(self) -> bool:
        """Whether all layers are pairs of matrices, which files hold."""
        return all(layer.kind == "LoRA" for layer in self.layers.values())

    @property
    def needs_base(self) -> bool:
        """Whether its change depends on the base model's weights."""
        return any(layer.needs_base for layer in self.layers.values())

    @property
    def shapes(self) -> dict[ModuleKey, tuple[int, ...]]:
        """Of each layer's change."""
        return {key: layer.shape for key, layer in self.layers.items()}

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
