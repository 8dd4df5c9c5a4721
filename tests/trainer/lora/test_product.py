"""The adapted product: the same output and gradients as its single operations."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainer.lora.product import AdaptedProduct

SCALE = 0.75


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("first", [True, False], ids=["first of all", "later"])
def test_equals_its_single_operations(bias: bool, first: bool) -> None:
    torch.manual_seed(1)
    layer = nn.Linear(6, 5, bias=bias).requires_grad_(False)
    inputs, down, up = (torch.randn(shape) for shape in ((2, 7, 6), (3, 6), (5, 3)))
    # Nothing ahead of the first adapter wants a gradient.
    wanted = [one.requires_grad_() for one in ((down, up) if first else (inputs, down, up))]
    weights = torch.randn(2, 7, 5)
    ours = AdaptedProduct.apply(inputs, layer, down, up, SCALE)
    plain = layer(inputs) + SCALE * F.linear(F.linear(inputs, down), up)
    torch.testing.assert_close(ours, plain)
    found = torch.autograd.grad(ours, wanted, weights)
    expected = torch.autograd.grad(plain, wanted, weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
