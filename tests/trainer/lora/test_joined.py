"""Joined layers give what each of them gives by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, session_for
from tests.trainer.training.test_copies import gradients
from trainer.config.schema import AdapterConfig
from trainer.lora.attach import attach, disabled
from trainer.lora.joined import JOINED, JoinedLayers, joined_layers
from trainer.lora.layers import original_layer, set_weights
from trainer.memory.layers import lean_layers
from trainer.models.load import load_base
from trainer.training.copies import Copies
from trainer.training.session import Session


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


def with_joined(session: Session, keep: bool = True) -> Copies:
    """As on a card."""
    found = joined_layers([session.base.unet, *session.base.text_encoders])
    return Copies(session.parameters.values(), torch.bfloat16, found, keep)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("keep", [True, False])
def test_a_step_is_that_of_single_layers(
    family: str, keep: bool, tiny_base: TinyBase, tmp_path: Path
) -> None:
    """Loss and gradients agree within bf16; the base model's weights stay the same bits, also when
    it has been elsewhere meanwhile."""
    images = make_images(tmp_path / "images")
    changes = {"training__precision": "bf16", "training__gradient_checkpointing": keep}
    session = session_for(tiny_base(family), images, tmp_path / "run", **changes)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in session.parameters.values():
            parameter.add_(0.05 * torch.randn_like(parameter))  # B is zero at first
    unet = session.base.unet
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    plain = gradients(session, session.copies)
    copies = with_joined(session, keep)
    attention = 3 * 2 + sum(2 for _ in session.base.text_encoders)
    assert len(copies.joined) >= attention and len(copies.in_joined) > 10
    for _ in range(2):
        joined = gradients(session, copies)
        torch.testing.assert_close(joined[0], plain[0], rtol=2e-3, atol=1e-5)
        assert joined[1].keys() == plain[1].keys()
        for name, gradient in plain[1].items():
            error = (joined[1][name] - gradient).norm() / gradient.norm().clamp_min(1e-6)
            assert error < 0.05, name
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
    found = list(joined_layers([base.unet]))
    copies = Copies([one for _, one in named], torch.bfloat16, found, keep=False)
    weights = [original_layer(layer).weight for layer in found[0].layers]
    places: list[int] = []
    for moved in (False, False, True):
        if moved:
            for weight in weights:
                weight.data = weight.data.clone()
        with copies.used():
            places.append(weights[0].data_ptr())
            assert len({one.untyped_storage().data_ptr() for one in weights}) == 1
        assert all(one.matrix is None for one in found)
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
        assert all(one.count == 1 or not config.only for one in found)


def test_layers_off_in_a_pass_are_the_base_models(tiny_base: TinyBase, tmp_path: Path) -> None:
    """The teacher may be asked within a pass."""
    images = make_images(tmp_path / "images")
    session = session_for(tiny_base("sd1"), images, tmp_path / "run", training__precision="bf16")
    copies = with_joined(session)
    layer = copies.joined[0].layers[0]
    inputs = torch.randn(1, 3, original_layer(layer).weight.shape[1], dtype=torch.bfloat16)
    with copies.used(), torch.no_grad():
        assert hasattr(layer, JOINED)
        with disabled(session.base):
            assert torch.equal(layer(inputs), original_layer(layer)(inputs))
        last = copies.joined[0].layers[-1]
        if last is not layer:
            layer(inputs)
            with pytest.raises(ValueError, match="different inputs"):
                last(inputs.clone())
