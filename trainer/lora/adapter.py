"""What an adapter consists of, apart from any model and from any file layout."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from trainer import typed_torch
from trainer.lora.layouts import LayerNames
from trainer.lora.names import ModuleKey
from trainer.memory.devices import Precision
from trainer.models.families import FamilyName

FormName = Literal["LoHa", "LoKr", "OFT", "GLoRA", "full difference"]
_RANKED: dict[FormName, tuple[str, ...]] = {
    "LoHa": ("hada_w1_b",),
    "LoKr": ("lokr_w2_b", "lokr_w1_b"),
    "full difference": (),
}
"""The tensors whose rows are counted as the rank: the first that there is."""


@dataclass(frozen=True)
class LycorisForm:
    """A layer's change of the weight, unscaled."""

    name: FormName
    # Float32, by the names that they have behind the layer's in the file.
    tensors: Mapping[str, Tensor]
    # Of the change: (out, in) or (out, in, height, width); of OFT, which the tensors do not tell
    # wholly, (out,).
    shape: tuple[int, ...]
    rank: int  # what alpha is divided by

    @property
    def needs_base(self) -> bool:
        """Whether the change depends on the base model's weight."""
        return self.name in ("OFT", "GLoRA")


def read_form(
    name: FormName, tensors: Mapping[str, Tensor], largest: tuple[int, ...]
) -> LycorisForm:
    """A form of its tensors, checked.

    Args:
        largest: shape of the largest weight of the layer in any family.

    Raises:
        ValueError: the shapes don't go together; says which.
    """
    shapes = ", ".join(f"{kind} {' x '.join(map(str, t.shape))}" for kind, t in tensors.items())
    try:
        # Tensors without values tell the shapes, whatever a file claims.
        shape, rank = _sizes(name, {kind: t.to("meta") for kind, t in tensors.items()})
    except (RuntimeError, IndexError, KeyError, ValueError):
        raise ValueError(f"{name} with {shapes}, which don't go together") from None
    if not 0 < math.prod(shape) <= math.prod(largest):
        raise ValueError(f"{name} with {shapes}, which is a change that no such layer has")
    kernel = largest[2:]
    if len(shape) == 2 and kernel and shape[1] % math.prod(kernel) == 0 and name != "GLoRA":
        shape = (shape[0], shape[1] // math.prod(kernel), *kernel)
    return LycorisForm(name, tensors, shape, max(rank, 1))


@torch.no_grad()
def form_change(form: LycorisForm, weight: Tensor | None = None) -> Tensor:
    """The unscaled change: (out, everything else), float64.

    Args:
        weight: the base model's, which OFT and GLoRA need.
    """
    tensors = {kind: tensor.double() for kind, tensor in form.tensors.items()}
    if not form.needs_base:
        return _product(form.name, tensors).flatten(1)
    assert weight is not None, f"{form.name} needs the base model's weight"
    weight = weight.detach().to("cpu", torch.float64)
    return _rotated(tensors, weight) if form.name == "OFT" else _glora(tensors, weight)


@torch.no_grad()
def form_factors(form: LycorisForm) -> tuple[Tensor, Tensor] | None:
    """Up (out, r) and down (r, everything else) with the change as their product; None where r
    would be large, or depends on the base model."""
    tensors = {kind: tensor.double() for kind, tensor in form.tensors.items()}
    if form.name == "LoHa" and "hada_t1" not in tensors:
        # (U V) * (X Y) has the columns of U times those of X, and the rows of V times those of Y.
        first, second = tensors["hada_w1_a"], tensors["hada_w2_a"]
        up = (first.unsqueeze(2) * second.unsqueeze(1)).flatten(1)
        first, second = tensors["hada_w1_b"].flatten(1), tensors["hada_w2_b"].flatten(1)
        down = (first.unsqueeze(1) * second.unsqueeze(0)).flatten(0, 1)
    elif form.name == "LoKr" and "lokr_w2_a" in tensors and "lokr_t2" not in tensors:
        # W1 ⊗ (U V) = (W1 ⊗ U) (I ⊗ V)
        one, _ = _halves_of_lokr(tensors)
        up = torch.kron(one, tensors["lokr_w2_a"].contiguous())
        identity = torch.eye(one.shape[1], dtype=torch.float64)
        down = torch.kron(identity, tensors["lokr_w2_b"].flatten(1).contiguous())
    else:
        return None
    return (up, down) if up.shape[1] < min(up.shape[0], down.shape[1]) else None


def _product(name: FormName, tensors: Mapping[str, Tensor]) -> Tensor:
    if name == "LoHa":
        return _half_of_loha(tensors, "1") * _half_of_loha(tensors, "2")
    if name == "LoKr":
        one, other = _halves_of_lokr(tensors)
        one = one.reshape(*one.shape, *[1] * (other.dim() - 2))
        return torch.kron(one, other.contiguous())
    return tensors["diff"]


def kronecker_halves(form: LycorisForm) -> tuple[Tensor, Tensor] | None:
    """Of LoKr the two matrices W1 and W2 of W1 ⊗ W2, float64; else None."""
    if form.name != "LoKr":
        return None
    one, other = _halves_of_lokr({kind: tensor.double() for kind, tensor in form.tensors.items()})
    return one, other.flatten(1)


def _half_of_loha(tensors: Mapping[str, Tensor], half: str) -> Tensor:
    up, down = tensors[f"hada_w{half}_a"], tensors[f"hada_w{half}_b"]
    core = tensors.get(f"hada_t{half}")
    if core is None:
        return up @ down.flatten(1)
    return torch.einsum("ijkl,jr,ip->prkl", core, down, up)


def _halves_of_lokr(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    one = tensors.get("lokr_w1")
    other = tensors.get("lokr_w2")
    if one is None:
        one = tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    if other is None and "lokr_t2" in tensors:
        core, up, down = (tensors[f"lokr_{name}"] for name in ("t2", "w2_a", "w2_b"))
        other = torch.einsum("ijkl,jr,ip->prkl", core, down, up)
    elif other is None:
        other = tensors["lokr_w2_a"] @ tensors["lokr_w2_b"].flatten(1)
    return one, other


def _rotated(tensors: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    """(R - I) W with one rotation for each block of rows."""
    blocks = tensors["oft_blocks"]
    skew = blocks - blocks.transpose(1, 2)
    limit = float(tensors["alpha"]) * weight.shape[0] if "alpha" in tensors else 0.0
    size = float(typed_torch.vector_norm(skew))
    if 0 < limit < size:
        skew = skew * (limit / size)
    identity = torch.eye(blocks.shape[1], dtype=torch.float64)
    rotation = (identity + skew) @ typed_torch.inv(identity - skew)
    rows = weight.flatten(1)
    turned = rotation.transpose(1, 2) @ rows.reshape(blocks.shape[0], blocks.shape[1], -1)
    turned = turned.reshape(rows.shape)
    if "rescale" in tensors:
        turned = turned * tensors["rescale"].reshape(-1, 1)
    return turned - rows


def _glora(tensors: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    """W A1 A2 + B1 B2; in files of before 2024 the matrices are numbered the other way round."""
    a1, a2, b1, b2 = (tensors[kind].flatten(1) for kind in ("a1", "a2", "b1", "b2"))
    if _is_old_glora(tensors):
        a1, a2, b1, b2 = a2, a1, b2, b1
    changed = torch.einsum("oi...,ij->oj...", weight, a1 @ a2)
    return changed.flatten(1) + b1 @ b2


def _is_old_glora(tensors: Mapping[str, Tensor]) -> bool:
    return tensors["a1"].shape[0] < tensors["a1"].shape[1]


def _sizes(name: FormName, tensors: Mapping[str, Tensor]) -> tuple[tuple[int, ...], int]:
    """The shape of the change, and what alpha is divided by; 0 where by nothing."""
    if name == "OFT":
        count, size, other = tensors["oft_blocks"].shape
        if size != other:
            raise ValueError("a rotation that is not square")
        return (count * size,), 0
    if name == "GLoRA":
        old = _is_old_glora(tensors)
        up, down = (tensors[kind] for kind in (("b2", "b1") if old else ("b1", "b2")))
        _ = up.flatten(1) @ down.flatten(1)
        ends = (tensors[kind].flatten(1) for kind in (("a2", "a1") if old else ("a1", "a2")))
        first, second = ends
        if (first @ second).shape[0] != down.shape[1]:
            raise ValueError("another number of inputs")
        return (up.shape[0], *down.shape[1:]), down.shape[0]
    ranks = [tensors[kind].shape[0] for kind in _RANKED[name] if kind in tensors]
    return tuple(_product(name, tensors).shape), ranks[0] if ranks else 0


# --------------------------------------------------------------------------------- LyCORIS's kinds


@dataclass(frozen=True)
class Magnitude:
    """The lengths that DoRA (arXiv 2402.09353, eq. 5) gives to the parts of a weight."""

    values: Tensor  # float32 on the CPU, one for each row or column
    # ``rows`` for each output, as PEFT has it; ``columns`` for each input, as LyCORIS and the
    # paper.
    by: Literal["rows", "columns"]


@dataclass(frozen=True)
class LoraLayer:
    """One layer's adapter, float32 on the CPU."""

    down: Tensor  # A, (rank, in) or (rank, in, height, width)
    up: Tensor  # B, (out, rank) or (out, rank, 1, 1)
    alpha: float  # the change of the weight is alpha / rank · up · down
    # Of DoRA, whose change depends on the base model's weight (`change_on`).
    magnitude: Magnitude | None = None
    form: LycorisForm | None = None  # of LyCORIS's other kinds; down and up are then empty

    @classmethod
    def of_form(cls, form: LycorisForm, alpha: float) -> LoraLayer:
        """A layer of one of LyCORIS's other kinds."""
        return cls(torch.empty(0, 0), torch.empty(0, 0), alpha, form=form)

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
    """A trained LoRA in memory, apart from any model."""

    layers: dict[ModuleKey, LoraLayer]  # by part and canonical path
    family: FamilyName | None = None  # of the base model that it is for; None where nothing tells
    # As the tools show it, see `trainer.lora.metadata`.
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    source: str = "The adapter"  # what messages call it, such as the path of its file
    # What its tensors are called in the file that it was read from; else empty.
    names: dict[ModuleKey, LayerNames] = field(default_factory=dict[ModuleKey, LayerNames])
    # Coarsest number format of the matrices in that file; in memory all are float32.
    precision: Precision = "fp32"
    # Tensors of the bundled embeddings, by the embedding's name and their own.
    embeddings: dict[str, dict[str, Tensor]] = field(default_factory=dict[str, dict[str, Tensor]])
    left_out: tuple[str, ...] = ()  # names of the tensors in that file that were not read

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
