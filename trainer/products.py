"""Frozen linear layers: products with a weight that is taken from its layer in each pass.

What is kept for the backward pass is the layer, not its weight. So a weight can be made each time
from what is stored of it (`trainer.memory.quantized`), or be let go between the passes
(`trainer.models.pages`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trainer.models.pages import let_go

_PART = 2**22
"""Values of a weight in half precision that are made float32 at a time: what fits the processor's
cache, and what the C library keeps at hand (`trainer.allocator`)."""


class Product(torch.autograd.Function):
    """``x Wᵀ + b`` with a frozen W that is looked up in its layer twice, and kept neither time."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: nn.Linear) -> Tensor:  # type: ignore[override]
        """(…, in) to (…, out)."""
        ctx.layer = layer
        half = _large_half(layer)
        if half is None:
            result = F.linear(inputs, layer.weight, layer.bias)
        else:
            result = _in_parts(inputs, half, layer.bias)
        let_go(layer)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradient of the input, (…, in)."""
        layer: nn.Linear = ctx.layer
        half = _large_half(layer)
        result = gradient @ layer.weight if half is None else _gradient_in_parts(gradient, half)
        let_go(layer)
        return result, None


def _large_half(layer: nn.Linear) -> Tensor | None:
    """The weight as it is kept, where it is made float32 in parts: (out, in), half precision."""
    if getattr(layer, "bits", "") != "half":
        return None
    codes = cast(Tensor, layer.codes)
    return codes if codes.numel() > _PART and not codes.is_meta else None


def _in_parts(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = inputs.reshape(-1, weight.shape[1])
    result = rows.new_empty(len(rows), len(weight))
    for part in _parts(weight):
        if bias is None:
            torch.mm(rows, weight[part].float().T, out=result[:, part])
        else:
            torch.addmm(bias[part], rows, weight[part].float().T, out=result[:, part])
    return result.view(*inputs.shape[:-1], -1)


def _gradient_in_parts(gradient: Tensor, weight: Tensor) -> Tensor:
    rows = gradient.reshape(-1, len(weight))
    result = rows.new_zeros(len(rows), weight.shape[1])
    for part in _parts(weight):
        result.addmm_(rows[:, part], weight[part].float())
    return result.view(*gradient.shape[:-1], -1)


def _parts(weight: Tensor) -> Iterator[slice]:
    """Of its rows."""
    size = max(1, _PART // weight.shape[1])
    for start in range(0, len(weight), size):
        yield slice(start, start + size)
