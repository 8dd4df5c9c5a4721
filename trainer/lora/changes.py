"""What an adapter adds to the weights, in numbers: the change s·BA of a layer, s = alpha / rank.

A change of low rank is never formed. With thin QR factors B = Q₁R₁ and Aᵀ = Q₂R₂ it is
Q₁ (s·R₁R₂ᵀ) Q₂ᵀ: its singular values and its Frobenius norm are those of the small core s·R₁R₂ᵀ.

DoRA (arXiv 2402.09353, eq. 5) makes the weight m · (W + s·BA) / ‖W + s·BA‖, with one length m for
each row or each column. Its change depends on W and has full rank, so no file of up and down
matrices holds it exactly. On a given base it is a plain change of the weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from trainer import typed_torch
from trainer.data.names import display_name
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer, form_change, form_factors, kronecker_halves
from trainer.lora.names import ModuleKey, count_layers, count_parts, shorten
from trainer.memory.devices import Precision

TOLERANCES: dict[Precision, float] = {"fp32": 1e-6, "fp16": 2e-3, "bf16": 1e-2}
"""Greatest difference of a layer's change, relative to that change. Rounding alone gives up to
about 5e-4 in fp16 and 4e-3 in bf16; more in fp16 means numbers too small for it."""
_EXACT = 1e-9  # what the arithmetic of comparing two equal matrices leaves, generously


class Factors(NamedTuple):
    """The singular value decomposition of s·BA: left (out, r), values (r), right (r, in)."""

    left: Tensor
    values: Tensor
    right: Tensor


def matrices(layer: LoraLayer, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """s·B as (out, rank) and A as (rank, everything else), in float64; of other kinds any such.

    Args:
        weight: the base model's, for changes that depend on it.

    Raises:
        UserError: its change depends on the base model, and there is no weight.
    """
    scale = layer.alpha / layer.rank
    if layer.kind == "LoRA":
        return scale * layer.up.double().flatten(1), layer.down.double().flatten(1)
    free = layer.form if layer.magnitude is None else None
    if free and (factors := form_factors(free)):
        return scale * factors[0], factors[1]
    change = full_change(layer) if weight is None else change_on(layer, weight)
    outputs, inputs = change.shape
    identity = torch.eye(min(outputs, inputs), dtype=torch.float64)
    return (identity, change) if outputs < inputs else (change, identity)


def _check_free(layer: LoraLayer) -> None:
    if layer.needs_base:
        raise UserError(
            f"This adapter is {layer.kind}: what it changes depends on the base model.",
            "Name the base model with --base, to compute it there.",
        )


@torch.no_grad()
def change_on(layer: LoraLayer, weight: Tensor | None) -> Tensor:
    """What a layer's adapter adds to a weight: (out, everything else), float64 on the CPU.

    Args:
        weight: the base model's, (out, in) or (out, in, height, width); None where the change does
            not depend on it.
    """
    scale = layer.alpha / layer.rank
    if layer.form is not None:
        change = scale * form_change(layer.form, weight)
    else:
        change = scale * layer.up.double().flatten(1) @ layer.down.double().flatten(1)
    if layer.magnitude is None:
        return change
    assert weight is not None, "DoRA needs the base model's weight"
    original = weight.detach().to("cpu", torch.float64)
    turned = original + change.reshape(original.shape)
    by = 0 if layer.magnitude.by == "rows" else 1
    others = [axis for axis in range(original.dim()) if axis != by]
    lengths = typed_torch.vector_norm(turned, dim=others, keepdim=True)
    wanted = layer.magnitude.values.double().reshape(lengths.shape)
    # A row without length has no direction: it stays as it is, since m is 0 there as well.
    scale = torch.where(lengths > 0, wanted / lengths, 1.0)
    return (scale * turned - original).flatten(1)


def full_change(layer: LoraLayer) -> Tensor:
    """s·BA, formed: (out, everything else), float64.

    Raises:
        UserError: its change depends on the base model.
    """
    _check_free(layer)
    return change_on(layer, None)


def decomposition(layer: LoraLayer) -> Factors:
    """The singular value decomposition of s·BA.

    The singular values of W1 ⊗ W2 are the products of theirs, and its vectors the products too.

    Raises:
        UserError: its change depends on the base model.
    """
    halves = kronecker_halves(layer.form) if layer.form else None
    if halves is None:
        return decompose(*matrices(layer))
    _check_free(layer)
    (left, values, right), (left_2, values_2, right_2) = (
        typed_torch.svd(half, full_matrices=False) for half in halves
    )
    products, order = torch.outer(values, values_2).flatten().sort(descending=True)
    left, right = torch.kron(left, left_2)[:, order], torch.kron(right, right_2)[order]
    scale = layer.alpha / layer.rank
    return Factors(math.copysign(1.0, scale) * left, abs(scale) * products, right)


def singular_values(layer: LoraLayer) -> Tensor:
    """The singular values of s·BA, greatest first, (min(rank, out, in))."""
    if halves := layer.form and kronecker_halves(layer.form):
        _check_free(layer)
        products = torch.outer(*(typed_torch.svdvals(half) for half in halves)).flatten()
        return abs(layer.alpha / layer.rank) * products.sort(descending=True).values
    return typed_torch.svdvals(_core(*matrices(layer)))


def energy_of(layer: LoraLayer) -> float:
    """Frobenius norm of s·BA."""
    if layer.form is not None:
        return float(typed_torch.norm(full_change(layer)))
    return float(typed_torch.norm(_core(*matrices(layer))))


def _core(up: Tensor, down: Tensor) -> Tensor:
    """The small matrix R₁R₂ᵀ that has the singular values of up · down."""
    up_factor = typed_torch.qr(up, mode="r")[1]
    down_factor = typed_torch.qr(down.T, mode="r")[1]
    return up_factor @ down_factor.T


def decompose(up: Tensor, down: Tensor) -> Factors:
    """The singular value decomposition of up (out, rank) · down (rank, in)."""
    up_basis, up_factor = typed_torch.qr(up)
    down_basis, down_factor = typed_torch.qr(down.T)
    left, values, right = typed_torch.svd(up_factor @ down_factor.T, full_matrices=False)
    return Factors(up_basis @ left, values, right @ down_basis.T)


def nearest(matrix: Tensor, rank: int | None, energy: float | None) -> tuple[Tensor, Tensor]:
    """The nearest up (out, r) · down (r, in) to a full matrix.

    By the eigenvectors of the smaller of M·Mᵀ and Mᵀ·M, which takes a fraction of the time of a
    singular value decomposition; values below 1e-8 of the greatest are lost in rounding.

    Args:
        matrix: (out, in), float64.
        rank: at most this.
        energy: or as many as keep this share of the sum of squares.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    squares, vectors = typed_torch.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    values = squares.flip(0).clamp_min(0).sqrt()
    count = rank_for(values, rank, energy)
    basis = vectors.flip(1)[:, :count]
    root = values[:count].sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    if wide:
        return basis * root, (basis.T @ matrix) / root[:, None]
    return (matrix @ basis) / root, root[:, None] * basis.T


def rank_for(values: Tensor, rank: int | None, energy: float | None) -> int:
    """How many of the greatest singular values to keep.

    Args:
        values: greatest first.
        rank: at most this many.
        energy: or as many as keep this share of the sum of squares; at least 1.
    """
    if energy is None:
        return min(rank or 1, len(values))
    squares = values.double().square()
    cumulated = squares.cumsum(0)
    total = float(squares.sum())
    return min(int((cumulated < energy * total).sum()) + 1, len(values)) if total else 1


# -- comparing two adapters


@dataclass(frozen=True)
class Comparison:
    """How an adapter differs from the one that it was made of, or should be."""

    # Frobenius norm of the difference of all layers' changes over that of the changes.
    overall: float
    worst: float  # the greatest of a single layer, relative to that layer's change
    worst_layer: ModuleKey | None  # where that is; None where nothing differs
    matched: tuple[ModuleKey, ...] = ()  # layers that are in both
    missing: tuple[ModuleKey, ...] = ()  # layers of the first that the second lacks
    unexpected: tuple[ModuleKey, ...] = ()  # layers of the second that the first lacks
    dead: tuple[ModuleKey, ...] = ()  # layers of the second that change nothing
    precision: Precision = "fp32"  # of the second's file
    # For each bundled embedding of one or both, how far its vectors differ, relative to them.
    words: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def exact(self) -> bool:
        """Whether both are the same, but for the rounding of the second's precision."""
        complete = bool(self.matched) and not self.missing and not self.unexpected
        return complete and max([self.worst, *self.words.values()]) <= TOLERANCES[self.precision]

    def in_words(self) -> str:
        """How much it differs, such as "is exact"."""
        if self.worst <= _EXACT:
            return "is exact"
        return (
            f"differs by {100 * self.overall:.3g} % of the adapter's change, at most by "
            f"{100 * self.worst:.3g} % of a layer's ({self.worst_layer})"
        )

    def summary(self) -> str:
        """In one line, what was compared and everything that is wrong."""
        count = count_layers(count_parts(self.matched))
        limit = TOLERANCES[self.precision]
        difference = f"{self.worst:.1e} of the adapter's change ({self.precision})"
        parts = [f"the file, read back, holds {count} to within {difference}"]
        parts += [
            f"the vectors of {display_name(word[:80])} to within {relative:.1e}"
            if relative <= limit
            else f"not the vectors of {display_name(word[:80])}"
            for word, relative in self.words.items()
        ]
        if self.worst > limit:
            parts.append(f"more than {limit:.0e} in {self.worst_layer}: save in fp32")
        if self.missing:
            parts.append(f"missing: {shorten(self.missing)}")
        if self.unexpected:
            parts.append(f"unexpected: {shorten(self.unexpected)}")
        if self.dead:
            which = "all layers" if len(self.dead) == len(self.matched) else shorten(self.dead)
            parts.append(f"without effect (B = 0): {which}")
        return "; ".join(parts)


def compare(before: Adapter, after: Adapter) -> Comparison:
    """How the changes of two adapters differ, layer by layer.

    Raises:
        UserError: what one of them changes depends on the base model.
    """
    worst, worst_layer, lost, total = 0.0, None, 0.0, 0.0
    matched = [key for key in before.layers if key in after.layers]
    for key in matched:
        relative = relative_difference(before.layers[key], after.layers[key])
        energy = energy_of(before.layers[key])
        total += energy**2
        lost += (relative * energy) ** 2 if energy else 0.0
        if relative > worst:
            worst, worst_layer = relative, key
    return Comparison(
        math.sqrt(lost / total) if total else 0.0,
        worst,
        worst_layer,
        matched=tuple(matched),
        missing=tuple(key for key in before.layers if key not in after.layers),
        unexpected=tuple(key for key in after.layers if key not in before.layers),
        dead=tuple(after.dead_layers()),
        precision=after.precision,
        words={
            word: _vectors_differ(before.embeddings.get(word, {}), after.embeddings.get(word, {}))
            for word in {**before.embeddings, **after.embeddings}
        },
    )


def _vectors_differ(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """The greatest relative difference of an embedding's tensors; infinite where one is missing."""
    if before.keys() != after.keys() or any(before[n].shape != after[n].shape for n in before):
        return math.inf
    return max(
        float(typed_torch.norm(after[name] - one)) / max(float(typed_torch.norm(one)), 1e-30)
        for name, one in before.items()
    )


def relative_difference(reference: LoraLayer, other: LoraLayer) -> float:
    """Frobenius norm of s'B'A' - sBA over that of sBA; infinite over a zero."""
    if reference.form is not None or other.form is not None:
        change, found = full_change(reference), full_change(other)
        if change.shape != found.shape:
            return math.inf
        size, difference = (float(typed_torch.norm(one)) for one in (change, found - change))
        return difference / size if size else math.inf if difference else 0.0
    up, down = matrices(reference)
    other_up, other_down = matrices(other)
    if up.shape[0] != other_up.shape[0] or down.shape[1] != other_down.shape[1]:
        return math.inf
    size = float(typed_torch.norm(_core(up, down)))
    both = torch.cat([other_up, -up], 1), torch.cat([other_down, down], 0)
    difference = float(typed_torch.norm(_core(*both)))
    if size == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / size
