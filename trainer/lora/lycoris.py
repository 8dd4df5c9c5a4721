"""LyCORIS's kinds of adapters that are no pair of matrices: their changes of a weight.

The formulas are those of LyCORIS (arXiv 2309.14859) as A1111 and ComfyUI compute them too; GLoRA is
arXiv 2306.07967, OFT arXiv 2306.07280 (eq. 6, by blocks of rows, with Cayley's rotation).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer import typed_torch

FormName = Literal["LoHa", "LoKr", "OFT", "GLoRA", "full difference"]
_RANKED: dict[FormName, tuple[str, ...]] = {
    "LoHa": ("hada_w1_b",),
    "LoKr": ("lokr_w2_b", "lokr_w1_b"),
    "full difference": (),
}
"""The tensors whose rows are counted as the rank: the first that there is."""


@dataclass(frozen=True)
class LycorisForm:
    """A layer's change of the weight, unscaled.

    Attributes:
        tensors: float32, by the names that they have behind the layer's in the file.
        shape: of the change: (out, in) or (out, in, height, width); of OFT, which the tensors do
            not tell wholly, (out,).
        rank: what alpha is divided by.
    """

    name: FormName
    tensors: Mapping[str, Tensor]
    shape: tuple[int, ...]
    rank: int

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
