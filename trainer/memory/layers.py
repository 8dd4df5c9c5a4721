"""Frozen layers that keep no more for the backward pass than the gradient of their input needs.

torch keeps the input of every convolution for the gradient of its weight, frozen or not, and keeps
the outputs of norms and activations though they are quickly computed again. The functions here
compute the same numbers with the same kernels and keep less; a module uses them through a
``forward`` of its own, which `lean_layers` sets and takes away again. The tree of modules and their
names stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, cast

import torch
import torch.nn.grad
import torch.utils.checkpoint
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.embeddings import Timesteps
from diffusers.models.resnet import ResnetBlock2D
from peft.tuners.lora import Conv2d as AdaptedConv2d
from peft.tuners.lora import Linear as AdaptedLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.activations import QuickGELUActivation

from trainer.lora.joined import JOINED, JoinedTime
from trainer.lora.layers import LycorisLayer
from trainer.lora.product import adapted_convolution, adapted_linear, adapted_otherwise

Forward = Callable[..., Tensor]
_ACTIVATED = "activated"  # attribute of the time embedding of a call


class Convolution(torch.autograd.Function):
    """A frozen convolution: keeps the shape of its input. Its weight is there, or made again."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, inputs: Tensor, layer: nn.Conv2d, bias: Tensor | None
    ) -> Tensor:
        """(B, C, H, W) and (D,), frozen, to (B, D, H', W')."""
        ctx.layer, ctx.shape = layer, inputs.shape
        run = layer._conv_forward  # pyright: ignore[reportPrivateUsage] (no public one pads)
        return run(inputs, layer.weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradient of the input, (B, C, H, W)."""
        layer: nn.Conv2d = ctx.layer
        options: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation, layer.groups)
        return torch.nn.grad.conv2d_input(ctx.shape, layer.weight, gradient, *options), None, None


class Product(torch.autograd.Function):
    """``x Wᵀ + b`` with a frozen W that is taken from its layer in each pass and not kept."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: nn.Linear) -> Tensor:  # type: ignore[override]
        """(…, in) to (…, out)."""
        ctx.layer = layer
        return F.linear(inputs, layer.weight, layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradient of the input, (…, in)."""
        return gradient @ ctx.layer.weight, None


class NormSilu(torch.autograd.Function):
    """``silu(group_norm(x))`` with frozen weights: keeps x and the groups' statistics."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, norm: nn.GroupNorm) -> Tensor:  # type: ignore[override]
        """(B, C, H, W) to the same."""
        inputs = inputs.contiguous()
        normed, mean, deviation = _group_norm(inputs, norm)
        ctx.norm = norm
        ctx.save_for_backward(inputs, mean, deviation)
        return F.silu(normed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradient of the input, (B, C, H, W)."""
        inputs, mean, deviation = ctx.saved_tensors
        norm = ctx.norm
        normed = _group_norm(inputs, norm)[0]
        gradient = torch.ops.aten.silu_backward(gradient, normed)
        del normed
        batch, channels, height, width = inputs.shape
        return torch.ops.aten.native_group_norm_backward(
            gradient.contiguous(),
            inputs,
            mean,
            deviation,
            norm.weight,
            batch,
            channels,
            height * width,
            norm.num_groups,
            [True, False, False],
        )[0], None


class Gated(torch.autograd.Function):
    """``a · gelu(b)`` of (a, b) (GEGLU, arXiv 2002.05202): keeps a and b only."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:  # type: ignore[override]
        """(…, 2 D) to (…, D)."""
        ctx.save_for_backward(both)
        value, gate = both.chunk(2, dim=-1)
        return value * F.gelu(gate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        """The gradient of both, (…, 2 D)."""
        (both,) = ctx.saved_tensors
        if torch.compiler.is_compiling():  # it fuses these, and knows no ``out``
            value, gate = both.chunk(2, dim=-1)
            of_gate = torch.ops.aten.gelu_backward(gradient * value, gate)
            return torch.cat([gradient * F.gelu(gate), of_gate], dim=-1)
        found = torch.empty_like(both, memory_format=torch.contiguous_format)
        value, gate = both.chunk(2, dim=-1)
        of_value, of_gate = found.chunk(2, dim=-1)
        product = F.gelu(gate)
        torch.mul(gradient, product, out=of_value)
        torch.mul(gradient, value, out=product)
        torch.ops.aten.gelu_backward.grad_input(product, gate, grad_input=of_gate)
        return found


class QuickGelu(torch.autograd.Function):
    """``x · sigmoid(1.702 x)``, CLIP's activation: keeps x only."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:  # type: ignore[override]
        """Any shape to the same."""
        ctx.save_for_backward(inputs)
        return inputs * torch.sigmoid(1.702 * inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        """The gradient of the input."""
        (inputs,) = ctx.saved_tensors
        share = torch.sigmoid(1.702 * inputs)
        inner = torch.ops.aten.sigmoid_backward(gradient * inputs, share)
        return gradient * share + 1.702 * inner


def _group_norm(inputs: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, height, width = inputs.shape
    return torch.ops.aten.native_group_norm(
        inputs, norm.weight, norm.bias, batch, channels, height * width, norm.num_groups, norm.eps
    )


# ---------------------------------------------------------------------- forwards of modules


def _convolution(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    return cast(Tensor, Convolution.apply(inputs, layer, layer.bias))


def _resnet(block: ResnetBlock2D, inputs: Tensor, temb: Tensor | None, *_: Any) -> Tensor:
    """diffusers' own forward for the blocks of SD 1, SD 2 and SDXL, norms and SiLU in one."""
    hidden = cast(Tensor, NormSilu.apply(inputs, block.norm1))
    place: tuple[JoinedTime, int] | None = getattr(block, JOINED, None)
    if temb is None or block.time_emb_proj is None:
        hidden = block.conv1(hidden)
    elif place:
        hidden = _shifted(block.conv1, hidden, place[0].output(temb, place[1]))
    else:
        temb = temb if block.skip_time_act else _activated(block, temb)
        hidden = block.conv1(hidden) + block.time_emb_proj(temb)[:, :, None, None]
    hidden = block.conv2(block.dropout(NormSilu.apply(hidden, block.norm2)))
    if block.conv_shortcut is not None:
        inputs = block.conv_shortcut(inputs.contiguous())
    return inputs + hidden


def _shifted(layer: nn.Conv2d, inputs: Tensor, shift: Tensor) -> Tensor:
    """A convolution with a bias for each row, (B, D): one row alone has it as its own."""
    if len(shift) == 1 and not shift.requires_grad:
        return cast(Tensor, Convolution.apply(inputs, layer, shift[0]))
    return cast(Tensor, Convolution.apply(inputs, layer, None)) + shift[:, :, None, None]


def _activated(block: ResnetBlock2D, temb: Tensor) -> Tensor:
    """The activated time embedding: the first block that asks computes it for all.

    Where it depends on what is trained (SDXL's pooled text), checkpoints want it computed again.
    """
    found: Tensor | None = getattr(temb, _ACTIVATED, None)
    if found is None or temb.requires_grad:
        found = cast(Tensor, block.nonlinearity(temb))
        setattr(temb, _ACTIVATED, found)
    return found


def _attention(
    layer: Attention,
    inputs: Tensor,
    encoder_hidden_states: Tensor | None = None,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """diffusers' own for the transformers of SD 1, SD 2 and SDXL; it divides all results by 1."""
    if options or (attention_mask is not None and attention_mask.dim() != 3):
        return type(layer).forward(layer, inputs, encoder_hidden_states, attention_mask, **options)
    others = inputs if encoder_hidden_states is None else encoder_hidden_states
    projections = ((layer.to_q, inputs), (layer.to_k, others), (layer.to_v, others))
    query, key, value = (
        cast(nn.Module, project)(values).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        for project, values in projections
    )
    bias = None if attention_mask is None else attention_mask.unsqueeze(1)  # (B, 1, 1, keys)
    result = F.scaled_dot_product_attention(query, key, value, bias)  # (B, heads, N, D / heads)
    result = result.transpose(1, 2).flatten(2)
    for module in cast(nn.ModuleList, layer.to_out):
        result = module(result)
    return result


def _timesteps(layer: Timesteps, timesteps: Tensor) -> Tensor:
    """(B,) to (B, C), the sines and cosines."""
    joined: JoinedTime | None = getattr(layer, JOINED, None)
    if joined is None or joined.table is None:
        return Timesteps.forward(layer, timesteps)
    return joined.table[timesteps]


def _norm_then_silu(norm: nn.GroupNorm, inputs: Tensor) -> Tensor:
    return cast(Tensor, NormSilu.apply(inputs, norm))


def _unchanged(module: nn.Module, inputs: Tensor) -> Tensor:
    """In place of a layer that the one before or after it computes as well."""
    return inputs


def _geglu(layer: GEGLU, inputs: Tensor) -> Tensor:
    return cast(Tensor, Gated.apply(layer.proj(inputs)))


def _quick_gelu(layer: QuickGELUActivation, inputs: Tensor) -> Tensor:
    return cast(Tensor, QuickGelu.apply(inputs))


class _Recomputed:
    """The forward of a feed-forward layer and the norm ahead of it: only their input is kept."""

    def __init__(self, norm: nn.Module, layer: nn.Module) -> None:
        self.norm, self.layer = norm, layer
        self.drops = any(one.p > 0 for one in layer.modules() if isinstance(one, nn.Dropout))

    def __call__(self, inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self._compute(inputs)
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": self.drops}
        return cast(Tensor, torch.utils.checkpoint.checkpoint(self._compute, inputs, **options))

    def _compute(self, inputs: Tensor) -> Tensor:
        normed = type(self.norm).forward(self.norm, inputs)
        return type(self.layer).forward(self.layer, normed)


# ----------------------------------------------------------------------------- installation


def lean_layers(root: nn.Module, *, recompute_feed_forward: bool = False) -> None:
    """Makes the frozen layers of a UNet or text encoder keep little; the results stay the same.

    Calling it again with another choice replaces the earlier one.

    Args:
        recompute_feed_forward: compute the feed-forward layers of the transformer blocks again in
            the backward pass, with the norms ahead of them: about 4 % slower, and less kept.
    """
    plain_layers(root)
    for module, forward in _lean_forwards(root, recompute_feed_forward):
        module.forward = forward


def plain_layers(root: nn.Module) -> None:
    """Takes away what `lean_layers` has set."""
    for module in root.modules():
        module.__dict__.pop("forward", None)


def _lean_forwards(root: nn.Module, recompute: bool) -> Iterator[tuple[nn.Module, Forward]]:
    if isinstance(root, UNet2DConditionModel) and isinstance(root.conv_act, nn.SiLU):
        norm = cast(nn.Module, root.conv_norm_out)  # there is one wherever there is an activation
        yield norm, MethodType(_norm_then_silu, norm)
        yield root.conv_act, MethodType(_unchanged, root.conv_act)
        if isinstance(root.time_proj, Timesteps):
            yield root.time_proj, MethodType(_timesteps, root.time_proj)
    for module in root.modules():
        if isinstance(module, AdaptedLinear):
            yield module, MethodType(adapted_linear, module)
        elif isinstance(module, AdaptedConv2d):
            yield module, MethodType(adapted_convolution, module)
        elif isinstance(module, LycorisLayer):
            yield module, MethodType(adapted_otherwise, module)
        elif isinstance(module, nn.Conv2d):
            if _is_frozen(module) and module.padding_mode == "zeros":
                yield module, MethodType(_convolution, module)
        elif isinstance(module, ResnetBlock2D):
            if _is_usual(module):
                yield module, MethodType(_resnet, module)
        elif isinstance(module, Attention):
            if _attends_as_usual(module):
                yield module, MethodType(_attention, module)
        elif isinstance(module, GEGLU):
            yield module, MethodType(_geglu, module)
        elif isinstance(module, QuickGELUActivation):
            yield module, MethodType(_quick_gelu, module)
        elif recompute and isinstance(module, BasicTransformerBlock) and _recomputable(module):
            norm = cast(nn.Module, module.norm3)
            yield norm, MethodType(_unchanged, norm)
            yield module.ff, _Recomputed(norm, module.ff)


def _is_usual(block: ResnetBlock2D) -> bool:
    return (
        block.time_embedding_norm == "default"
        and block.upsample is None
        and block.downsample is None
        and isinstance(block.nonlinearity, nn.SiLU)
        and block.output_scale_factor == 1.0
        and _is_frozen(block.norm1)
        and _is_frozen(block.norm2)
    )


def _attends_as_usual(layer: Attention) -> bool:
    extras = (layer.spatial_norm, layer.group_norm, layer.norm_cross, layer.norm_q, layer.norm_k)
    return (
        type(cast(object, layer.processor)) is AttnProcessor2_0
        and all(extra is None for extra in extras)
        and not layer.residual_connection
        and layer.rescale_output_factor == 1.0
    )


def _recomputable(block: BasicTransformerBlock) -> bool:
    return (
        block.norm_type == "layer_norm"
        and isinstance(cast(nn.Module, block.ff), FeedForward)
        and block._chunk_size is None  # pyright: ignore[reportPrivateUsage]
    )


def _is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters(recurse=False))
