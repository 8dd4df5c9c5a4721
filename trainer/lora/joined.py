"""Adapted layers that share their input, computed as one: a third of the operations to start.

The frozen weights of a block's query, key and value lie below each other in one matrix, and the
copies of their A below these: one product gives what all of them and their A make of the input.
Rounding differs from that of the layers one by one: the gradients of the input are added up in
float32 and rounded once. It is for cards in bf16 and fp16; in float32 and on a processor each layer
computes for itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from math import prod
from typing import Any, cast

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from peft.tuners.lora import Linear as AdaptedLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.nn import functional as F
from transformers.models.clip.modeling_clip import CLIPMLP, CLIPAttention

from trainer.lora.layers import get_weights, names_on, original_layer, plain_adapter
from trainer.lora.rank_mask import MASK
from trainer.typed_torch import split

JOINED = "joined"
"""Attribute of a wrapper within a pass: what it is computed with, and its place there."""
_ALIGNED = 8  # values: rows of other lengths are slower on a card


class JoinedLayers:
    """Layers of the same shape, bias, rank and scale that are called in their order on one input.

    Attributes:
        matrix: (n out + n rank, in), the frozen weights and below them the copies of A, filled up
            to whole rows of 16 bytes. The layers' own weights are views of it.
        down: (n rank, in), the copies of A as one leaf, views of `matrix`.
        up: (n, out, rank), the copies of B as one leaf.
    """

    matrix: Tensor | None = None
    down: Tensor
    up: Tensor

    def __init__(self, layers: Sequence[AdaptedLinear], name: str) -> None:
        self.layers, self.count = layers, len(layers)
        pairs = [get_weights(layer, name) for layer in layers]
        self.parameters: list[Parameter] = [a for a, _ in pairs] + [b for _, b in pairs]
        self.out, self.rank = pairs[0][1].shape
        self.scale = cast(float, layers[0].scaling[name])
        self.bias: Tensor | None = None
        self._inputs: Tensor | None = None
        self._results: tuple[Tensor, ...] = ()

    def open(self) -> list[Tensor]:
        """Puts the layers in place for a pass.

        The weights are put into the matrix where they do not lie there: at first, and after the
        base model was elsewhere.

        Returns:
            Where the copies of `parameters` belong.
        """
        first = original_layer(self.layers[0]).weight
        if self.matrix is None or self.matrix.data_ptr() != first.data_ptr():
            self._join()
        for leaf in (self.down, self.up):
            leaf.requires_grad_(self.parameters[0].requires_grad)
        for number, layer in enumerate(self.layers):
            setattr(layer, JOINED, (self, number))
        ranks = [self.rank] * self.count
        return [*split(self.down.detach(), ranks), *self.up.detach()]

    def close(self, keep: bool) -> list[Tensor | None]:
        """Takes the layers out again.

        Args:
            keep: otherwise nothing but the layers holds their weights, so that they can go.

        Returns:
            The gradient of each of the copies.
        """
        self._inputs, self._results = None, ()
        for layer in self.layers:
            vars(layer).pop(JOINED, None)
        found = (None, None) if self.matrix is None else (self.down.grad, self.up.grad)
        if self.matrix is not None:
            self.down.grad = self.up.grad = None
        if not keep:
            self.matrix = None
            self.down = self.up = torch.empty(0)
        down, up = found
        if down is None or up is None:
            return [None] * len(self.parameters)
        return [*split(down, [self.rank] * self.count), *up]

    def _join(self) -> None:
        originals = [original_layer(layer) for layer in self.layers]
        weight, rows = originals[0].weight, self.count * self.out
        added = self.count * self.rank
        shape = (rows + -(-added // _ALIGNED) * _ALIGNED, weight.shape[1])
        if weight.untyped_storage().nbytes() == prod(shape) * weight.itemsize:  # still joined
            matrix = weight.detach().as_strided(shape, (shape[1], 1))
        else:
            matrix = weight.new_zeros(shape)
            for part, layer in zip(
                split(matrix[:rows], [self.out] * self.count), originals, strict=True
            ):
                layer.weight.data = part.copy_(layer.weight)
        if weight_bias := [layer.bias for layer in originals if layer.bias is not None]:
            self.bias = weight.new_zeros(len(matrix))
            self.bias[:rows] = torch.cat(weight_bias)
        self.down = matrix[rows : rows + added].detach()
        self.up = weight.new_empty(self.count, self.out, self.rank)
        self.matrix = matrix

    def output(self, inputs: Tensor, place: int) -> Tensor:
        """What one of the layers makes of (…, in): (…, out). The first is asked first.

        Raises:
            ValueError: another input than that of the first.
        """
        if place == 0:
            self._inputs = inputs
            run = cast(Any, JoinedProduct.apply)  # typed as one tensor
            self._results = run(inputs, self, self.down, self.up)
        elif self._inputs is not inputs:
            raise ValueError("joined layers were called on different inputs")
        result = self._results[place]
        if place == self.count - 1:
            self._inputs, self._results = None, ()
        return result


class JoinedProduct(torch.autograd.Function):
    """Keeps the input and all ``A x``; the frozen weights are taken from the matrix."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, inputs: Tensor, joined: JoinedLayers, down: Tensor, up: Tensor
    ) -> tuple[Tensor, ...]:
        """(…, in) to n of (…, out)."""
        count, out, rank = up.shape
        rows = inputs.reshape(-1, inputs.shape[-1])
        every = F.linear(rows, cast(Tensor, joined.matrix), joined.bias)  # (N, n (out + rank))
        results = every[:, : count * out].view(-1, count, out).transpose(0, 1)
        inner = every[:, count * out : count * (out + rank)]
        inner = inner.view(-1, count, rank).transpose(0, 1)  # (n, N, rank)
        if torch.compiler.is_compiling():  # it fuses this, and writes into no part of a tensor
            results = results.baddbmm(inner, up.transpose(1, 2), alpha=joined.scale)
        else:
            results.baddbmm_(inner, up.transpose(1, 2), alpha=joined.scale)
        ctx.joined, ctx.shape = joined, inputs.shape
        ctx.save_for_backward(rows, inner, down, up)
        return tuple(one.view(*inputs.shape[:-1], out) for one in results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the input, all A and all B."""
        rows, inner, down, up = ctx.saved_tensors
        joined: JoinedLayers = ctx.joined
        count, out, rank = up.shape
        gradient = gradients[0] if count == 1 else torch.cat(gradients, dim=-1)
        gradient = gradient.reshape(-1, count * out)  # (N, n out)
        each = gradient.view(-1, count, out).transpose(0, 1)  # (n, N, out)
        if torch.compiler.is_compiling():
            of_inner = torch.bmm(each, up).transpose(0, 1).flatten(1)
        else:
            of_inner = gradient.new_empty(len(rows), count * rank)
            torch.bmm(each, up, out=of_inner.view(-1, count, rank).transpose(0, 1))
        of_up = torch.bmm(each.transpose(1, 2), inner)  # (n, out, rank)
        if joined.scale != 1.0:
            of_inner, of_up = of_inner.mul_(joined.scale), of_up.mul_(joined.scale)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            weights = cast(Tensor, joined.matrix)[: count * out]
            of_inputs = (gradient @ weights).addmm_(of_inner, down).view(ctx.shape)
        return of_inputs, None, of_inner.T @ rows, of_up


def joined_layers(roots: Sequence[nn.Module]) -> Iterator[JoinedLayers]:
    """Layers whose output the backward pass needs anyway, those of one input together.

    Layers with anything besides A and B, or of quantised weights, stay by themselves.
    """
    for root in roots:
        for module in root.modules():
            for names in _TOGETHER.get(type(module), ()):
                if not isinstance(module, Attention) or _is_called_so(module, names):
                    yield from _joined([getattr(module, name) for name in names])


_TOGETHER: dict[type[nn.Module], tuple[tuple[str, ...], ...]] = {
    Attention: (("to_q", "to_k", "to_v"), ("to_q",), ("to_k", "to_v")),
    CLIPAttention: (("q_proj", "k_proj", "v_proj"),),
    GEGLU: (("proj",),),
    CLIPMLP: (("fc1",),),
}


def _is_called_so(layer: Attention, names: tuple[str, ...]) -> bool:
    """Whether these layers, and no further ones, get the same input."""
    usual = type(cast(object, layer.processor)) is AttnProcessor2_0
    return usual and (len(names) < 3) == layer.is_cross_attention


def _joined(layers: Sequence[nn.Module]) -> Iterator[JoinedLayers]:
    adapted = [layer for layer in layers if isinstance(layer, AdaptedLinear)]
    kinds = {_kind(layer) for layer in adapted}
    if len(adapted) == len(layers) and len(kinds) == 1 and None not in kinds:
        yield JoinedLayers(adapted, names_on(adapted[0])[0])


def _kind(layer: AdaptedLinear) -> Hashable:
    """What layers have in common to be joined; None: this one is not."""
    name, original = plain_adapter(layer), original_layer(layer)
    if name is None or type(original) is not nn.Linear:
        return None
    if type(layer.lora_dropout[name]) is not nn.Identity or hasattr(layer.lora_A[name], MASK):
        return None
    shapes = [weight.shape for weight in get_weights(layer, name)]
    has_bias = cast(Tensor | None, original.bias) is not None
    return (name, *shapes, has_bias, cast(float, layer.scaling[name]))
