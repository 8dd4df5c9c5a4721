"""Joined layers give what each of them gives by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, session_for
from tests.trainer.training.test_copies import gradients
from trainer.config.schema import AdapterConfig, TrainingConfig
from trainer.lora.attach import attach, disabled
from trainer.lora.joined import JOINED, JoinedLayers, JoinedTime, joined_layers
from trainer.lora.layers import set_weights
from trainer.memory.devices import Device
from trainer.memory.layers import lean_layers
from trainer.memory.modes import Mode, memory_mode_of
from trainer.models.load import load_base
from trainer.training.copies import Copies
from trainer.training.session import Session, make_copies


class Three(nn.Module):
    """Linear layers of one input."""

    def __init__(self, count: int, bias: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 8, bias=bias) for _ in range(count))
        self.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, 6) to (…, 8 n)."""
        return torch.cat([(n + 1) * layer(inputs) for n, layer in enumerate(self.layers)], dim=-1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("first", [True, False], ids=["first of all", "later"])
def test_equal_their_single_operations(count: int, bias: bool, first: bool) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    model = Three(count, bias)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=3, target_modules=r"layers\..*"), model)
    for layer in model.layers:
        set_weights(layer, "default", torch.randn(4, 6), torch.randn(8, 4), trainable=True)  # type: ignore[arg-type]
    lean_layers(model)
    inputs = torch.randn(2, 5, 6, requires_grad=not first)
    joined = JoinedLayers(list(model.layers), "default")  # type: ignore[arg-type]
    wanted = [*joined.parameters] if first else [*joined.parameters, inputs]
    weights = torch.randn(2, 5, 8 * count)
    expected = model(inputs)
    of_expected = torch.autograd.grad(expected, wanted, weights)
    with torch.no_grad():
        for place, parameter in zip(joined.open(), joined.parameters, strict=True):
            place.copy_(parameter)
    found = model(inputs)
    (found * weights).sum().backward()
    torch.testing.assert_close(found, expected)
    given = [*joined.close(keep=False), *([] if first else [inputs.grad])]
    for one, other in zip(given, of_expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not any(hasattr(layer, JOINED) for layer in model.layers)


def with_joined(session: Session, keep: bool = True, across: bool = False) -> Copies:
    """As on a card; in float32 the layers that are not joined need no copies."""
    found = joined_layers([session.base.unet, *session.base.text_encoders], across=across)
    exact = session.config.training.precision == "fp32"
    return Copies([] if exact else session.parameters.values(), torch.bfloat16, found, keep)


@pytest.mark.parametrize(
    ("family", "precision", "across", "keep", "batch"),
    [
        ("sd1", "bf16", False, True, 2),
        ("sdxl", "bf16", True, False, 2),
        ("sd1", "fp32", True, True, 1),
        ("sd1", "fp32", True, False, 2),
        ("sdxl", "fp32", True, True, 2),
        ("sdxl", "fp32", False, True, 1),
    ],
)
def test_a_step_is_that_of_single_layers(
    family: str,
    precision: str,
    across: bool,
    keep: bool,
    batch: int,
    tiny_base: TinyBase,
    tmp_path: Path,
) -> None:
    """Loss and gradients agree, in bf16 as well as that can; the base model's weights stay the same
    bits, also when it has been elsewhere meanwhile."""
    images = make_images(tmp_path / "images")
    changes = {
        "training__precision": precision, "training__gradient_checkpointing": not across,
        "training__batch_size": batch,
        "preservation__method": "none" if batch == 1 else "prediction",
    }  # fmt: skip
    session = session_for(tiny_base(family), images, tmp_path / "run", **changes)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in session.parameters.values():
            parameter.add_(0.05 * torch.randn_like(parameter))  # B is zero at first
    unet = session.base.unet
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    plain = gradients(session, session.copies)
    copies = with_joined(session, keep, across)
    assert len(copies.in_joined) > 10
    assert sum(isinstance(one, JoinedTime) for one in copies.joined) == across
    of_all, of_each, of_loss = (1e-5, 1e-4, 1e-6) if precision == "fp32" else (0.03, 0.2, 2e-3)
    for _ in range(2):
        joined = gradients(session, copies)
        torch.testing.assert_close(joined[0], plain[0], rtol=of_loss, atol=1e-5)
        assert joined[1].keys() == plain[1].keys()
        for name, gradient in plain[1].items():
            error = (joined[1][name] - gradient).norm() / gradient.norm().clamp_min(1e-6)
            assert error < of_each, name
        every, wanted = (
            torch.cat([g.flatten() for g in one.values()]) for one in (joined[1], plain[1])
        )
        assert (every - wanted).norm() < of_all * wanted.norm()
        for name, value in unet.state_dict().items():
            assert torch.equal(value, before[name]), name
        for parameter in unet.parameters():
            parameter.data = parameter.data.clone()  # as moving to another device and back does


def test_what_lies_together_is_not_moved_again(tiny_base: TinyBase) -> None:
    """Where the base model is put away between steps nothing else holds its weights, and only what
    was moved is joined anew."""
    base = load_base(str(tiny_base("sd1")))
    nn.Module.to(base.unet, torch.bfloat16)
    named = attach(base, AdapterConfig(text_encoder=False), seed=0).parameters["unet"]
    found = list(joined_layers([base.unet], across=True))
    copies = Copies([one for _, one in named], torch.bfloat16, found, keep=False)
    weights = [layer.weight for one in found if len(one.sizes) == 3 for layer in one.originals][:3]
    places: list[int] = []
    before = [weight.data for weight in weights]  # so that their place is not taken again
    for moved in (False, False, True):
        if moved:
            for weight in weights:
                weight.data = weight.data.clone()
        with copies.used():
            places.append(weights[0].data_ptr())
            assert len({one.untyped_storage().data_ptr() for one in weights}) == 1
        assert all(one.matrix is None for one in found) and before
        before = [weight.data for weight in weights]
    assert places[0] == places[1] != places[2]


def test_what_has_more_to_it_stays_by_itself(tiny_base: TinyBase) -> None:
    for config, any_joined in (
        (AdapterConfig(), True),
        (AdapterConfig(dropout=0.1), False),
        (AdapterConfig(kind="dora"), False),
        (AdapterConfig(kind="loha"), False),
        (AdapterConfig(only=("*.to_q",)), True),
    ):
        base = load_base(str(tiny_base("sd1")))
        attach(base, config, seed=0)
        found = list(joined_layers([base.unet, *base.text_encoders]))
        assert bool(found) == any_joined, config
        assert all(len(one.sizes) == 1 or not config.only for one in found)


@pytest.mark.parametrize(
    ("kind", "mode", "checkpointing", "compiled", "across"),
    [
        ("cuda", "lean", False, False, True),
        ("cuda", "feed_forward", False, False, True),
        ("cuda", "lean", True, False, False),
        ("cuda", "lean", False, True, False),
        ("cuda", "plain", False, False, None),
        ("cpu", "lean", False, False, None),
    ],
)
def test_blocks_that_are_computed_again_have_theirs_to_themselves(
    kind: str,
    mode: Mode,
    checkpointing: bool,
    compiled: bool,
    across: bool | None,
    tiny_base: TinyBase,
) -> None:
    base = load_base(str(tiny_base("sd1")))
    attachment = attach(base, AdapterConfig(), seed=0)
    usual = memory_mode_of(TrainingConfig())
    now = replace(usual, mode=mode, checkpointing=checkpointing)
    device = Device(torch.device(kind), "bf16")
    joined = make_copies(base, attachment, device, now, compiled).joined
    assert bool(joined) == (across is not None)
    assert any(isinstance(one, JoinedTime) for one in joined) == bool(across)


def test_layers_off_in_a_pass_are_the_base_models(tiny_base: TinyBase, tmp_path: Path) -> None:
    """The teacher may be asked within a pass."""
    images = make_images(tmp_path / "images")
    session = session_for(tiny_base("sd1"), images, tmp_path / "run", training__precision="bf16")
    copies = with_joined(session)
    joined = next(one for one in copies.joined if len(one.sizes) == 3)
    first, *_, last = joined.askers
    inputs = torch.randn(1, 3, joined.originals[0].weight.shape[1], dtype=torch.bfloat16)
    with copies.used(), torch.no_grad():
        assert hasattr(first, JOINED)
        with disabled(session.base):
            assert torch.equal(first(inputs), joined.originals[0](inputs))
        first(inputs)
        assert torch.equal(last(inputs.clone()), last(inputs))  # whatever the first was asked for
