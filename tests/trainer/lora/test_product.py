"""The adapted product: the same output and gradients as its single operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.lora.product import AdaptedProduct

SCALE = 0.75


def tensors(dtype: torch.dtype, *, bias: bool) -> tuple[Tensor, nn.Linear, Tensor, Tensor]:
    torch.manual_seed(1)
    layer = nn.Linear(6, 5, bias=bias).to(dtype).requires_grad_(False)
    inputs, down, up = (torch.randn(shape, dtype=dtype) for shape in ((2, 7, 6), (3, 6), (5, 3)))
    return inputs, layer, down.requires_grad_(), up.requires_grad_()


def separate(inputs: Tensor, layer: nn.Linear, down: Tensor, up: Tensor) -> Tensor:
    return layer(inputs) + SCALE * F.linear(F.linear(inputs, down), up)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("first", [True, False], ids=["first of all", "later"])
def test_equals_its_single_operations(bias: bool, first: bool) -> None:
    inputs, layer, down, up = tensors(torch.float32, bias=bias)
    inputs.requires_grad_(not first)  # nothing ahead of the first adapter wants a gradient
    wanted = [down, up] if first else [inputs, down, up]
    weights = torch.randn(2, 7, 5)
    ours = AdaptedProduct.apply(inputs, layer, down, up, SCALE)
    plain = separate(inputs, layer, down, up)
    torch.testing.assert_close(ours, plain)
    found = torch.autograd.grad(ours, wanted, weights)
    expected = torch.autograd.grad(plain, wanted, weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_are_right() -> None:
    inputs, layer, down, up = tensors(torch.float64, bias=True)
    inputs.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *leaves: AdaptedProduct.apply(leaves[0], layer, *leaves[1:], SCALE),
        (inputs, down, up),
    )
