"""Adapted layers in training: ``W x + b + s B A x`` with a frozen W, in few passes over memory.

Put together from single operations, the adapter's part is written, scaled and added, and so is its
share of the input's gradient: on the widest layers these passes cost as much as the products. Here
both are added by the products themselves.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
import torch.utils.checkpoint
from peft.tuners.lora import Conv2d as AdaptedConv2d
from peft.tuners.lora import Linear as AdaptedLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trainer.lora.joined import JOINED, JoinedLayers
from trainer.lora.layers import LycorisLayer, get_weights, names_on, plain_adapter
from trainer.lora.rank_mask import MASK, RankMask

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


# ------------------------------------------------------- forwards of wrappers in training


def adapted_linear(layer: AdaptedLinear, inputs: Tensor, *args: Any, **options: Any) -> Tensor:
    """``W x + (alpha / rank) B A x`` in the number format of x.

    PEFT computes the second part in that of A and B, which are float32: a copy of every input in
    twice the size would be kept. The gradients of A and B are float32 in both cases.
    """
    name = plain_adapter(layer, args, options)
    if name is None:
        return type(layer).forward(layer, inputs, *args, **options)
    place: tuple[JoinedLayers, int] | None = getattr(layer, JOINED, None)
    if place:
        return place[0].output(inputs, place[1])
    down, up = (in_format_of(inputs, weight) for weight in get_weights(layer, name))
    scale = cast(float, layer.scaling[name])
    mask: RankMask | None = getattr(layer.lora_A[name], MASK, None)
    masked = mask is not None and mask.is_active
    if isinstance(layer.lora_dropout[name], nn.Identity) and not masked:
        return cast(Tensor, AdaptedProduct.apply(inputs, layer.base_layer, down, up, scale))
    inner = F.linear(layer.lora_dropout[name](inputs), down)  # (…, rank)
    inner = mask(inner) if mask else inner
    return layer.base_layer(inputs) + F.linear(inner, up) * scale


def adapted_convolution(layer: AdaptedConv2d, inputs: Tensor, *args: Any, **options: Any) -> Tensor:
    """The same for a convolution, (B, C, H, W) to (B, D, H', W')."""
    name = plain_adapter(layer, args, options)
    if name is None:
        return type(layer).forward(layer, inputs, *args, **options)
    place: tuple[JoinedLayers, int] | None = getattr(layer, JOINED, None)
    if place:  # of 1 x 1: a product for each place
        rows = place[0].output(inputs.flatten(2).transpose(1, 2), place[1])  # (B, H W, D)
        return rows.transpose(1, 2).view(len(inputs), -1, *inputs.shape[2:])
    added = cast(Tensor, layer.lora_dropout[name](inputs))
    for part, weight in zip((layer.lora_A, layer.lora_B), get_weights(layer, name), strict=True):
        run = cast(nn.Conv2d, part[name])._conv_forward  # pyright: ignore[reportPrivateUsage]
        added = run(added, in_format_of(inputs, weight), None)
        mask: RankMask | None = getattr(part[name], MASK, None)  # A's alone
        added = mask(added) if mask else added
    scale = cast(float, layer.scaling[name])
    return layer.base_layer(inputs) + (added if scale == 1.0 else added * scale)


def adapted_otherwise(layer: LycorisLayer, inputs: Tensor) -> Tensor:
    """``W x + ΔW x`` of LoHa and LoKr in the number format of x.

    ΔW is as large as W. It is made again in the backward pass, and not kept.
    """
    active = [name for name in layer.active_adapters if name in names_on(layer)]
    if len(active) != 1 or layer.disable_adapters:
        return cast(Tensor, cast(Any, type(layer)).forward(layer, inputs))
    result = layer.base_layer(inputs)
    if not torch.is_grad_enabled():
        return result + _changed(layer, active[0], inputs)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    made = partial(_changed, layer, active[0])
    return result + cast(Tensor, torch.utils.checkpoint.checkpoint(made, inputs, **options))


def _changed(layer: LycorisLayer, name: str, inputs: Tensor) -> Tensor:
    change = layer.get_delta_weight(name).to(inputs.dtype)
    if change.dim() == 2:
        return F.linear(inputs, change)
    base = cast(nn.Conv2d, layer.base_layer)
    return F.conv2d(inputs, change, None, base.stride, base.padding, base.dilation, base.groups)
