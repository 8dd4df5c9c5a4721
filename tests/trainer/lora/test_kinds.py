"""Kinds of adapters: LoCon, rsLoRA and DoRA start as nothing, learn everywhere and are exported."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import (
    adapter_config,
    all_equal,
    change_of,
    denoise,
    nudge,
    outputs,
    random_tensor,
)
from trainer.lora.adapter import Adapter, Magnitude
from trainer.lora.attach import attach, detach, set_strength
from trainer.lora.changes import change_on
from trainer.lora.editing import approximate
from trainer.lora.layers import adapted_layers, find_layers, get_magnitude
from trainer.lora.loading import collect, load_into, plain_on
from trainer.lora.names import ModuleKey, Targets
from trainer.lora.reading import read_adapter
from trainer.lora.writing import write_adapter
from trainer.models.base import BaseModel

FAMILIES = ("sd1", "sd2", "sdxl")
# Of the tiny models: layers of the UNet and of all text encoders together.
COUNTS: dict[tuple[str, Targets], tuple[int, int]] = {
    ("sd1", "feed-forward"): (48, 12),
    ("sd1", "convolution"): (79, 12),
    ("sd2", "convolution"): (79, 12),
    ("sdxl", "feed-forward"): (88, 18),
    ("sdxl", "convolution"): (119, 18),
}


@pytest.mark.parametrize(("family", "targets"), COUNTS)
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_fresh_adapter_changes_nothing_and_learns_everywhere(
    base_of: BaseOf, family: str, targets: Targets, kind: str, dtype: torch.dtype
) -> None:
    base = base_of(family, dtype)
    before, random_state = outputs(base), torch.get_rng_state()
    attachment = attach(base, adapter_config(rank=3, kind=kind, targets=targets), seed=0)
    unet = attachment.layers["unet"]
    assert (unet, sum(attachment.layers.values()) - unet) == COUNTS[family, targets]
    assert all_equal(outputs(base), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    named = [(f"{part}.{n}", p) for part, some in attachment.parameters.items() for n, p in some]
    assert len(named) == (3 if kind == "dora" else 2) * sum(attachment.layers.values())
    nudge(base)
    denoise(base).float().square().sum().backward()
    assert [name for name, p in named if p.grad is None or not p.grad.any()] == []
    assert {p.dtype for _, p in named} == {torch.float32}
    detach(base)
    assert all_equal(outputs(base), before)


@pytest.mark.parametrize(("alpha", "expected"), [(None, 4 * 2.0), (3.0, 3 * 2.0)])
def test_rslora_is_written_with_alpha_times_root_of_rank(
    base_of: BaseOf, tmp_path: Path, alpha: float | None, expected: float
) -> None:
    base, path = base_of("sd1"), tmp_path / "a.safetensors"
    attach(base, adapter_config(rank=4, alpha=alpha, kind="rslora"), seed=0)
    nudge(base)
    adapted = outputs(base)
    write_adapter(collect(base), path, precision="fp32")
    detach(base)
    saved = read_adapter(path)
    assert {layer.alpha for layer in saved.layers.values()} == {expected}
    load_into(base, saved, "again")
    assert all_equal(outputs(base), adapted)


@torch.no_grad()
def trained(base: BaseModel, targets: Targets, kind: str = "dora") -> Adapter:
    """An adapter as after training, still on the base."""
    attach(base, adapter_config(rank=3, alpha=2.0, kind=kind, targets=targets), seed=0)
    nudge(base)
    for index, layer in enumerate(adapted_layers(base).values()):
        magnitude = get_magnitude(layer, "default")
        if magnitude is not None:
            magnitude *= 1 + 0.2 * random_tensor(1000 + index, *magnitude.shape)
    return collect(base)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_loaded_adapter_gives_what_the_trained_one_gave(
    base_of: BaseOf, family: str, kind: str
) -> None:
    base = base_of(family)
    plain = outputs(base)
    adapter = trained(base, "convolution", kind)
    live = outputs(base)
    detach(base)
    load_into(base, adapter, "again")
    for part, result in outputs(base).items():
        change = (live[part] - plain[part]).norm()
        assert change > 0.01 * plain[part].norm()
        assert (result - live[part]).norm() <= (1e-5 if kind == "dora" else 0) * change
    set_strength(base, "again", 0.0)
    assert all_equal(outputs(base), plain)


def by_hand(weight: Tensor, change: Tensor, lengths: Tensor, by: str) -> Tensor:
    """The weight of DoRA, one row or column after the other."""
    turned = (weight.double() + change).movedim(0 if by == "rows" else 1, 0)
    pieces = [length * piece / piece.norm() for piece, length in zip(turned, lengths, strict=True)]
    return torch.stack(pieces).movedim(0, 0 if by == "rows" else 1)


@pytest.mark.parametrize("by", ["rows", "columns"])
def test_dora_is_its_formula(base_of: BaseOf, by: str) -> None:
    base = base_of("sd1")
    adapter = trained(base, "convolution")
    detach(base)
    spots = find_layers(base)
    kernels = set()
    for index, (key, layer) in enumerate(adapter.layers.items()):
        weight = spots[key].weight
        count = weight.shape[0 if by == "rows" else 1]
        lengths = random_tensor(index, count).abs()
        dora = replace(layer, magnitude=Magnitude(lengths, "rows" if by == "rows" else "columns"))
        expected = by_hand(weight, change_of(layer), lengths, by) - weight.double()
        torch.testing.assert_close(change_on(dora, weight), expected.flatten(1))
        kernels.add(tuple(weight.shape[2:]))
    assert kernels == {(), (1, 1), (3, 3)}


def test_an_empty_row_stays_empty(base_of: BaseOf) -> None:
    base = base_of("sd1")
    adapter = trained(base, "attention")
    layer = next(iter(adapter.layers.values()))
    weight = torch.zeros(layer.up.shape[0], layer.down.shape[1])
    magnitude = Magnitude(torch.zeros(weight.shape[0]), "rows")
    still = replace(layer, up=torch.zeros_like(layer.up), magnitude=magnitude)
    assert torch.equal(change_on(still, weight), torch.zeros(weight.shape, dtype=torch.float64))


def full_change(base: BaseModel, adapter: Adapter) -> dict[ModuleKey, Tensor]:
    spots = find_layers(base)
    return {key: change_on(layer, spots[key].weight) for key, layer in adapter.layers.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stated_difference_is_the_true_one(base_of: BaseOf, family: str) -> None:
    base = base_of(family)
    adapter = trained(base, "convolution")
    exact = full_change(base, adapter)
    shares = []
    for rank in (2, 6, 1000):
        found = approximate(base, adapter, rank=rank)
        assert not found.adapter.is_dora
        assert {layer.rank for layer in found.adapter.layers.values()} <= set(range(1, rank + 1))
        nearest = full_change(base, found.adapter)
        missing = {key: float((exact[key] - nearest[key]).norm()) for key in exact}
        size = math.sqrt(sum(float(change.norm()) ** 2 for change in exact.values()))
        share = math.sqrt(sum(value**2 for value in missing.values())) / size
        # The matrices are kept in float32.
        assert found.difference.overall == pytest.approx(share, abs=1e-6)
        shares.append(share)
    assert shares[0] > shares[1] > 1e-3 > 1e-6 > shares[2]
    kept = approximate(base, adapter, energy=0.9)
    assert kept.difference.worst <= math.sqrt(0.1) + 1e-6


def test_plain_adapters_pass_unchanged(base_of: BaseOf) -> None:
    base = base_of("sd1")
    adapter = trained(base, "feed-forward", "lora")
    assert plain_on(base, adapter).layers == adapter.layers
