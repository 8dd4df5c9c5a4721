"""Drift is zero for the base model exactly, and grows with what an adapter does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES
from trainer.config.schema import AdapterConfig
from trainer.data.cache import TensorCache
from trainer.evaluation import drift as drift_module
from trainer.evaluation.drift import Probes, ProbeSettings, drift, make_probes, mean_drift
from trainer.lora.attach import Attachment, attach, set_strength
from trainer.memory.devices import choose_device
from trainer.models.base import BaseModel
from trainer.models.load import load_base

PROMPTS = ("a dog", "ohwx dog", "")
SMALL = ProbeSettings(pictures=1, timesteps=2, inference_steps=2)
DEVICE = choose_device("fp32")


def on_device(folder: Path) -> BaseModel:
    """A base model, its UNet and text encoders where they are measured: on the GPU, if any."""
    base = load_base(str(folder))
    DEVICE.put(base.unet, *base.text_encoders)
    return base


def move(attachment: Attachment, size: float = 0.1) -> None:
    """Gives every B a random value."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for named in attachment.parameters.values():
            for name, parameter in named:
                if name.endswith("lora_B"):
                    parameter.copy_(size * torch.randn(parameter.shape, generator=generator))


def adapted(base: BaseModel, **fields: bool) -> Attachment:
    return attach(base, AdapterConfig.model_validate({"rank": 2, **fields}), seed=0)


@pytest.fixture
def small(tiny_base: TinyBase, tmp_path: Path) -> tuple[BaseModel, Probes]:
    """A base model, and its probes."""
    base = on_device(tiny_base("sd1"))
    return base, make_probes(base, PROMPTS, DEVICE, TensorCache(tmp_path, print), SMALL)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_fresh_adapter_has_no_drift_and_a_moved_one_has(
    tiny_base: TinyBase, tmp_path: Path, name: str
) -> None:
    base = on_device(tiny_base(name))
    probes = make_probes(base, PROMPTS, DEVICE, TensorCache(tmp_path, print), SMALL)
    attachment = adapted(base)
    assert set(drift(base, probes, DEVICE).values()) == {0.0}
    move(attachment)
    full = drift(base, probes, DEVICE)
    assert list(full) == list(PROMPTS)
    set_strength(base, attachment.name, 0.5)
    half = drift(base, probes, DEVICE)
    for prompt in PROMPTS:
        assert 0 < half[prompt] < full[prompt]
    set_strength(base, attachment.name, 0.0)
    assert set(drift(base, probes, DEVICE).values()) == {0.0}


def test_probes_are_the_base_models_whatever_adapter_is_on_it(
    small: tuple[BaseModel, Probes], tmp_path: Path
) -> None:
    base, bare = small
    move(adapted(base))
    base.unet.train()
    again = make_probes(base, PROMPTS, DEVICE, TensorCache(tmp_path / "b", print), SMALL)
    assert base.unet.training
    assert torch.equal(bare.points.noised, again.points.noised)
    assert torch.equal(bare.unmoved, again.unmoved)


def test_pictures_are_drawn_once(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = on_device(tiny_base("sd1"))
    cache = TensorCache(tmp_path, print)
    first = make_probes(base, PROMPTS, DEVICE, cache, SMALL)
    monkeypatch.setattr(drift_module, "draw_latents", None)  # nothing is drawn any more
    second = make_probes(base, PROMPTS[::-1], DEVICE, cache, SMALL)
    size = SMALL.pictures * SMALL.timesteps
    assert torch.equal(first.points.noised[:size], second.points.noised[-size:])
    with pytest.raises(TypeError):
        make_probes(base, ["another"], DEVICE, cache, SMALL)


def test_what_the_text_encoder_learned_counts(small: tuple[BaseModel, Probes]) -> None:
    base, probes = small
    move(adapted(base, unet=False))
    assert all(value > 0 for value in drift(base, probes, DEVICE).values())


def test_dropout_of_the_adapter_is_off_while_measuring(small: tuple[BaseModel, Probes]) -> None:
    base, probes = small
    move(attach(base, AdapterConfig(rank=2, dropout=0.5), seed=0))
    base.unet.train()
    assert drift(base, probes, DEVICE) == drift(base, probes, DEVICE)


def test_means_count_each_prompt_once() -> None:
    drifts = {"a": 1.0, "b": 3.0, "c": 8.0}
    assert mean_drift(drifts, ["a", "b", "a"]) == 2.0
    assert mean_drift(drifts, []) is None
