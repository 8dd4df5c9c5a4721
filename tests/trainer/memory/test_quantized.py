"""Frozen weights in 8 and 4 bits: outputs and gradients are those of the rounded weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import TinyBase
from tests.trainer.memory.steps import gradients, rounded_base
from tests.trainer.runs_for_tests import make_images, measure_quickly, small_config, train_small
from trainer.commands.cli import main
from trainer.config.schema import AdapterConfig, TrainingConfig
from trainer.errors import UserError
from trainer.events import Evaluated
from trainer.lora.attach import attach
from trainer.lora.layers import find_layers, original_layer
from trainer.memory.quantized import Bits, QuantizedConvolution, QuantizedLinear, quantize_base
from trainer.memory.tracking import StorageTracker, bytes_of
from trainer.models.load import load_base

CPU = torch.device("cpu")
BITS: list[Bits] = ["8bit", "4bit"]
SIZES = {"8bit": 1.02, "4bit": 0.57}  # bytes for each value, with their scales


class Holder(nn.Module):
    """A layer where `quantize_base` looks for it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.conv_in = self.conv_out = nn.Identity()
        self.layer = layer


def quantized(layer: nn.Module, bits: Bits) -> nn.Module:
    class Base:
        unet, text_encoders, weights = Holder(layer), (), "full"

    quantize_base(Base(), bits, CPU)  # type: ignore[arg-type]
    return layer


def run(layer: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The output and the gradient of the input."""
    leaf = inputs.clone().requires_grad_()
    result = layer(leaf)
    result.float().square().sum().backward()
    assert leaf.grad is not None
    return result.detach(), leaf.grad


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(32, 24), (2, 5, 32)),
    "without bias": (lambda: nn.Linear(64, 16, bias=False), (3, 64)),
    "convolution": (lambda: nn.Conv2d(16, 32, 3, padding=1), (2, 16, 7, 6)),
    "strided": (lambda: nn.Conv2d(32, 8, 3, 2, 1), (1, 32, 8, 8)),
    "one by one": (lambda: nn.Conv2d(32, 16, 1), (2, 32, 4, 4)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_that_of_the_weight_it_keeps(name: str, bits: Bits, dtype: torch.dtype) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(1)
    plain = make().to(dtype).requires_grad_(False)
    layer = make().to(dtype).requires_grad_(False)
    layer.load_state_dict(plain.state_dict())
    quantized(layer, bits)
    assert isinstance(layer, QuantizedLinear | QuantizedConvolution)
    weight = layer.weight
    assert weight.dtype == dtype and weight.shape == plain.get_parameter("weight").shape
    before = plain.get_parameter("weight").float()
    error = (weight.float() - before).norm() / before.norm()
    assert error < (0.01 if bits == "8bit" else 0.12)
    plain.get_parameter("weight").copy_(weight)
    inputs = torch.randn(shape).to(dtype)
    for ours, theirs in zip(run(layer, inputs), run(plain, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bits", BITS)
def test_nothing_is_kept_for_the_backward_pass(bits: Bits) -> None:
    layer = quantized(nn.Linear(256, 256, bias=False).requires_grad_(False), bits)
    assert bytes_of(layer.buffers()) <= 256 * 256 * SIZES[bits]
    inputs = torch.randn(1, 256, requires_grad=True)
    with StorageTracker([inputs, *layer.buffers()]) as tracker:
        result = layer(inputs)
        assert tracker.live == result.untyped_storage().nbytes()
    assert tracker.peak > 256 * 256 * 4  # the weight was there for a while


def test_dora_measures_the_weights_as_they_are_kept(tiny_base: TinyBase) -> None:
    base = rounded_base(tiny_base("sd1"), "8bit")
    attach(base, AdapterConfig(rank=4, kind="dora", targets="attention"), seed=0)
    layer = next(
        live.module for live in find_layers(base).values() if hasattr(live.module, "lora_A")
    )
    weight = original_layer(layer).weight
    magnitude = layer.lora_magnitude_vector["default"].weight  # type: ignore[union-attr]
    torch.testing.assert_close(magnitude.data, weight.norm(dim=1))
    parameters = [p for p in base.unet.parameters() if p.requires_grad]
    assert all(found.isfinite().all() for found in gradients(base, parameters))


def test_another_base_is_not_met_in_the_cache(tiny_base: TinyBase) -> None:
    keys = {rounded_base(tiny_base("sd1"), bits).output_key for bits in ("full", *BITS)}
    assert len(keys) == 3
    assert load_base(str(tiny_base("sd1"))).output_key in keys


def test_a_platform_without_the_package_gets_one_sentence(
    tiny_base: TinyBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(UserError, match=r"memory\.base_weights .* bitsandbytes"):
        rounded_base(tiny_base("sd1"), "8bit")
    rounded_base(tiny_base("sd1"), "full")
    assert TrainingConfig().memory.base_weights == "auto"


def test_a_whole_run_and_its_evaluation(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Previews, export and measuring in the run; then `evaluate`, on the same rounded base."""
    measure_quickly(monkeypatch)
    config = small_config(
        tiny_base("sd1"),
        make_images(tmp_path / "images"),
        memory__base_weights="8bit",
        training__steps=2,
        evaluation__enabled=True,
        evaluation__board=0,
        previews__every=2,
    )
    result, collected = train_small(config, tmp_path / "run")
    assert result.adapter and result.adapter.exact
    before = collected.of(Evaluated)[-1].meters.effect
    assert before > 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "evaluation.json").is_file()
    with pytest.raises(UserError, match=r"memory\.base_weights: was 8bit, is full"):
        changed = {"memory": config.memory.model_copy(update={"base_weights": "full"})}
        train_small(config.model_copy(update=changed), tmp_path / "run", resume=True)
