"""The check of an exported file: exact where it is, and everything that is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import adapter_config, change_of, nudge, random_tensor
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.attach import attach, set_strength
from trainer.lora.changes import TOLERANCES, compare, relative_difference
from trainer.lora.loading import collect
from trainer.lora.names import ModuleKey
from trainer.lora.reading import read_adapter
from trainer.lora.writing import write_adapter
from trainer.memory.devices import Precision
from trainer.models.base import BaseModel


def trained(base: BaseModel) -> Adapter:
    attach(base, adapter_config(rank=3, alpha=1.5), seed=0)
    nudge(base)
    return collect(base)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("precision", TOLERANCES)
def test_an_export_is_exact(
    base_of: BaseOf, tmp_path: Path, family: str, precision: Precision
) -> None:
    base, path = base_of(family), tmp_path / "a.safetensors"
    write_adapter(trained(base), path, precision=precision)
    set_strength(base, "default", 0.3)
    report = compare(collect(base), read_adapter(path))
    assert report.exact
    assert report.precision == precision
    assert (report.worst < 1e-12) == (precision == "fp32")
    assert len(report.matched) == {"sd1": 40, "sd2": 40, "sdxl": 76}[family]
    assert report.summary() == (
        f"read back: {'64 UNet and 12' if family == 'sdxl' else '32 UNet and 8'} text-encoder "
        f"layers differ by up to {report.worst:.1e} of the adapter's change in {precision}"
    )


def first(adapter: Adapter) -> tuple[ModuleKey, LoraLayer]:
    return next(iter(adapter.layers.items()))


def other_alpha(adapter: Adapter) -> Adapter:
    key, layer = first(adapter)
    return replace(adapter, layers=adapter.layers | {key: replace(layer, alpha=2.0)})


def dead_layer(adapter: Adapter) -> Adapter:
    key, layer = first(adapter)
    dead = replace(layer, up=torch.zeros_like(layer.up))
    return replace(adapter, layers=adapter.layers | {key: dead})


def missing_layer(adapter: Adapter) -> Adapter:
    key, _ = first(adapter)
    return replace(adapter, layers={k: v for k, v in adapter.layers.items() if k != key})


def unexpected_layer(adapter: Adapter) -> Adapter:
    _, layer = first(adapter)
    return replace(adapter, layers=adapter.layers | {ModuleKey("unet", "conv_in"): layer})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            other_alpha,
            "more than 1e-06 in text_encoder.text_model.encoder.layers.0.self_attn.k_proj",
        ),
        (dead_layer, "without effect (B = 0): text_encoder."),
        (missing_layer, "missing: text_encoder.text_model.encoder.layers.0.self_attn.k_proj"),
        (unexpected_layer, "unexpected: unet.conv_in"),
    ],
)
def test_what_is_wrong_is_said(
    base_of: BaseOf,
    tmp_path: Path,
    change: Callable[[Adapter], Adapter],
    words: str,
) -> None:
    base, path = base_of("sd1"), tmp_path / "a.safetensors"
    write_adapter(change(trained(base)), path, precision="fp32")
    report = compare(collect(base), read_adapter(path))
    assert not report.exact
    assert words in report.summary()


def test_numbers_too_small_for_fp16_are_said(base_of: BaseOf, tmp_path: Path) -> None:
    base, path = base_of("sd1"), tmp_path / "a.safetensors"
    attach(base, adapter_config(rank=3), seed=0)
    nudge(base)
    for name, parameter in base.unet.named_parameters():
        if "lora_B" in name:
            parameter.data *= 1e-6
    write_adapter(collect(base), path, precision="fp16")
    report = compare(collect(base), read_adapter(path))
    assert not report.exact
    assert "save in fp32" in report.summary()
    write_adapter(collect(base), path, precision="bf16")
    assert compare(collect(base), read_adapter(path)).exact


def test_an_untrained_adapter_is_called_dead(base_of: BaseOf, tmp_path: Path) -> None:
    base, path = base_of("sd1"), tmp_path / "a.safetensors"
    attach(base, adapter_config(rank=3), seed=0)
    write_adapter(collect(base), path)
    assert (
        "without effect (B = 0): all layers" in compare(collect(base), read_adapter(path)).summary()
    )


def test_nan_in_the_file_is_named(base_of: BaseOf, tmp_path: Path) -> None:
    base, path = base_of("sd1"), tmp_path / "a.safetensors"
    write_adapter(trained(base), path)
    tensors = load_file(path)
    name = sorted(tensors)[5]
    tensors[name] = torch.full_like(tensors[name], torch.nan)
    save_file(tensors, path)
    with pytest.raises(UserError, match=name):
        compare(collect(base), read_adapter(path))


@pytest.mark.parametrize("kernel", [(), (3, 3)])
@pytest.mark.parametrize(("rank", "other_rank"), [(2, 2), (2, 5), (40, 1)])
def test_relative_difference_is_that_of_the_whole_matrices(
    kernel: tuple[int, ...], rank: int, other_rank: int
) -> None:
    one, other = (
        LoraLayer(
            random_tensor(seed, r, 7, *kernel),
            random_tensor(seed + 1, 9, r, *([1] * len(kernel))),
            alpha,
        )
        for seed, r, alpha in ((0, rank, 3.0), (2, other_rank, 0.5))
    )
    expected = (change_of(other) - change_of(one)).norm() / change_of(one).norm()
    assert relative_difference(one, other) == pytest.approx(expected.item(), rel=1e-9)


def test_relative_difference_of_nothing() -> None:
    layer = LoraLayer(torch.ones(1, 2), torch.ones(2, 1), 1.0)
    dead = replace(layer, up=torch.zeros(2, 1))
    assert relative_difference(dead, dead) == 0.0
    assert relative_difference(dead, layer) == float("inf")
    assert relative_difference(layer, dead) == pytest.approx(1.0)
    assert relative_difference(layer, replace(layer, up=torch.ones(3, 1))) == float("inf")
