"""The predictor against real steps: the same code on real tensors, counted by the same tracker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.conftest import TinyBase
from tests.trainer.memory.steps import adapted, follow, rounded_base
from trainer.config.schema import AdapterConfig
from trainer.diffusion import Points, TextConditioning, call_unet
from trainer.memory.modes import Mode, set_mode
from trainer.memory.phases import Workload, optimizer_bytes, step_memory
from trainer.memory.quantized import Bits
from trainer.memory.tracking import BLOCK, StorageTracker, bytes_of, rounded, tensors_of
from trainer.models.base import BaseModel
from trainer.models.identify import read_facts
from trainer.training.optimizers import make_optimizer, parameter_groups


def test_storages_are_counted_once_and_while_they_live() -> None:
    known = torch.zeros(1000)
    with StorageTracker([known]) as tracker:
        view = known.view(10, 100).t()  # no storage of its own
        assert tracker.live == 0
        first = view + 1
        assert tracker.live == 4096  # 4,000 bytes in blocks of 512
        second = first * 2
        del first
        third = second.t().view(-1)
        del second
        assert tracker.live == 4096 and third.shape == (1000,)
        del third
        assert tracker.live == 0
    assert tracker.peak == 2 * 4096
    assert rounded(1) == BLOCK and rounded(BLOCK) == BLOCK
    assert bytes_of([known, known.view(10, 100)]) == 4096


@pytest.mark.parametrize(
    ("name", "mode", "checkpointing", "bits"),
    [
        ("sd1", "plain", False, "full"),
        ("sd1", "feed_forward", False, "full"),
        ("sd2", "lean", True, "full"),
        ("sd2", "lean", False, "4bit"),
        ("sdxl", "plain", False, "full"),
        ("sdxl", "lean", False, "full"),
        ("sdxl", "lean", True, "full"),
        ("sdxl", "feed_forward", False, "8bit"),
    ],
)
def test_prediction_of_a_step_is_what_a_step_takes(
    tiny_base: TinyBase, name: str, mode: Mode, checkpointing: bool, bits: Bits
) -> None:
    work = Workload(128, 128, "fp32", AdapterConfig(rank=4), 2, mode, checkpointing, bits)
    predicted = step_memory(read_facts(str(tiny_base(name))), work)
    base = rounded_base(tiny_base(name), bits)
    parameters = adapted(base)
    set_mode(base, mode, checkpointing, trains_text=True)
    assert predicted.adapter == bytes_of(parameters)
    weights = tensors_of(base.unet, *base.text_encoders)
    assert predicted.base_weights + predicted.adapter == bytes_of(weights)
    peaks = follow(base, parameters, side=64)
    for step, peak in zip((predicted, predicted.accumulating()), peaks, strict=True):
        assert step.activations + step.gradients == pytest.approx(peak, rel=0.05)


def test_a_row_more_in_the_step_is_a_row_more_in_the_prediction(
    tiny_base: TinyBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prediction follows the code that trains, not a copy of it."""
    facts = read_facts(str(tiny_base("sd1")))
    work = Workload(128, 128, "fp32", AdapterConfig(rank=4), 2, "lean", False)
    two, three = step_memory(facts, work), step_memory(facts, replace(work, rows=3))

    def with_one_more(base: BaseModel, points: Points, text: TextConditioning) -> Tensor:
        return call_unet(base, points.joined(points[:1]), text[[0, 1, 0]])[:2]

    monkeypatch.setattr("trainer.training.step.call_unet", with_one_more)
    changed = step_memory(facts, work)
    assert changed.activations > 1.3 * two.activations
    assert changed.activations == pytest.approx(three.activations, rel=0.1)


def test_repeated_shapes_are_those_that_torch_finds() -> None:
    """Strides too: a result that is not contiguous would be copied later on, and counted."""
    image = torch.empty(2, 8, 6, 4, device="meta").permute(0, 2, 3, 1)
    operations: list[Callable[[], Tensor]] = [
        lambda: torch.nn.functional.layer_norm(image, (8,)),
        lambda: image * 2.0,
        lambda: image + image,
        lambda: torch.cat([image, image]),
        lambda: image.sum(0),
    ]
    for operation in operations:
        found = operation()
        with StorageTracker([image]) as tracker:
            made = [operation(), operation()]
            assert tracker.live >= 2 * rounded(found.untyped_storage().nbytes())
        for tensor in made:
            assert (tensor.shape, tensor.stride()) == (found.shape, found.stride())
            assert tensor.dtype == found.dtype


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "prodigy", "lion", "adamw_schedule_free"])
def test_state_of_the_optimizers(name: str) -> None:
    from trainer.config.schema import OptimizerConfig

    parameter = torch.nn.Parameter(torch.randn(256, 64))
    groups = parameter_groups({"unet": [("x.lora_A", parameter)]}, {"unet": 1.0})
    optimizer = make_optimizer(OptimizerConfig(name=name), groups)  # type: ignore[arg-type]
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    state = [t for entry in optimizer.state.values() for t in entry.values()]
    real = bytes_of(t for t in state if isinstance(t, Tensor) and t.numel() > 1)
    assert optimizer_bytes(name, bytes_of([parameter])) == pytest.approx(real, rel=0.1)
