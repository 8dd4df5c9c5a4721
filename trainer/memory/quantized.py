"""Frozen layers whose weights are quantised to 8 or 4 bits.

Of a weight only codes and one scale for each block of values stay in memory (bitsandbytes' kernels,
arXiv 2110.02861 and 2305.14314). The forward pass makes the weight from them, uses it and drops it,
and the backward pass makes it once more: gradients are those of a layer with that very weight.
``layer.weight`` gives it too, as a new tensor.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.memory.layers import Convolution, Product
from trainer.models.base import BaseModel
from trainer.typed_torch import named_modules

Bits = Literal["full", "8bit", "4bit"]

# Values that share a scale, a float32. Evenly spaced codes suit weights better than bitsandbytes'
# own 8-bit codes, which have most of theirs near 0: rounding of normally distributed weights 0.7 %
# instead of 1.1 %. NF4 in blocks of 64 (arXiv 2305.14314) rounds them by 9 %.
_BLOCK = {"8bit": 256, "4bit": 64}


class _Quantized(nn.Module):
    """What both kinds of layers have in place of their weight."""

    codes: Tensor  # uint8; one, or for 4 bits half a one, for each value of the weight
    scales: Tensor  # float32, one for each block of values
    bits: Bits
    shape: torch.Size
    dtype: torch.dtype

    @property
    def weight(self) -> Tensor:
        """The weight, made anew, in the number format that it had."""
        if self.codes.is_meta:
            return torch.empty(self.shape, dtype=self.dtype, device=self.codes.device)
        kernels, options = _kernels(), {"blocksize": _BLOCK[self.bits], "dtype": self.dtype}
        if self.bits == "8bit":
            even = _even_codes(self.codes.device)
            state = kernels.QuantState(self.scales, code=even, **options)
            return kernels.dequantize_blockwise(self.codes, state)
        state = kernels.QuantState(self.scales, shape=self.shape, quant_type="nf4", **options)
        return kernels.dequantize_4bit(self.codes, state)


class QuantizedLinear(_Quantized, nn.Linear):  # type: ignore[misc]
    """A frozen linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        return cast(Tensor, Product.apply(input, self))


class QuantizedConvolution(_Quantized, nn.Conv2d):  # type: ignore[misc]
    """A frozen convolution."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H', W')."""
        return cast(Tensor, Convolution.apply(input, self, self.bias))


_KINDS: dict[type[nn.Module], type[_Quantized]] = {
    nn.Linear: QuantizedLinear,
    nn.Conv2d: QuantizedConvolution,
}


def quantize_base(base: BaseModel, bits: Bits, device: torch.device) -> None:
    """Rounds the frozen weights of the UNet and the text encoders, for good; full: changes nothing.

    Before an adapter is attached. The UNet's first and last convolution stay as they are, and so do
    norms, biases and embeddings.

    Args:
        device: where it is computed, layer by layer; the results lie where the weights were.

    Raises:
        UserError: bitsandbytes is missing, or has no kernels for this device.
    """
    if bits == "full":
        return
    base.weights = bits
    for module in (base.unet, *base.text_encoders):
        for path, layer in named_modules(module):
            if path not in ("conv_in", "conv_out") and type(layer) in _KINDS:
                _quantize(cast(nn.Linear | nn.Conv2d, layer), bits, device)


def parameter_count(root: nn.Module) -> int:
    """Parameters of a model, quantised weights counted as what they stand for."""
    own = sum(parameter.numel() for parameter in root.parameters())
    return own + sum(m.shape.numel() for m in root.modules() if isinstance(m, _Quantized))


@torch.no_grad()
def _quantize(layer: nn.Linear | nn.Conv2d, bits: Bits, device: torch.device) -> None:
    weight = layer.weight
    if weight.numel() % _BLOCK[bits]:
        return  # tiny ones, where nothing is to be gained
    codes, scales = _rounded(weight, bits, device)
    del layer.weight
    cast(Any, layer).__class__ = _KINDS[type(layer)]
    layer.register_buffer("codes", codes.to(weight.device), persistent=False)
    layer.register_buffer("scales", scales.to(weight.device), persistent=False)
    quantized = cast(_Quantized, layer)
    quantized.bits, quantized.shape, quantized.dtype = bits, weight.shape, weight.dtype


def _rounded(weight: Tensor, bits: Bits, device: torch.device) -> tuple[Tensor, Tensor]:
    if weight.is_meta:
        shape = weight.shape if bits == "8bit" else (weight.numel() // 2, 1)
        codes = torch.empty(shape, dtype=torch.uint8, device="meta")
        return codes, torch.empty(weight.numel() // _BLOCK[bits], device="meta")
    kernels = _kernels()
    try:
        values = weight.to(device)
        if bits == "8bit":
            even = _even_codes(device)
            codes, state = kernels.quantize_blockwise(values, even, blocksize=_BLOCK[bits])
        else:
            codes, state = kernels.quantize_4bit(
                values, blocksize=_BLOCK[bits], compress_statistics=False, quant_type="nf4"
            )
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as problem:  # what the package raises without a library for the device
        raise _unavailable(f"has no kernels for {device.type} here") from problem
    return codes, state.absmax


def _kernels() -> Any:
    """bitsandbytes' functions; typed as anything, since some of its own types are wrong.

    Raises:
        UserError: it is not installed.
    """
    try:
        import bitsandbytes.functional as kernels
    except ImportError as problem:
        raise _unavailable("is not installed") from problem
    return kernels


def _unavailable(why: str) -> UserError:
    return UserError(
        f"memory.base_weights in 8 or 4 bits needs the package bitsandbytes, which {why}.",
        "Set memory.base_weights to full, or install what requirements.txt names.",
    )


@lru_cache(maxsize=8)
def _even_codes(device: torch.device) -> Tensor:
    """(256,) float32: evenly spaced from -1 to 1, sorted."""
    return _kernels().create_linear_map(signed=True, total_bits=8).to(device)
