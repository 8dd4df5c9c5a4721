"""Resized and merged adapters against plain arithmetic and live models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import TinyBase
from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import all_equal, change_of, outputs, random_adapter, random_tensor
from tests.trainer.lora.test_inspection import SHAPES, layer_of
from tests.trainer.lora.test_layouts import adapter_for
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.attach import detach
from trainer.lora.baking import bake, save_base
from trainer.lora.changes import compare
from trainer.lora.editing import merge, resize
from trainer.lora.layers import find_layers
from trainer.lora.loading import load_into
from trainer.lora.names import ModuleKey
from trainer.lora.reading import read_adapter
from trainer.lora.verify import verify_file
from trainer.lora.writing import write_adapter
from trainer.models.identify import identify
from trainer.models.load import load_base

KEY = ModuleKey("unet", "conv_in")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 2, 100])
def test_resizing_keeps_the_nearest_of_its_rank(shape: str, rank: int) -> None:
    before = Adapter({KEY: layer_of(shape)}, "sd1")
    after = resize(before, rank=rank)
    layer = after.layers[KEY]
    change = change_of(before.layers[KEY])
    values = torch.linalg.svdvals(change.flatten(1))
    assert layer.rank == min(rank, before.layers[KEY].rank, len(values))
    assert layer.down.shape[1:] == before.layers[KEY].down.shape[1:]
    left_over = float(values[rank:].norm() / values.norm())
    found = float((change_of(layer) - change).norm() / change.norm())
    assert found == pytest.approx(left_over, abs=1e-6)
    assert compare(before, after).worst == pytest.approx(left_over, abs=1e-6)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_resizing_by_energy_keeps_that_share_with_one_alpha(base_of: BaseOf, energy: float) -> None:
    before = adapter_for(base_of, "sd1", 6, 3.0)
    after = resize(before, energy=energy)
    for key, layer in before.layers.items():
        values = torch.linalg.svdvals(change_of(layer).flatten(1)).square()
        rank = after.layers[key].rank
        assert float(values[:rank].sum() / values.sum()) >= energy - 1e-9
        assert rank == 1 or float(values[: rank - 1].sum() / values.sum()) < energy
    assert len({layer.alpha for layer in after.layers.values()}) == 1
    assert compare(before, after).overall <= (1 - energy) ** 0.5 + 1e-6
    assert after.metadata["ss_network_dim"] == str(max(x.rank for x in after.layers.values()))


def test_resized_files_work_in_every_tool(base_of: BaseOf, tmp_path: Path) -> None:
    before, path = adapter_for(base_of, "sd1", 6, 3.0), tmp_path / "a.safetensors"
    after = resize(before, energy=0.8)
    assert len({layer.rank for layer in after.layers.values()}) > 1
    write_adapter(after, path)
    assert verify_file(path, base_of("sd1")).summary().startswith("works in A1111, Forge, ComfyUI")
    assert all(verdict.works for verdict in verify_file(path).verdicts)


@pytest.mark.parametrize("values", [{"rank": 0}, {"energy": 0.0}, {"energy": 1.1}])
def test_sizes_out_of_range(values: dict[str, float]) -> None:
    with pytest.raises(UserError):
        resize(Adapter({KEY: layer_of("linear")}), **values)  # pyright: ignore


def test_a_dead_layer_stays_dead() -> None:
    dead = LoraLayer(torch.ones(4, 6), torch.zeros(5, 4), 4.0)
    before = Adapter({KEY: dead})
    after = resize(before, energy=0.99)
    assert (after.layers[KEY].rank, after.layers[KEY].dead) == (1, True)
    assert compare(before, after).in_words() == "is exact"


STRENGTHS = [[1.0], [0.5], [1.0, -0.7], [0.3, 0.0, 2.0]]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("strengths", STRENGTHS)
def test_merged_is_all_of_them_together(
    base_of: BaseOf, family: str, strengths: list[float]
) -> None:
    """Mixed ranks and alphas, convolutions, and layers that only some of them have."""
    base = base_of(family)
    keys = sorted(find_layers(base))
    adapters = [
        random_adapter(
            base,
            {
                key: (1 + (index + number) % 3, 0.5 + index % 4)
                for index, key in enumerate(keys)
                if (index + number) % 4
            },
            seed=1000 * number,
        )
        for number in range(len(strengths))
    ]
    merged = merge(
        list(zip(adapters, strengths, strict=True)), [f"a{n}" for n in range(len(strengths))]
    )
    assert merged.family == family
    assert len({layer.alpha for layer in merged.layers.values()}) == 1
    for key in keys:
        parts = [
            strength * change_of(adapter.layers[key])
            for adapter, strength in zip(adapters, strengths, strict=True)
            if key in adapter.layers
        ]
        if not parts:
            assert key not in merged.layers
            continue
        expected = sum(parts[1:], parts[0])
        error = (change_of(merged.layers[key]) - expected).norm()
        assert error <= 1e-6 * max(part.norm() for part in parts) + 1e-12


def test_merged_and_reduced(base_of: BaseOf) -> None:
    adapters = [(adapter_for(base_of, "sd1", 4, alpha), 1.0) for alpha in (1.0, 2.0)]
    whole = merge(adapters, ["a", "b"])
    reduced = resize(whole, rank=4)
    assert {layer.rank for layer in whole.layers.values()} == {8}
    assert {layer.rank for layer in reduced.layers.values()} == {4}
    # Both are the same A and B with other alphas: rank 4 holds their sum.
    assert compare(whole, reduced).worst <= 1e-6


def test_metadata_of_a_merged_adapter() -> None:
    def one(trigger: str, version: str) -> Adapter:
        metadata = {
            "modelspec.trigger_phrase": trigger,
            "ss_base_model_version": "sd_v1",
            "modelspec.license": version,
            "ss_tag_frequency": "{}",
            "rarebit.config": "{}",
        }
        return Adapter({KEY: layer_of("linear")}, "sd1", metadata)

    metadata = merge([(one("ohwx", "a"), 1.0), (one("zwx", "b"), 0.5)], ["one", "two"]).metadata
    assert metadata.pop("rarebit.merged") == json.dumps(
        [{"name": "one", "strength": 1.0}, {"name": "two", "strength": 0.5}]
    )
    assert metadata == {
        "modelspec.trigger_phrase": "ohwx, zwx",
        "ss_base_model_version": "sd_v1",
        "modelspec.title": "one + two",
        "ss_output_name": "one + two",
        "ss_network_dim": "8",
        "ss_network_alpha": "8.0",
    }


def test_what_can_not_be_merged() -> None:
    one = Adapter({KEY: layer_of("linear")}, "sd1", source="one")
    wide = LoraLayer(random_tensor(1, 4, 10), random_tensor(2, 12, 4), 1.0)
    for other, strength, reason in (
        (replace(one, family="sdxl"), 1.0, "different base models"),
        (replace(one, layers={KEY: wide}), 1.0, r"different shapes: unet\.conv_in"),
        (one, float("nan"), "can't be nan"),
    ):
        with pytest.raises(UserError, match=reason):
            merge([(one, 1.0), (other, strength)], ["one", "two"])


@pytest.mark.parametrize("name", ["sd1", "sd2-v", "sdxl"])
def test_a_baked_base_is_the_base_with_its_adapters(
    tiny_base: TinyBase, tmp_path: Path, name: str
) -> None:
    source = identify(str(tiny_base(name)))
    base = load_base(str(tiny_base(name)))
    before = outputs(base)
    layers = dict.fromkeys(find_layers(base), (2, 1.0))
    adapters = [(random_adapter(base, layers, seed), 0.1) for seed in (0, 1000)]
    for number, (adapter, strength) in enumerate(adapters):
        load_into(base, adapter, f"a{number}", strength)
    expected = outputs(base)
    detach(base)
    assert all_equal(outputs(base), before)
    assert len(bake(base, adapters)) == len(layers)
    save_base(base, tmp_path / "new" / "base", "folder", "fp32", source)
    again = load_base(str(tmp_path / "new" / "base"))
    assert again.prediction_type == base.prediction_type
    found = outputs(again)
    for part, output in expected.items():
        assert (found[part] - output).norm() <= 1e-4 * (output - before[part]).norm(), part
    with pytest.raises(UserError, match="exists already"):
        save_base(base, tmp_path / "new" / "base", "folder", "fp32", source)


def test_nothing_is_baked_where_one_does_not_fit(base_of: BaseOf, tmp_path: Path) -> None:
    base = base_of("sd1")  # the fixture checks that its weights stay the same
    path = tmp_path / "a.safetensors"
    write_adapter(adapter_for(base_of, "sd2", 2, 1.0), path)
    adapters = [(adapter_for(base_of, "sd1", 2, 1.0), 1.0), (read_adapter(path), 1.0)]
    with pytest.raises(UserError, match="does not fit"):
        bake(base, adapters)
