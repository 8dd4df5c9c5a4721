"""Layers that share their input, computed as one: a third of the operations to start.

The frozen weights of a block's query, key and value lie below each other in one matrix, and the
copies of their A below these: one product gives what all of them and their A make of the input. So
do the keys and values of all cross-attention, which read the same text, and what the ResNets add
for the timestep. Rounding differs from that of the layers one by one: the gradients of the input
are added up in float32 and rounded once. It is for cards in bf16 and fp16; in float32 and on a
processor each layer computes for itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from math import prod
from typing import Any, cast

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.embeddings import Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from peft.tuners.lora import Conv2d as AdaptedConv2d
from peft.tuners.lora import Linear as AdaptedLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.nn import functional as F
from transformers.models.clip.modeling_clip import CLIPMLP, CLIPAttention

from trainer.lora.layers import get_weights, original_layer, plain_adapter
from trainer.lora.rank_mask import MASK
from trainer.typed_torch import split

JOINED = "joined"
"""Attribute of a module within a pass: what it is computed with, and its place there."""
_ALIGNED = 8  # values: rows of other lengths are slower on a card
_STEPS = 1000  # timesteps that Stable Diffusion was trained with


class OneInput(ABC):
    """Frozen layers of one input.

    Args:
        askers: the modules that ask for results, one for each of the layers.
        layers: linear layers, or convolutions of 1 x 1.
        added: rows of the matrix below theirs.

    Attributes:
        matrix: (rows, in), the weights below each other. The layers' own are views of it.
        bias: (rows,), theirs.
        parameters: what is copied into it for a pass.
    """

    matrix: Tensor | None = None
    bias: Tensor | None = None

    def __init__(
        self, askers: Sequence[nn.Module], layers: Sequence[nn.Linear | nn.Conv2d], added: int = 0
    ) -> None:
        self.askers, self.originals, self.added = askers, layers, added
        self.sizes = [len(layer.weight) for layer in layers]
        self.parameters: list[Parameter] = []
        self._inputs: Tensor | None = None
        self._results: dict[int, Tensor] = {}

    def open(self) -> list[Tensor]:
        """Puts the layers in place for a pass.

        The weights are put into the matrix where they do not lie there: at first, and after the
        base model was elsewhere.

        Returns:
            Where the copies of `parameters` belong.
        """
        if self.matrix is None or self.matrix.data_ptr() != self.originals[0].weight.data_ptr():
            self._join()
        for number, asker in enumerate(self.askers):
            setattr(asker, JOINED, (self, number))
        return []

    def close(self, keep: bool) -> list[Tensor | None]:
        """Takes the layers out again.

        Args:
            keep: otherwise nothing but the layers holds their weights, so that they can go.

        Returns:
            The gradient of each of the copies.
        """
        self._inputs, self._results = None, {}
        for asker in self.askers:
            vars(asker).pop(JOINED, None)
        if not keep:
            self.matrix = None
        return []

    def _join(self) -> None:
        weight, rows = self.originals[0].weight, sum(self.sizes)
        shape = (rows + self.added, weight.shape[1])
        if weight.untyped_storage().nbytes() == prod(shape) * weight.itemsize:  # still joined
            matrix = weight.detach().as_strided(shape, (shape[1], 1))
        else:
            matrix = weight.new_zeros(shape)
            parts = split(matrix[:rows], self.sizes)
            for part, layer in zip(parts, self.originals, strict=True):
                layer.weight.data = part.view_as(layer.weight).copy_(layer.weight)
        biases = [bias for layer in self.originals if (bias := layer.bias) is not None]
        if biases:
            self.bias = weight.new_zeros(len(matrix))
            self.bias[:rows] = torch.cat(biases)
        self.matrix = matrix

    def output(self, inputs: Tensor, place: int) -> Tensor:
        """What one of the layers makes of (…, in): (…, out). The first that asks computes all."""
        if self._inputs is not inputs or place not in self._results:
            self._inputs, self._results = inputs, dict(enumerate(self._compute(inputs)))
        result = self._results.pop(place)
        if not self._results:
            self._inputs = None
        return result

    @abstractmethod
    def _compute(self, inputs: Tensor) -> Sequence[Tensor]: ...


class JoinedLayers(OneInput):
    """Adapted layers of the same shape, bias, rank and scale.

    Attributes:
        matrix: has below the weights the copies of A, filled up to whole rows of 16 bytes.
        down: (n rank, in), the copies of A as one leaf, views of `matrix`.
        up: (n, out, rank), the copies of B as one leaf.
    """

    down: Tensor
    up: Tensor

    def __init__(self, layers: Sequence[AdaptedLinear | AdaptedConv2d], name: str) -> None:
        pairs = [get_weights(layer, name) for layer in layers]
        self.layers, self.count = layers, len(layers)
        self.out, self.rank = pairs[0][1].shape[:2]
        added = -(-self.count * self.rank // _ALIGNED) * _ALIGNED
        super().__init__(layers, [original_layer(layer) for layer in layers], added)
        self.parameters = [a for a, _ in pairs] + [b for _, b in pairs]
        self.scale = cast(float, layers[0].scaling[name])

    def open(self) -> list[Tensor]:
        """See there."""
        super().open()
        for leaf in (self.down, self.up):
            leaf.requires_grad_(self.parameters[0].requires_grad)
        return self._each(self.down.detach(), self.up.detach())

    def close(self, keep: bool) -> list[Tensor | None]:
        """See there."""
        gradients: list[Tensor | None] = [None] * len(self.parameters)
        if self.matrix is not None:
            if self.down.grad is not None and self.up.grad is not None:
                gradients = [*self._each(self.down.grad, self.up.grad)]
            self.down.grad = self.up.grad = None
        super().close(keep)
        if not keep:
            self.down = self.up = torch.empty(0)
        return gradients

    def _each(self, down: Tensor, up: Tensor) -> list[Tensor]:
        """In the shapes of the parameters."""
        parts = [*split(down, [self.rank] * self.count), *up]
        return [part.view_as(one) for part, one in zip(parts, self.parameters, strict=True)]

    def _join(self) -> None:
        super()._join()
        matrix, rows = cast(Tensor, self.matrix), self.count * self.out
        self.down = matrix[rows : rows + self.count * self.rank].detach()
        self.up = matrix.new_empty(self.count, self.out, self.rank)

    def _compute(self, inputs: Tensor) -> Sequence[Tensor]:
        run = cast(Any, JoinedProduct.apply)  # typed as one tensor
        return run(inputs, self, self.down, self.up)


class JoinedTime(OneInput):
    """What the ResNets of a UNet add for the timestep to what their first convolutions give.

    The biases are those of the convolutions as well. The sines and cosines that the time embedding
    begins with are taken from a table.
    """

    table: Tensor | None = None

    def __init__(self, time: Timesteps, blocks: Sequence[ResnetBlock2D]) -> None:
        super().__init__(blocks, [cast(nn.Linear, block.time_emb_proj) for block in blocks])
        self.time = time
        self.convolutions = [cast(Any, block.conv1) for block in blocks]  # diffusers gives biases

    def open(self) -> list[Tensor]:
        """See there."""
        super().open()
        setattr(self.time, JOINED, self)
        return []

    def close(self, keep: bool) -> list[Tensor | None]:
        """See there."""
        vars(self.time).pop(JOINED, None)
        return super().close(keep)

    def _join(self) -> None:
        super()._join()
        self.bias = cast(Tensor, self.bias) + torch.cat([one.bias for one in self.convolutions])
        steps = torch.arange(_STEPS, device=self.bias.device)
        self.table = Timesteps.forward(self.time, steps).to(self.bias.dtype)

    def _compute(self, inputs: Tensor) -> Sequence[Tensor]:
        shifts = F.linear(F.silu(inputs), cast(Tensor, self.matrix), self.bias)
        return cast(Any, shifts).split(self.sizes, dim=-1)


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
        parts, width = [one.reshape(-1, out) for one in gradients], count * out
        compiling = torch.compiler.is_compiling()  # it knows no ``out``
        both: Tensor | None = None  # (N, n (out + rank)): the gradients of outputs and all A x
        if count == 1 or compiling:
            gradient = torch.cat(parts, dim=1) if count > 1 else parts[0]  # (N, n out)
        else:
            both = parts[0].new_empty(len(rows), width + count * rank)
            gradient = torch.cat(parts, dim=1, out=both[:, :width])
        each = gradient.view(-1, count, out).transpose(0, 1)  # (n, N, out)
        if both is None:
            of_inner = torch.bmm(each, up).transpose(0, 1).flatten(1)
        else:
            of_inner = both[:, width:]
            torch.bmm(each, up, out=of_inner.view(-1, count, rank).transpose(0, 1))
        of_up = torch.bmm(each.transpose(1, 2), inner)  # (n, out, rank)
        if joined.scale != 1.0:
            of_inner, of_up = of_inner.mul_(joined.scale), of_up.mul_(joined.scale)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            matrix = cast(Tensor, joined.matrix)
            if both is None:
                place = None if compiling else torch.empty_like(rows)  # as a convolution's input
                of_inputs = torch.mm(gradient, matrix[:width], out=place).addmm_(of_inner, down)
            else:
                of_inputs = both @ matrix[: both.shape[1]]
            of_inputs = of_inputs.reshape(ctx.shape)
        return of_inputs, None, of_inner.T @ rows, of_up


def joined_layers(roots: Sequence[nn.Module], *, across: bool = False) -> Iterator[OneInput]:
    """Layers whose output the backward pass needs anyway, those of one input together.

    Layers with anything besides A and B, or of quantised weights, stay by themselves.

    Args:
        across: also of different blocks, which none may compute again or compile for itself.
    """
    for root in roots:
        of_text: dict[Hashable, list[nn.Module]] = defaultdict(list)
        for module in root.modules():
            for names in _TOGETHER.get(type(module), ()):
                layers = [cast(nn.Module, getattr(module, name)) for name in names]
                if isinstance(module, Attention) and not _is_called_so(module, names):
                    continue
                if across and names == _OF_TEXT:
                    for layer in layers:
                        of_text[_kind(layer)].append(layer)
                else:
                    yield from _joined(layers)
        for layers in of_text.values():
            yield from _joined(layers)
        blocks = [one for one in root.modules() if across and _has_frozen_shift(one)]
        if blocks and isinstance(time := getattr(root, "time_proj", None), Timesteps):
            yield JoinedTime(time, cast("list[ResnetBlock2D]", blocks))


_OF_TEXT = ("to_k", "to_v")
_TOGETHER: dict[type[nn.Module], tuple[tuple[str, ...], ...]] = {
    Attention: (("to_q", "to_k", "to_v"), ("to_q",), _OF_TEXT),
    CLIPAttention: (("q_proj", "k_proj", "v_proj"),),
    GEGLU: (("proj",),),
    CLIPMLP: (("fc1",),),
    Transformer2DModel: (("proj_in",),),
}


def _is_called_so(layer: Attention, names: tuple[str, ...]) -> bool:
    """Whether these layers, and no further ones, get the same input."""
    usual = type(cast(object, layer.processor)) is AttnProcessor2_0
    return usual and (len(names) < 3) == layer.is_cross_attention


def _joined(layers: Sequence[nn.Module]) -> Iterator[JoinedLayers]:
    kinds = {_kind(layer) for layer in layers}
    name, *_ = kinds.pop() or [None]
    if name and not kinds:
        yield JoinedLayers(cast("Sequence[AdaptedLinear]", layers), name)


def _kind(layer: nn.Module) -> tuple[Any, ...] | None:
    """The adapter's name, and what layers have in common to be joined; None: this one is not."""
    if not isinstance(layer, AdaptedLinear | AdaptedConv2d):
        return None
    name, original = plain_adapter(layer), original_layer(layer)
    if name is None or not (type(original) is nn.Linear or _is_product(original)):
        return None
    if type(layer.lora_dropout[name]) is not nn.Identity or hasattr(layer.lora_A[name], MASK):
        return None
    shapes = [weight.shape for weight in get_weights(layer, name)]
    has_bias = cast(Tensor | None, original.bias) is not None
    return (name, *shapes, has_bias, cast(float, layer.scaling[name]))


def _is_product(layer: nn.Module) -> bool:
    """Whether it is a convolution that looks at each place alone."""
    usual = ((1, 1), (1, 1), (0, 0), 1)
    return type(layer) is nn.Conv2d and usual == (
        layer.kernel_size, layer.stride, layer.padding, layer.groups
    )  # fmt: skip


def _has_frozen_shift(block: nn.Module) -> bool:
    """Whether it is a ResNet as `trainer.memory.layers` computes it, with nothing on these two."""
    if not isinstance(block, ResnetBlock2D) or block.skip_time_act:
        return False
    usual = block.time_embedding_norm == "default" and isinstance(block.nonlinearity, nn.SiLU)
    projection, convolution = cast(object, block.time_emb_proj), cast(object, block.conv1)
    return usual and type(projection) is nn.Linear and type(convolution) is nn.Conv2d
