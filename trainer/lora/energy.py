"""How strong an adapter's layers are and how their strength is spread, without forming B·A.

With thin QR factors B = Q₁R₁ and Aᵀ = Q₂R₂ the change s·BA is Q₁ (s·R₁R₂ᵀ) Q₂ᵀ, so its singular
values are those of the small core s·R₁R₂ᵀ of (rank, rank), and its Frobenius norm theirs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.lora.content import LoraLayer


class Factors(NamedTuple):
    """The singular value decomposition of s·BA: left (out, r), values (r), right (r, in)."""

    left: Tensor
    values: Tensor
    right: Tensor


def matrices(layer: LoraLayer) -> tuple[Tensor, Tensor]:
    """s·B as (out, rank) and A as (rank, everything else), s = alpha / rank, in float64.

    Raises:
        UserError: of DoRA these are not the change.
    """
    if layer.magnitude is not None:
        raise UserError(
            "This adapter is DoRA: what it changes depends on the base model.",
            "Name the base model with --base, and it is computed there.",
        )
    return _matrices(layer)


def product(layer: LoraLayer) -> Tensor:
    """s·BA as (out, everything else), in float64; of DoRA without its magnitudes."""
    up, down = _matrices(layer)
    return up @ down


def _matrices(layer: LoraLayer) -> tuple[Tensor, Tensor]:
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


def nearest(
    matrix: Tensor, rank: int | None, energy: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest up (out, r) · down (r, in) to a full matrix, and all its singular values.

    By the eigenvectors of the smaller of M·Mᵀ and Mᵀ·M, which takes a fraction of the time of a
    singular value decomposition; values below 1e-8 of the greatest are lost in rounding.

    Args:
        matrix: (out, in), float64.
        rank: at most this.
        energy: or as many as keep this share of the sum of squares.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    values = squares.flip(0).clamp_min(0).sqrt()
    count = min(rank, len(values)) if rank is not None else rank_for(values, energy or 1.0)
    basis = vectors.flip(1)[:, :count]
    root = values[:count].sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    if wide:
        return basis * root, (basis.T @ matrix) / root[:, None], values
    return (matrix @ basis) / root, root[:, None] * basis.T, values


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
