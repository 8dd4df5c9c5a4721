"""``W x + b + s B A x`` with a frozen W, with as few passes over memory as it takes.

Put together from single operations, the adapter's part is written, scaled and added, and so is its
share of the input's gradient: on the widest layers these passes cost as much as the products. Here
both are added by the products themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class AdaptedProduct(torch.autograd.Function):
    """Keeps the input and ``A x``; the frozen layer's weight is taken from it when it is needed."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, inputs: Tensor, layer: nn.Linear, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """(…, in) to (…, out), with down (rank, in) and up (out, rank) in the input's dtype."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        inner = rows @ down.T  # (N, rank)
        result = F.linear(rows, layer.weight, layer.bias).addmm_(inner, up.T, alpha=scale)
        ctx.layer, ctx.scale, ctx.shape = layer, scale, inputs.shape
        ctx.save_for_backward(rows, inner, down, up)
        return result.view(*inputs.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the input, down and up."""
        rows, inner, down, up = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])  # (N, out)
        of_inner = (gradient @ up).mul_(ctx.scale)  # (N, rank)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_inputs = (gradient @ ctx.layer.weight).addmm_(of_inner, down).view(ctx.shape)
        of_up = (gradient.T @ inner).mul_(ctx.scale)
        return of_inputs, None, of_inner.T @ rows, of_up, None
