"""T-LoRA (arXiv 2507.05964): the noisier the timestep, the less of an adapter's rank trains.

At timestep t of T the first r(t) = r_min + ⌊(r - r_min) (T - t) / T⌋ of a layer's r directions take
part. Only in training mode: what is drawn, measured and written is the whole LoRA, as other tools
use it. The paper's orthogonal initialisation is not done here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.lora.layers import AdaptedConv2d, AdaptedLinear
from trainer.models.base import BaseModel

MASK = "rank_mask"  # attribute of a layer's A that has its `RankMask`; one of all layers


class RankMask:
    """Takes the directions out of A x that do not train at the timestep of their row.

    Args:
        base: knows the timesteps (`trainer.diffusion.call_unet`).
        least: r_min.
    """

    def __init__(self, base: BaseModel, least: int) -> None:
        self.base, self.least = base, least
        self._total = int(base.noise_scheduler().config["num_train_timesteps"])
        self._seen: Tensor | None = None
        self._masks: dict[tuple[int, torch.dtype], Tensor] = {}

    @property
    def is_active(self) -> bool:
        """Whether the UNet is training."""
        return self.base.training_timesteps is not None

    def __call__(self, inner: Tensor) -> Tensor:
        """A x, (N, …, r), or (N, r, H, W) of a convolution, to the same."""
        timesteps = self.base.training_timesteps
        if timesteps is None:
            return inner
        if timesteps is not self._seen:  # masks are made once for all layers
            self._seen, self._masks = timesteps, {}
        is_convolution = inner.dim() == 4
        rank = inner.shape[1 if is_convolution else -1]
        key = rank, inner.dtype
        if key not in self._masks:
            directions = torch.arange(rank, device=inner.device)
            active = active_rank(timesteps.to(inner.device), rank, self.least, self._total)
            self._masks[key] = (directions < active[:, None]).to(inner.dtype)
        mask = self._masks[key]  # (N, r)
        ones = [1] * (inner.dim() - 2)
        shape = (len(mask), rank, *ones) if is_convolution else (len(mask), *ones, rank)
        return inner * mask.view(shape)


def active_rank(timesteps: Tensor, rank: int, least: int, total: int) -> Tensor:
    """r(t), (N,) of (N,) timesteps below the total."""
    least = min(least, rank)
    return least + (rank - least) * (total - timesteps) // total


def mask_ranks(
    base: BaseModel, layers: Iterable[AdaptedLinear | AdaptedConv2d], name: str, least: int
) -> None:
    """Makes a LoRA on layers of the UNet train by timestep, as long as it is on them."""
    mask = RankMask(base, least)

    def masked(_: nn.Module, __: Any, inner: Tensor) -> Tensor:
        return mask(inner)

    for layer in layers:
        down = layer.lora_A[name]
        setattr(down, MASK, mask)
        down.register_forward_hook(masked)
