"""Frozen 3 × 3 convolutions in float32 on a CPU, and the gradients of their inputs, with less work.

Wide images: Winograd's minimal filtering F(4 × 4, 3 × 3) (arXiv 1509.09308, section 4) takes 36
products for 16 places instead of 144. Its rounding errors depend on the points where polynomials
are evaluated (arXiv 1803.10986): 0, ± √½, ± √2 and infinity err by half as much as the usual small
integers.

Small images: the weight is what takes time to read, and torch's kernel turns it into another layout
ahead of each product. One product with all shifted copies of the image reads it as it lies.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

_POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
_SIDE = 4  # of a tile's result; 6 of what it is computed from
_CHANNELS = 64  # transformed at a time, so that they stay in the processor's cache
_TURNED = 128  # and of a weight for the gradient, whose values lie further apart
# From where on it pays, as measured.
_WIDE = 256  # channels
_LARGE = 1024  # places of an image, at least, for tiles
_SMALL = 256  # and at most, for one product
_MANY = 128  # places, above which the gradient comes out as it is folded
_ROWS = 256  # of a weight in half precision that are made float32 at a time, for one product


def convolve(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """(B, C, H, W) to (B, D, H', W'), by the fastest way."""
    if _takes_tiles(layer, inputs):
        return in_tiles(inputs, _stored(layer), layer.bias)
    if _takes_one_product(layer, inputs):
        return in_one_product(inputs, _stored(layer), layer.bias)
    return layer._conv_forward(inputs, layer.weight, layer.bias)


def input_gradient(layer: nn.Conv2d, shape: torch.Size, gradient: Tensor) -> Tensor:
    """The gradient of a convolution's input of this shape, (B, C, H, W)."""
    if _takes_tiles(layer, gradient):
        return in_tiles(gradient, _stored(layer), None, turned=True)
    if _takes_one_product(layer, gradient):
        return gradient_in_one_product(gradient, _stored(layer))
    options: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return conv2d_input(shape, layer.weight, gradient, *options)


def _takes_tiles(layer: nn.Conv2d, image: Tensor) -> bool:
    height, width = image.shape[-2:]
    whole = height % _SIDE == 0 and width % _SIDE == 0
    return whole and len(image) * height * width >= _LARGE and _is_usual(layer, image)


def _takes_one_product(layer: nn.Conv2d, image: Tensor) -> bool:
    return image[:, 0].numel() <= _SMALL and _is_usual(layer, image)


def _is_usual(layer: nn.Conv2d, image: Tensor) -> bool:
    return (
        image.device.type == "cpu"
        and image.dtype == torch.float32
        and layer.kernel_size == (3, 3)
        and layer.stride == layer.padding == layer.dilation == (1, 1)
        and layer.groups == 1
        and min(layer.in_channels, layer.out_channels) >= _WIDE
    )


def _stored(layer: nn.Conv2d) -> Tensor:
    """The weight, (D, C, 3, 3): float32, or in half precision where a layer keeps it so."""
    return cast(Tensor, layer.codes) if getattr(layer, "bits", "") == "half" else layer.weight


def in_tiles(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, *, turned: bool = False
) -> Tensor:
    """A convolution by Winograd's way, with padding 1.

    Args:
        inputs: (B, C, H, W), H and W multiples of 4.
        weight: (D, C, 3, 3), float32 or in half precision.
        turned: take ``weight`` for the gradient of its input: (C, D, 3, 3) turned by 180°.

    Returns:
        (B, D, H, W).
    """
    batch, channels, height, width = inputs.shape
    of_inputs, of_weights, of_results = _transforms()
    if turned:
        of_weights = of_weights.flip(1)
    down, across = height // _SIDE, width // _SIDE
    tiles = batch * down * across
    padded = F.pad(inputs, (1, 1, 1, 1))
    rows, row, column = padded.stride(1), padded.stride(2), padded.stride(3)
    overlapping = padded.as_strided(
        (channels, batch, down, across, 6, 6),
        (rows, padded.stride(0), _SIDE * row, _SIDE * column, row, column),
    )
    points = inputs.new_empty(36, channels * tiles)
    for start in range(0, channels, _CHANNELS):
        part = overlapping[start : start + _CHANNELS].reshape(-1, 36)
        at = slice(start * tiles, start * tiles + len(part))
        torch.mm(of_inputs, part.T, out=points[:, at])
    points = points.view(36, channels, tiles)

    side, size = (1, _TURNED) if turned else (0, _CHANNELS)
    result = inputs.new_empty(batch, weight.shape[side], height, width)
    for number, part in enumerate(weight.split(size, side)):
        count, place = part.shape[side], slice(number * size, (number + 1) * size)
        kernels = of_weights @ part.reshape(-1, 9).float().T
        # (36, D, C), or (36, C, D) when turned: the products read them in either order.
        kernels = kernels.view(36, *part.shape[:2])
        if turned:
            kernels = kernels.transpose(1, 2)
        products = torch.bmm(kernels, points).view(36, -1)
        values = (of_results @ products).view(_SIDE, _SIDE, count, batch, down, across)
        if bias is not None:
            values += bias[place].view(-1, 1, 1, 1)
        tiled = result[:, place].view(batch, count, down, _SIDE, across, _SIDE)
        tiled.copy_(values.permute(3, 2, 4, 0, 5, 1))
    return result


@lru_cache(maxsize=1)
def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Of 6 × 6 inputs (36, 36), of 3 × 3 weights (36, 9), and back to 4 × 4 results (16, 36).

    A polynomial of degree 5 is told by its values at five points and its highest coefficient.
    """
    count = len(_POINTS)
    values = np.zeros((_SIDE, count + 1))  # of the result's polynomial
    weights, inputs = np.zeros((count + 1, 3)), np.zeros((count + 1, count + 1))
    for number, point in enumerate(_POINTS):
        others = [other for other in _POINTS if other != point]
        values[:, number] = [point**power for power in range(_SIDE)]
        scale = np.prod([point - other for other in others])
        weights[number] = [point**power / scale for power in range(3)]
        inputs[number, :count] = np.poly(others)[::-1]
    values[-1, -1] = weights[-1, -1] = 1
    inputs[-1] = np.poly(_POINTS)[::-1]
    both = (np.kron(matrix, matrix) for matrix in (inputs, weights, values))  # down and across
    of_inputs, of_weights, of_results = (torch.from_numpy(matrix).float() for matrix in both)
    return of_inputs, of_weights, of_results


def in_one_product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution with padding 1 as one product: (B, C, H, W) to (B, D, H, W)."""
    batch, _, height, width = inputs.shape
    shifted = F.unfold(inputs, 3, padding=1).transpose(0, 1)  # (9 C, B, H W)
    shifted = shifted.reshape(shifted.shape[0], -1)
    result = inputs.new_empty(len(weight), shifted.shape[1])  # (D, B H W)
    for start in range(0, len(weight), _ROWS):
        part = weight[start : start + _ROWS].flatten(1).float()
        torch.mm(part, shifted, out=result[start : start + _ROWS])
    if bias is not None:
        result += bias[:, None]
    return result.view(-1, batch, height, width).transpose(0, 1).contiguous()


def gradient_in_one_product(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient of its input: (B, D, H, W) to (B, C, H, W)."""
    batch, channels, height, width = gradient.shape
    many = batch * height * width > _MANY
    # (D, B H W)
    places = gradient.transpose(0, 1).reshape(channels, -1)
    # (9 C, B H W), as folding reads it, or turned: with few columns that product is slower.
    shape = (weight[0].numel(), places.shape[1])
    shifted = places.new_empty(shape if many else shape[::-1])
    beta = 0
    for rows, part in zip(places.split(_ROWS), weight.flatten(1).split(_ROWS), strict=True):
        part = part.float()
        factors = (part.T, rows) if many else (rows.T, part)
        torch.addmm(shifted, *factors, beta=beta, out=shifted)
        beta = 1
    if not many:
        shifted = shifted.T
    shifted = shifted.view(-1, batch, height * width).transpose(0, 1)
    return F.fold(shifted, (height, width), 3, padding=1)
