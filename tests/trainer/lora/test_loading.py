"""Adapters on live models: all of a file acts, or nothing is changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import (
    NAMES,
    adapter_config,
    adapter_for,
    all_equal,
    change_of,
    nudge,
    outputs,
    random_adapter,
    written,
)
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer, Magnitude
from trainer.lora.attach import attach, attached, detach, set_strength
from trainer.lora.layers import find_layers, parts_of
from trainer.lora.loading import check_fit, collect, load_into
from trainer.lora.names import ModuleKey


def test_layers_that_we_do_not_train_are_loaded_too(base_of: BaseOf) -> None:
    base = base_of("sd1")
    scales = {key: (2, 1.0) for key in find_layers(base) if "position" not in key.path}
    adapter = random_adapter(base, scales)
    load_into(base, adapter, "locon")
    loaded = outputs(base)
    assert not any(p.requires_grad for part in parts_of(base).values() for p in part.parameters())
    detach(base)
    weights = {key: live.weight for key, live in find_layers(base).items()}
    before = {key: weight.clone() for key, weight in weights.items()}
    with torch.no_grad():
        try:
            for key, layer in adapter.layers.items():
                weights[key] += change_of(layer)
            for part, expected in outputs(base).items():
                torch.testing.assert_close(loaded[part], expected, atol=1e-3, rtol=1e-3)
        finally:
            for key, weight in before.items():
                weights[key].copy_(weight)


@pytest.mark.parametrize("family", NAMES)
def test_one_by_one_convolutions_and_linear_layers_stand_for_each_other(
    base_of: BaseOf, tmp_path: Path, family: str
) -> None:
    base = base_of(family)
    adapter = adapter_for(base, None, targets="convolution")
    flipped: dict[ModuleKey, LoraLayer] = {}
    for key, layer in adapter.layers.items():
        if layer.down.dim() == 2 or layer.down.shape[2:] == (1, 1):
            ones = [1, 1] if layer.down.dim() == 2 else []
            down = layer.down.reshape(*layer.down.shape[:2], *ones)
            up = layer.up.reshape(*layer.up.shape[:2], *ones)
            flipped[key] = replace(layer, down=down, up=up)
    assert {layer.down.dim() for layer in flipped.values()} == {2, 4}
    load_into(base, adapter, "a")
    expected = outputs(base)
    detach(base)
    other = replace(adapter, layers=adapter.layers | flipped)
    load_into(base, written(other, tmp_path / "a.safetensors", precision="fp32"), "b")
    assert all_equal(outputs(base), expected)


@pytest.mark.parametrize(
    ("made_for", "loaded_on", "reasons"),
    [
        ("sdxl", "sd1", ["Only in the adapter: text_encoder_2.", "(28 in all)", "Of another"]),
        ("sd1", "sdxl", ["Only in the adapter: unet.down_blocks.0", "Only in the base model:"]),
        ("sd2", "sd1", ["Of another shape: text_encoder.", "weight 16 x 16", "(16 in all)"]),
    ],
)
def test_an_adapter_of_another_family_is_refused_whole(
    base_of: BaseOf, tmp_path: Path, made_for: str, loaded_on: str, reasons: list[str]
) -> None:
    path = tmp_path / "foreign.safetensors"
    foreign = written(adapter_for(base_of(made_for)), path)
    base = base_of(loaded_on)
    attach(base, adapter_config(rank=2), seed=0)
    nudge(base)
    before = outputs(base)
    with pytest.raises(UserError) as caught:
        load_into(base, foreign, "foreign")
    for reason in reasons:
        assert reason in caught.value.message
    assert caught.value.message.startswith(f"{path} does not fit ")
    assert len(caught.value.message) < 2500
    assert attached(base) == ["default"]
    assert all_equal(outputs(base), before)


def test_a_magnitude_of_another_length_does_not_fit(base_of: BaseOf) -> None:
    base = base_of("sd1")
    key, layer = next(iter(adapter_for(base).layers.items()))
    wrong = replace(layer, magnitude=Magnitude(torch.ones(3), "rows"))
    with pytest.raises(UserError, match="Of another shape"):
        check_fit(base, Adapter({key: wrong}))


def test_collecting_copies(base_of: BaseOf) -> None:
    base = base_of("sd1")
    attach(base, adapter_config(rank=2), seed=0)
    copy = collect(base)
    set_strength(base, "default", 0.25)
    nudge(base)
    assert len(copy.dead_layers()) == len(copy.layers)
    assert {layer.alpha for layer in collect(base).layers.values()} == {2.0}
    with pytest.raises(ValueError, match="no adapter 'x'"):
        collect(base, "x")
