"""Frozen layers that keep little: the same outputs and gradients as torch's own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from tests.conftest import TinyBase
from tests.trainer.memory.steps import adapted, follow, gradients, rounded_base
from trainer.lora.attach import detach, disabled
from trainer.lora.layers import find_layers
from trainer.memory.layers import lean_layers, plain_layers
from trainer.memory.modes import set_mode
from trainer.memory.quantized import Bits, QuantizedConvolution, QuantizedLinear
from trainer.models.load import load_base


def _block(channels: int, out: int) -> nn.Module:
    return ResnetBlock2D(in_channels=channels, out_channels=out, temb_channels=8, groups=4)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "convolution": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, padding=1)), ((2, 4, 9, 7),)),
    "strided": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1)), ((2, 4, 9, 7),)),
    "one by one": (lambda: nn.Sequential(nn.Conv2d(4, 6, 1, bias=False)), ((1, 4, 5, 5),)),
    "geglu": (lambda: GEGLU(6, 10), ((2, 7, 6),)),
    "attention": (lambda: Attention(8, heads=2, dim_head=5), ((2, 9, 8),)),
    "attention to others": (lambda: Attention(8, 6, heads=2, dim_head=5), ((2, 9, 8), (2, 4, 6))),
    "residual": (lambda: _block(8, 8), ((2, 8, 6, 6), (2, 8))),
    "residual, wider": (lambda: _block(8, 12), ((2, 8, 6, 6), (2, 8))),
}


def run(layer: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of the inputs."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    result = layer(*leaves)
    result.square().sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_by_layer(name: str, dtype: torch.dtype) -> None:
    make, shapes = LAYERS[name]
    torch.manual_seed(3)
    layer = make().to(dtype).requires_grad_(False)
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    plain = run(layer, inputs)
    lean_layers(layer)
    assert any("forward" in module.__dict__ for module in layer.modules())
    for ours, theirs in zip(run(layer, inputs), plain, strict=True):
        assert torch.equal(ours, theirs)
    plain_layers(layer)
    assert not any("forward" in module.__dict__ for module in layer.modules())


def test_gradients_of_a_layer_are_right() -> None:
    """Against finite differences, so that not both ways can be wrong in the same manner."""
    torch.manual_seed(4)
    layer = _block(4, 8).double().requires_grad_(False)
    lean_layers(layer)
    inputs = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    temb = torch.randn(1, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (inputs, temb))


def test_layers_that_train_are_left_alone() -> None:
    layer = nn.Sequential(nn.Conv2d(4, 4, 3))
    lean_layers(layer)
    assert "forward" not in layer[0].__dict__


@pytest.mark.parametrize(
    "options",
    [{"residual_connection": True}, {"rescale_output_factor": 2.0}, {"qk_norm": "layer_norm"}],
)
def test_unusual_attention_is_left_alone(options: dict[str, Any]) -> None:
    layer = Attention(8, heads=2, dim_head=5, **options)
    other = Attention(8, heads=2, dim_head=5, processor=AttnProcessor())
    for each in (layer, other):
        lean_layers(each)
        assert "forward" not in each.__dict__


def test_attention_with_a_mask() -> None:
    layer = Attention(8, heads=2, dim_head=5)
    inputs, mask = torch.randn(2, 4, 8), torch.zeros(2, 1, 4)
    mask[:, :, 2:] = -10000.0
    plain = layer(inputs, attention_mask=mask)
    lean_layers(layer)
    assert torch.equal(layer(inputs, attention_mask=mask), plain)
    assert not torch.equal(layer(inputs), plain)


MODES = [
    ("plain", False),
    ("lean", False),
    ("feed_forward", False),
    ("lean", True),
    ("plain", True),
]


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        *(("sd1", "full"), ("sd1", "8bit"), ("sd1", "4bit")),
        *(("sd2", "full"), ("sdxl", "full"), ("sdxl", "4bit")),
    ],
)
def test_whole_models_in_every_mode(tiny_base: TinyBase, name: str, bits: Bits) -> None:
    """Gradients are those of the plain way with the same, perhaps rounded, weights."""
    base, plain = rounded_base(tiny_base(name), bits), load_base(str(tiny_base(name)))
    with torch.no_grad():
        for key, live in find_layers(plain).items():
            live.module.weight.copy_(find_layers(base)[key].module.weight)
    kinds = [type(live.module) for live in find_layers(base).values()]
    rounded = sum(kind in (QuantizedLinear, QuantizedConvolution) for kind in kinds)
    assert rounded == 0 if bits == "full" else rounded > len(kinds) / 2
    wanted = gradients(plain, adapted(plain))
    parameters = adapted(base)
    assert len(wanted) == len(parameters)
    peaks = []
    for mode, checkpointing in MODES:
        set_mode(base, mode, checkpointing, trains_text=True)  # type: ignore[arg-type]
        for ours, theirs in zip(gradients(base, parameters), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
        peaks.append(follow(base, parameters)[0])
    assert max(peaks[1:]) < peaks[0] and peaks[2] < peaks[1]
    detach(base)
    assert [type(live.module) for live in find_layers(base).values()] == kinds


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        ({"kind": "loha", "targets": "convolution"}, "full"),
        ({"kind": "lokr", "targets": "convolution", "factor": 4}, "full"),
        ({"kind": "loha"}, "8bit"),
        ({"kind": "lokr"}, "4bit"),
        ({"dropout": 0.5}, "full"),
    ],
)
def test_other_adapters_in_every_mode(
    tiny_base: TinyBase, settings: dict[str, Any], bits: Bits
) -> None:
    """LoHa and LoKr; and what dropout draws is drawn again alike in the backward pass."""
    base = rounded_base(tiny_base("sd1"), bits)
    parameters = adapted(base, **settings)
    wanted, peaks = gradients(base, parameters), [follow(base, parameters)[0]]
    assert len(wanted) == len(parameters)
    for mode, checkpointing in MODES[1:]:
        set_mode(base, mode, checkpointing, trains_text=True)  # type: ignore[arg-type]
        for ours, theirs in zip(gradients(base, parameters), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
        peaks.append(follow(base, parameters)[0])
    assert max(peaks[1:]) < peaks[0]


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
def test_half_precision_stays_near(tiny_base: TinyBase, kind: str) -> None:
    """The adapter computes in the number format of its input, and its gradients are float32."""
    exact, base = (
        rounded_base(tiny_base("sd1"), "full", dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    wanted, parameters = gradients(exact, adapted(exact, kind=kind)), adapted(base, kind=kind)
    set_mode(base, "lean", False, trains_text=True)
    found = gradients(base, parameters)
    assert {gradient.dtype for gradient in found} == {torch.float32}
    both = (torch.cat([g.flatten() for g in each]) for each in (wanted, found))
    assert torch.nn.functional.cosine_similarity(*both, dim=0) > 0.99


def test_adapters_switched_off_are_the_base(tiny_base: TinyBase) -> None:
    base, untouched = (load_base(str(tiny_base("sd1"))) for _ in range(2))
    adapted(base)
    noised, text = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 16)
    set_mode(base, "lean", False, trains_text=True)
    with torch.no_grad(), disabled(base):
        ours = base.unet(noised, torch.tensor([7]), text).sample
    with torch.no_grad():
        theirs = untouched.unet(noised, torch.tensor([7]), text).sample
    assert torch.equal(ours, theirs)
