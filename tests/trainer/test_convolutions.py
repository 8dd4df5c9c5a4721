"""Frozen convolutions with less work: the same results as torch's own, to float32's precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from trainer import convolutions
from trainer.convolutions import convolve, input_gradient
from trainer.memory.layers import lean_layers

LARGE, SMALL, FEW = (1, 32, 32), (1, 16, 16), (2, 8, 8)  # batch, height, width
WAYS = {
    LARGE: "in_tiles",
    SMALL: "in_one_product",
    FEW: "in_one_product",
    (2, 16, 16): None,
    (1, 34, 32): None,
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer channels than where it pays, and than are taken at a time, so that tests are fast."""
    for name, value in {"_WIDE": 32, "_ROWS": 24, "_CHANNELS": 48, "_TURNED": 36}.items():
        monkeypatch.setattr(convolutions, name, value)


def layer_of(channels: int, out: int) -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(channels, out, 3, padding=1).requires_grad_(False)


def error(ours: Tensor, exact: Tensor) -> float:
    """Largest difference beside the largest value."""
    assert ours.dtype == torch.float32 and ours.shape == exact.shape
    return ((ours - exact).abs().max() / exact.abs().max()).item()


@pytest.mark.parametrize("size", WAYS)
def test_outputs_and_gradients(size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, taken = layer_of(32, 40), []
    for way in ("in_tiles", "in_one_product"):
        function = getattr(convolutions, way)
        monkeypatch.setattr(
            convolutions, way, lambda *a, way=way, f=function, **k: taken.append(way) or f(*a, **k)
        )
    batch, height, width = size
    inputs = torch.randn(batch, 32, height, width)
    gradient = torch.randn(batch, 40, height, width)
    weight, bias = layer.weight.double(), layer.bias.double()  # type: ignore[union-attr]
    exact = F.conv2d(inputs.double(), weight, bias, padding=1)
    assert error(convolve(layer, inputs), exact) < 5e-6
    assert taken == ([WAYS[size]] if WAYS[size] else [])
    exact = conv2d_input(inputs.shape, weight, gradient.double(), padding=1)
    assert error(input_gradient(layer, inputs.shape, gradient), exact) < 5e-6


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12), (20, 4)])
def test_tiles_of_any_number(height: int, width: int) -> None:
    """More channels than are transformed at a time, several pictures, all borders."""
    layer = layer_of(70, 67)
    inputs = torch.randn(3, 70, height, width)
    exact = F.conv2d(inputs.double(), layer.weight.double(), None, padding=1)
    assert error(convolutions.in_tiles(inputs, layer.weight, None), exact) < 5e-6
    gradient = torch.randn(3, 67, height, width)
    exact = conv2d_input(inputs.shape, layer.weight.double(), gradient.double(), padding=1)
    ours = convolutions.in_tiles(gradient, layer.weight, None, turned=True)
    assert error(ours, exact) < 5e-6


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.Conv2d(32, 32, 1),
        nn.Conv2d(32, 32, 3),
        nn.Conv2d(32, 32, 3, padding=1, groups=2),
        nn.Conv2d(32, 16, 3, padding=1),
        nn.Conv2d(32, 32, 3, padding=1).to(torch.bfloat16),
    ],
)
def test_everything_else_is_torchs_own(other: nn.Conv2d) -> None:
    inputs = torch.randn(1, 32, 32, 32).to(other.weight.dtype)
    with torch.no_grad():
        assert torch.equal(convolve(other, inputs), other(inputs))


@pytest.mark.parametrize("size", [LARGE, SMALL, FEW])
def test_lean_layers_use_them(size: tuple[int, int, int]) -> None:
    """Against torch's own graph, to the gradient of what comes before."""
    layer = nn.Sequential(layer_of(32, 32), nn.SiLU(), layer_of(32, 32))
    batch, height, width = size
    inputs = torch.randn(batch, 32, height, width, requires_grad=True)
    gradients = []
    for change in (lambda _: None, lean_layers):
        change(layer)
        inputs.grad = None
        layer(inputs).square().sum().backward()
        gradients.append(inputs.grad)
    plain, ours = gradients
    assert error(ours, plain.double()) < 1e-5 and not torch.equal(ours, plain)
