"""Resized, merged, baked and extracted adapters against plain arithmetic and live models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES
from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import (
    NAMES,
    adapter_for,
    change_of,
    outputs,
    random_adapter,
    random_tensor,
    sized_files,
)
from tests.trainer.lora.test_changes import SHAPES, layer_of
from tests.trainer.models.conftest import tiny_configs  # noqa: F401
from tests.trainer.models.original_layout import write_original
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.baking import bake, digests, precision_of, save_base
from trainer.lora.changes import compare
from trainer.lora.editing import extract, merge, resize
from trainer.lora.layers import find_layers
from trainer.lora.loading import load_into
from trainer.lora.names import ModuleKey
from trainer.lora.reading import read_adapter
from trainer.lora.verify import verify_file
from trainer.lora.writing import write_adapter
from trainer.memory.devices import Precision
from trainer.models.identify import identify
from trainer.models.load import load_base

KEY = ModuleKey("unet", "conv_in")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 2, 100])
def test_resizing_takes_the_nearest_of_its_rank(shape: str, rank: int) -> None:
    before = Adapter({KEY: layer_of(shape)}, "sd1")
    after = resize(before, rank=rank)
    layer = after.layers[KEY]
    change = change_of(before.layers[KEY])
    values = torch.linalg.svdvals(change.flatten(1))
    assert layer.rank == min(rank, before.layers[KEY].rank, len(values))
    assert layer.shape == before.layers[KEY].shape
    left_over = float(values[rank:].norm() / values.norm())
    found = float((change_of(layer) - change).norm() / change.norm())
    assert found == pytest.approx(left_over, abs=1e-6)
    assert compare(before, after).worst == pytest.approx(left_over, abs=1e-6)


def test_resizing_to_a_rank_for_each_layer(base_of: BaseOf) -> None:
    before = adapter_for(base_of("sd1"), 6, 3.0)
    ranks = {key: 1 + place % 3 for place, key in enumerate(before.layers)}
    after = resize(before, ranks=ranks)
    assert {key: layer.rank for key, layer in after.layers.items()} == ranks


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_resizing_by_energy_takes_that_share_with_one_alpha(base_of: BaseOf, energy: float) -> None:
    before = adapter_for(base_of("sd1"), 6, 3.0)
    after = resize(before, energy=energy)
    for key, layer in before.layers.items():
        values = torch.linalg.svdvals(change_of(layer).flatten(1)).square()
        rank = after.layers[key].rank
        assert float(values[:rank].sum() / values.sum()) >= energy - 1e-9
        assert rank == 1 or float(values[: rank - 1].sum() / values.sum()) < energy
    assert len({layer.alpha for layer in after.layers.values()}) == 1
    assert compare(before, after).overall <= (1 - energy) ** 0.5 + 1e-6
    assert after.metadata["ss_network_dim"] == str(max(x.rank for x in after.layers.values()))


def test_resized_files_work_in_every_tool(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn{}_to_{}"
    names = {name.format(n, letter): 3.0 for n in (1, 2) for letter in ("q", "k", "v", "out_0")}
    tensors = sized_files(names, rank=6) | sized_files(dict([*names.items()][:4]), rank=2)
    save_file({n: torch.randn_like(t) if t.dim() else t for n, t in tensors.items()}, path)
    after = resize(read_adapter(path), energy=0.8)
    assert len(after.ranks) > 1
    write_adapter(after, path)
    assert verify_file(path).summary.startswith("works in A1111, Forge, ComfyUI")
    assert all(verdict.works for verdict in verify_file(path).tools.values())


@pytest.mark.parametrize("values", [{"rank": 0}, {"energy": 0.0}, {"energy": 1.1}])
def test_sizes_out_of_range(values: dict[str, float]) -> None:
    with pytest.raises(UserError):
        resize(Adapter({KEY: layer_of("linear")}), **values)  # pyright: ignore


def test_a_dead_layer_stays_dead() -> None:
    before = Adapter({KEY: LoraLayer(torch.ones(4, 6), torch.zeros(5, 4), 4.0)})
    after = resize(before, energy=0.99)
    assert (after.layers[KEY].rank, after.layers[KEY].dead) == (1, True)
    assert compare(before, after).in_words() == "is exact"


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("strengths", [[1.0], [0.5], [1.0, -0.7], [0.3, 0.0, 2.0]])
def test_merged_is_all_of_them_together(
    base_of: BaseOf, family: str, strengths: list[float]
) -> None:
    """Mixed ranks and alphas, convolutions, and layers that only some of them have."""
    base = base_of(family)
    keys = sorted(find_layers(base))
    adapters = []
    for number, strength in enumerate(strengths):
        scales = {
            key: (1 + (index + number) % 3, 0.5 + index % 4)
            for index, key in enumerate(keys)
            if (index + number) % 4
        }
        adapters.append((random_adapter(base, scales, seed=1000 * number), strength))
    merged = merge(adapters, [f"a{number}" for number in range(len(adapters))])
    assert merged.family == family
    assert len({layer.alpha for layer in merged.layers.values()}) == 1
    for key in keys:
        parts = [s * change_of(one.layers[key]) for one, s in adapters if key in one.layers]
        assert (key in merged.layers) == bool(parts)
        if parts:
            error = (change_of(merged.layers[key]) - sum(parts)).norm()
            assert error <= 1e-6 * max(part.norm() for part in parts) + 1e-12


def test_merged_and_reduced(base_of: BaseOf) -> None:
    """Both are the same A and B with other alphas: half the ranks hold their sum."""
    both = [(adapter_for(base_of("sd1"), 4, alpha), 1.0) for alpha in (1.0, 2.0)]
    whole = merge(both, ["a", "b"])
    reduced = resize(whole, rank=4)
    assert (whole.ranks, reduced.ranks) == ([8], [4])
    assert compare(whole, reduced).worst <= 1e-6


def test_metadata_of_a_merged_adapter() -> None:
    def one(trigger: str, license: str, precision: Precision = "fp32") -> Adapter:
        metadata = {
            "modelspec.trigger_phrase": trigger,
            "ss_base_model_version": "sd_v1",
            "modelspec.license": license,
            "ss_tag_frequency": "{}",
            "rarebit.config": "{}",
        }
        return Adapter({KEY: layer_of("linear")}, "sd1", metadata, precision=precision)

    parts = [(one("ohwx", "a"), 1.0), (one("zwx", "a"), 0.5), (one("zwx", "b", "fp16"), 1.0)]
    merged = merge(parts, ["a", "b", "c"])
    recipe = [{"name": "a", "strength": 1.0}, {"name": "b", "strength": 0.5}]
    assert merged.precision == "fp32"
    assert merged.metadata == {
        "modelspec.trigger_phrase": "ohwx, zwx",
        "ss_base_model_version": "sd_v1",
        "modelspec.title": "a + b + c",
        "ss_output_name": "a + b + c",
        "ss_network_dim": "12",
        "ss_network_alpha": "12.0",
        "rarebit.merged": json.dumps([*recipe, {"name": "c", "strength": 1.0}]),
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


# -- into base models, and out of them


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_merged_model_is_the_adapted_one_in_both_layouts(
    tiny_base: TinyBase,
    tiny_configs: Path,  # noqa: F811
    tmp_path: Path,
    name: str,
) -> None:
    source = identify(str(tiny_base(name)))
    assert precision_of(source) == "fp32"
    base = load_base(str(tiny_base(name)))
    adapters = [(adapter_for(base, None, targets="convolution", seed=n), 0.3) for n in (0, 999)]
    for number, (adapter, strength) in enumerate(adapters):
        load_into(base, adapter, f"a{number}", strength)
    adapted = outputs(base)
    base = load_base(str(tiny_base(name)))
    assert set(bake(base, adapters)) == set(adapters[0][0].layers)
    expected = digests(base, "fp32")
    for layout, path in (("single-file", "m.safetensors"), ("folder", "new/m")):
        target = tmp_path / path
        save_base(base, target, "folder" if layout == "folder" else "single-file", "fp32", source)
        again = load_base(str(target))
        assert again.prediction_type == base.prediction_type
        assert digests(again, "fp32") == expected
        for part, result in outputs(again).items():
            torch.testing.assert_close(result, adapted[part], atol=1e-3, rtol=1e-3)
        with pytest.raises(UserError, match="exists already"):
            save_base(base, target, "folder", "fp32", source)


def test_nothing_is_baked_where_one_does_not_fit(base_of: BaseOf) -> None:
    base = base_of("sd1")  # the fixture checks that its weights stay the same
    with pytest.raises(UserError, match="does not fit"):
        bake(base, [(adapter_for(base), 1.0), (adapter_for(base_of("sd2")), 1.0)])


def test_a_single_file_has_all_that_its_source_had(
    tiny_base: TinyBase,
    tiny_configs: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = write_original(
        tiny_base("sd1"),
        tmp_path / "old.safetensors",
        marks=("v_pred", "ztsnr"),
        metadata={"a": "b"},
    )
    tensors = {
        name: tensor.half() if name.startswith("model.") else tensor
        for name, tensor in load_file(path).items()
    }
    tensors["model_ema.decay"] = torch.tensor([0.5])
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)
    save_file(tensors, path, {"a": "b"})
    source = identify(str(path))
    assert precision_of(source) in ("fp16", "fp32")
    base = load_base(str(path))
    adapter = adapter_for(base)
    bake(base, [(adapter, 1.0)])
    save_base(base, tmp_path / "new.safetensors", "single-file", "fp16", source)
    new = load_file(tmp_path / "new.safetensors")
    assert new.keys() == tensors.keys() - {"model_ema.decay"}  # of the UNet as it was
    same = [torch.equal(new[name].float(), tensors[name].half().float()) for name in new]
    assert same.count(False) == len(adapter.layers)
    assert identify(str(tmp_path / "new.safetensors")).zero_terminal_snr


@pytest.mark.parametrize("family", NAMES)
def test_extraction_finds_the_change(tiny_base: TinyBase, family: str) -> None:
    base, tuned = (load_base(str(tiny_base(family))) for _ in range(2))
    adapter = adapter_for(base, None, targets="convolution")
    bake(tuned, [(adapter, 1.0)])
    with torch.no_grad():
        bias = tuned.unet.conv_in.bias
        assert bias is not None
        bias.add_(1)
    found = extract(base, tuned, "tuned", rank=4)
    assert set(found.adapter.layers) == set(adapter.layers)
    assert found.adapter.family == family
    assert found.difference.worst < 1e-3
    assert found.left_out == ("unet.conv_in.bias",)
    assert 0 < found.left_out_share < 0.5
    rough = extract(base, tuned, "tuned", energy=0.8)
    assert 0.1 < rough.difference.worst <= 0.2**0.5 + 1e-6
    load_into(base, found.adapter, "found")
    for part, expected in outputs(tuned).items():
        # What is left out acts on the UNet alone.
        if part != "unet":
            torch.testing.assert_close(outputs(base)[part], expected, atol=1e-3, rtol=1e-3)


def test_what_can_not_be_extracted(tiny_base: TinyBase) -> None:
    one, other = load_base(str(tiny_base("sd1"))), load_base(str(tiny_base("sdxl")))
    same = load_base(str(tiny_base("sd1")))
    with torch.no_grad():  # a rounding is no change
        for weight in same.unet.parameters():
            weight.view(-1)[0] *= 1 + 1.2e-7
    for tuned, reason in ((other, "is for Stable Diffusion"), (same, "the same weights")):
        with pytest.raises(UserError, match=reason):
            extract(one, tuned, "x", rank=2)
