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

COPY = "in_base_format"
"""Attribute of a parameter that has its copy in the base model's number format, while it is up to
date (`trainer.training.copies`)."""


def in_format_of(inputs: Tensor, parameter: Tensor) -> Tensor:
    """A parameter in the number format of what it is multiplied with."""
    copy: Tensor | None = getattr(parameter, COPY, None)
    return parameter.to(inputs.dtype) if copy is None or copy.dtype != inputs.dtype else copy


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
        of_inner = _times(gradient @ up, ctx.scale)  # (N, rank)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_inputs = (gradient @ ctx.layer.weight).addmm_(of_inner, down).view(ctx.shape)
        of_up = _times(gradient.T @ inner, ctx.scale)
        return of_inputs, None, of_inner.T @ rows, of_up, None


def _times(product: Tensor, scale: float) -> Tensor:
    """Alpha over rank is 1 unless somebody chose another: then there is nothing to start."""
    return product if scale == 1.0 else product.mul_(scale)
