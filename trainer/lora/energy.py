"""How strong an adapter's layers are and how their strength is spread, without forming B·A.

With thin QR factors B = Q₁R₁ and Aᵀ = Q₂R₂ the change s·BA is Q₁ (s·R₁R₂ᵀ) Q₂ᵀ, so its singular
values are those of the small core s·R₁R₂ᵀ of (rank, rank), and its Frobenius norm theirs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.lora.files import LoraLayer


class Factors(NamedTuple):
    """The singular value decomposition of s·BA: left (out, r), values (r), right (r, in)."""

    left: Tensor
    values: Tensor
    right: Tensor


def matrices(layer: LoraLayer) -> tuple[Tensor, Tensor]:
    """s·B as (out, rank) and A as (rank, everything else), s = alpha / rank, in float64."""
    scale = layer.alpha / layer.rank
    return scale * layer.up.double().flatten(1), layer.down.double().flatten(1)


def singular_values(layer: LoraLayer) -> Tensor:
    """The singular values of alpha / rank · BA, greatest first, (min(rank, out, in))."""
    up, down = matrices(layer)
    up_factor = torch.linalg.qr(up, mode="r").R
    down_factor = torch.linalg.qr(down.T, mode="r").R
    return torch.linalg.svdvals(up_factor @ down_factor.T)


def decompose(up: Tensor, down: Tensor) -> Factors:
    """The singular value decomposition of up (out, rank) · down (rank, in)."""
    up_basis, up_factor = torch.linalg.qr(up)
    down_basis, down_factor = torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(up_factor @ down_factor.T)
    count = len(values)
    return Factors(up_basis @ left[:, :count], values, right[:count] @ down_basis.T)


def energy_of(layer: LoraLayer) -> float:
    """Frobenius norm of alpha / rank · BA."""
    return float(torch.linalg.norm(singular_values(layer)))


def rank_for(values: Tensor, share: float) -> int:
    """How many of the greatest singular values keep a share of the energy, their squares' sum.

    At least 1; for values that are all 0, 1.
    """
    squares = values.double().square()
    total = float(squares.sum())
    if total == 0:
        return 1
    kept = squares.cumsum(0)
    return min(int((kept < share * total).sum()) + 1, len(values))
