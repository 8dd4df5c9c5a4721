"""Adapter files: what is written is what was trained, and what is read is all of it or nothing."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import (
    adapter_config,
    all_equal,
    change_of,
    nudge,
    outputs,
    random_adapter,
    random_tensor,
)
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.attach import attach, attached, detach, set_strength
from trainer.lora.changes import relative_difference
from trainer.lora.layers import adapted_layers, find_layers, find_targets
from trainer.lora.loading import collect, load_into
from trainer.lora.names import ModuleKey, Part
from trainer.lora.reading import read_adapter
from trainer.lora.writing import write_adapter, write_tensors
from trainer.memory.devices import Precision

FAMILIES = ("sd1", "sd2", "sdxl")
SCALES = [(4, None), (4, 1.0), (3, 7.5)]

# Greatest difference of a layer's change, relative to that change: rounding of A and B alone.
ROUNDING: dict[Precision, float] = {"fp32": 1e-12, "fp16": 6e-4, "bf16": 5e-3}


def same_layers(one: Adapter, other: Adapter) -> bool:
    return one.layers.keys() == other.layers.keys() and all(
        torch.equal(a.down, b.down) and torch.equal(a.up, b.up) and a.alpha == b.alpha
        for a, b in ((one.layers[key], other.layers[key]) for key in one.layers)
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize(("rank", "alpha"), SCALES)
def test_live_adapter_survives_the_file(
    base_of: BaseOf,
    tmp_path: Path,
    family: str,
    precision: Precision,
    rank: int,
    alpha: float | None,
) -> None:
    base, path = base_of(family), tmp_path / "a.safetensors"
    attach(base, adapter_config(rank=rank, alpha=alpha), seed=0)
    nudge(base)
    live, adapted = collect(base), outputs(base)
    assert list(live.layers) == sorted(find_targets(base))
    write_adapter(live, path, precision=precision)
    detach(base)

    saved = read_adapter(path)
    assert same_layers(saved, live) == (precision == "fp32")
    worst = max(relative_difference(live.layers[key], saved.layers[key]) for key in live.layers)
    assert worst <= ROUNDING[precision]
    assert {layer.alpha for layer in saved.layers.values()} == {alpha or rank}

    report = load_into(base, saved, "again")
    assert report.missing == report.dead == ()
    assert sum(report.layers.values()) == len(live.layers)
    assert all_equal(outputs(base), adapted) == (precision == "fp32")


@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_and_alphas_may_differ_by_layer(base_of: BaseOf, tmp_path: Path, family: str) -> None:
    base, path = base_of(family), tmp_path / "mixed.safetensors"
    scales = {key: (1 + i % 5, 0.5 + i % 7) for i, key in enumerate(find_targets(base))}
    adapter = random_adapter(base, scales)
    write_adapter(adapter, path, precision="fp32")
    load_into(base, read_adapter(path), "mixed")
    ranks = {key: layer.r["mixed"] for key, layer in adapted_layers(base).items()}
    assert ranks == {key: rank for key, (rank, _) in scales.items()}
    assert same_layers(collect(base, "mixed"), adapter)
    for key, spot in find_layers(base).items():
        if key in scales:
            inputs = random_tensor(5, 3, spot.original.weight.shape[1])
            change = inputs.double() @ change_of(adapter.layers[key]).T
            expected = spot.original(inputs) + change
            torch.testing.assert_close(spot.module(inputs).double(), expected, atol=1e-5, rtol=1e-5)


def test_layers_that_we_do_not_train_are_read_too(base_of: BaseOf, tmp_path: Path) -> None:
    base, path = base_of("sd1"), tmp_path / "locon.safetensors"
    scales = {key: (2, 1.0) for key in find_layers(base) if "position" not in key.path}
    adapter = random_adapter(base, scales)
    write_adapter(adapter, path, precision="fp32")
    load_into(base, read_adapter(path), "locon")
    loaded = outputs(base)
    detach(base)

    originals = {key: spot.original for key, spot in find_layers(base).items()}
    kept = {key: original.weight.clone() for key, original in originals.items()}
    try:
        with torch.no_grad():
            for key, layer in adapter.layers.items():
                originals[key].weight += change_of(layer)
        for part, expected in outputs(base).items():
            torch.testing.assert_close(loaded[part], expected, atol=1e-3, rtol=1e-3)
    finally:
        with torch.no_grad():
            for key, weight in kept.items():
                originals[key].weight.copy_(weight)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("rank", "alpha"), SCALES)
def test_diffusers_gives_the_same_outputs(
    base_of: BaseOf, tmp_path: Path, family: str, rank: int, alpha: float | None
) -> None:
    base, path = base_of(family), tmp_path / "a.safetensors"
    before = outputs(base)
    attach(base, adapter_config(rank=rank, alpha=alpha), seed=0)
    nudge(base)
    adapted = outputs(base)
    write_adapter(collect(base), path, precision="fp32")
    detach(base)
    pipeline = base.pipeline()
    pipeline.load_lora_weights(str(path))
    try:
        loaded = outputs(base)
    finally:
        pipeline.unload_lora_weights()
    for part, expected in adapted.items():
        own_change = (expected - before[part]).norm()
        assert own_change > 0
        assert (loaded[part] - expected).norm() <= 1e-6 * own_change


GOLDEN_KEYS = {
    "sd1": [
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_up.weight",
    ],
    "sd2": [
        "lora_te_text_model_encoder_layers_1_self_attn_out_proj.lora_down.weight",
        "lora_unet_up_blocks_1_attentions_1_transformer_blocks_0_attn2_to_k.lora_down.weight",
    ],
    "sdxl": [
        "lora_te1_text_model_encoder_layers_0_self_attn_v_proj.lora_up.weight",
        "lora_te2_text_model_encoder_layers_1_self_attn_k_proj.alpha",
        "lora_unet_mid_block_attentions_0_transformer_blocks_1_attn2_to_v.lora_down.weight",
    ],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_tools_find_their_keys(base_of: BaseOf, tmp_path: Path, family: str) -> None:
    base, path = base_of(family), tmp_path / "a.safetensors"
    attach(base, adapter_config(rank=3, alpha=1.5), seed=0)
    write_adapter(collect(base), path, precision="bf16")
    tensors = load_file(path)
    assert set(GOLDEN_KEYS[family]) <= tensors.keys()
    assert len(tensors) == 3 * len(find_targets(base))
    for name, tensor in tensors.items():
        if name.endswith(".alpha"):
            assert (tensor.shape, tensor.dtype, tensor.item()) == ((), torch.float32, 1.5)
        else:
            assert tensor.dtype == torch.bfloat16
            assert tensor.shape[0 if "lora_down" in name else 1] == 3


def small_adapter(**changes: Any) -> Adapter:
    layers = {
        ModuleKey("unet", f"mid_block.attentions.0.transformer_blocks.0.attn{i}.to_q"): LoraLayer(
            torch.arange(16.0).reshape(2, 8) + i, torch.arange(12.0).reshape(6, 2) / 8, 2.0
        )
        for i in (1, 2)
    }
    return replace(Adapter(layers, "sd1", {"title": "ü", "author": "n"}), **changes)


def test_bytes_are_a_function_of_the_contents(tmp_path: Path) -> None:
    adapter = small_adapter()
    turned = Adapter(
        dict(reversed(adapter.layers.items())), "sd1", dict(reversed(adapter.metadata.items()))
    )
    write_adapter(adapter, tmp_path / "one", precision="fp16")
    write_adapter(turned, tmp_path / "two", precision="fp16")
    data = (tmp_path / "one").read_bytes()
    assert (tmp_path / "two").read_bytes() == data
    golden = "a26fc013503df62c899090f58f129772abb6bea11639ff45703774c1f91b8a25"
    assert hashlib.sha256(data).hexdigest() == golden


def test_hashes_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    write_tensors(path, {"a": random_tensor(0, 300_000), "b": random_tensor(1, 2)}, {"title": "t"})
    data = path.read_bytes()
    behind_header = data[8 + int.from_bytes(data[:8], "little") :]
    digest = hashlib.sha256(behind_header).hexdigest()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata == {
        "title": "t",
        "sshs_model_hash": digest,
        "modelspec.hash_sha256": f"0x{digest}",
        "sshs_legacy_hash": hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8],
    }


def test_hashes_do_not_depend_on_metadata(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_adapter(small_adapter(metadata={"title": name}), tmp_path / name)
    one, two = (read_adapter(tmp_path / name).metadata for name in ("one", "two"))
    assert one["sshs_model_hash"] == two["sshs_model_hash"]


def test_metadata_with_broken_text_is_still_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(small_adapter(metadata={"title": "\ud800 \u202e <script>", "x": '"\\\n\0'}), path)
    metadata = read_adapter(path).metadata
    assert metadata["title"] == "? \u202e <script>"
    assert metadata["x"] == '"\\\n\0'
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == metadata


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    before = os.umask(0o027)
    try:
        write_adapter(small_adapter(), path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(small_adapter(), path)
    before = path.read_bytes()

    def disk_full(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:-9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_adapter(small_adapter(), path, precision="fp32")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_header_that_comfyui_would_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="header"):
        write_tensors(tmp_path / "a", {"a": torch.ones(2)}, {"x": "y" * (1 << 20)})
    assert list(tmp_path.iterdir()) == []


def with_up(value: float) -> Adapter:
    adapter = small_adapter()
    key = next(iter(adapter.layers))
    up = adapter.layers[key].up.clone()
    up[0, 0] = value
    return replace(adapter, layers={**adapter.layers, key: replace(adapter.layers[key], up=up)})


@pytest.mark.parametrize(
    ("value", "precision"),
    [(float("nan"), "fp32"), (float("inf"), "bf16"), (1e6, "fp16")],
)
def test_numbers_that_are_not_finite_are_not_written(
    tmp_path: Path, value: float, precision: Precision
) -> None:
    with pytest.raises(UserError, match=r"attn1_to_q\.lora_up\.weight"):
        write_adapter(with_up(value), tmp_path / "a", precision=precision)
    assert list(tmp_path.iterdir()) == []
    if value == 1e6:
        write_adapter(with_up(value), tmp_path / "a", precision="bf16")


Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


def pair(rank: int = 2, up_rank: int | None = None) -> dict[str, Tensor]:
    return {
        f"{Q}.lora_down.weight": torch.ones(rank, 8),
        f"{Q}.lora_up.weight": torch.ones(6, rank if up_rank is None else up_rank),
    }


@pytest.mark.parametrize("alpha", [None, torch.tensor(3.0), torch.tensor([3.0]), torch.tensor(3)])
def test_alpha_in_every_shape(tmp_path: Path, alpha: Tensor | None) -> None:
    path = tmp_path / "a.safetensors"
    save_file(pair() | ({} if alpha is None else {f"{Q}.alpha": alpha}), path)
    (layer,) = read_adapter(path).layers.values()
    assert layer.alpha == (2.0 if alpha is None else 3.0)


UNREADABLE: dict[str, tuple[dict[str, Tensor], str]] = {
    "nothing": ({}, "empty"),
    "up is missing": ({f"{Q}.lora_down.weight": torch.ones(2, 8)}, r"no .*to_q\.lora_up"),
    "down is missing": ({f"{Q}.alpha": torch.ones(())}, r"no .*to_q\.lora_down"),
    "ranks differ": (pair(2, 3), r"2 x 8.*6 x 3"),
    "rank 0": (pair(0), "0 x 8"),
    "one-dimensional": (
        {f"{Q}.lora_down.weight": torch.ones(2), f"{Q}.lora_up.weight": torch.ones(2)},
        "no pair",
    ),
    "alpha is a vector": (pair() | {f"{Q}.alpha": torch.ones(2)}, "alpha"),
    "NaN": (pair() | {f"{Q}.alpha": torch.tensor(float("nan"))}, r"to_q\.alpha"),
    "Inf": (pair() | {f"{Q}.lora_up.weight": torch.full((6, 2), torch.inf)}, r"to_q\.lora_up"),
    "8-bit": (
        pair() | {f"{Q}.lora_up.weight": torch.ones(6, 2).to(torch.float8_e4m3fn)},
        r"format.*lora_up",
    ),
    "one layer twice": (
        {
            f"{prefix}_text_model_encoder_layers_0_self_attn_q_proj.{kind}": torch.ones(2, 2)
            for prefix in ("lora_te", "lora_te1")
            for kind in ("lora_down.weight", "lora_up.weight")
        },
        "twice",
    ),
    "unknown tensor": (pair() | {f"{Q}.surprise": torch.ones(1)}, r"to_q\.surprise"),
    "DoRA of another shape": (pair() | {f"{Q}.dora_scale": torch.ones(1, 9)}, "dora_scale.*1 x 9"),
    "DoRA in a vector": (pair() | {f"{Q}.dora_scale": torch.ones(6)}, "dora_scale has the shape 6"),
    "DoRA without matrices": ({f"{Q}.dora_scale": torch.ones(1, 8)}, r"no .*to_q\.lora_down"),
    "LoHa": ({f"{Q}.hada_w1_a": torch.ones(2, 2)}, "LyCORIS"),
    "half of an SGM layer": (
        {"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": torch.ones(2, 2)},
        r"no lora_unet_input_blocks_4_1_proj_in\.lora_up",
    ),
    "half of a diffusers layer": (
        {"unet.mid_block.attn1.to_q.lora_A.weight": torch.ones(2, 2)},
        r"no unet\.mid_block\.attn1\.to_q\.lora_B",
    ),
    "PEFT for something else": (
        {"base_model.model.a.lora_A.weight": torch.ones(2, 2)},
        r"no adapter known here has: base_model\.model\.a",
    ),
    "SGM block that is not there": (
        {"lora_unet_input_blocks_13_0_in_layers_2.lora_down.weight": torch.ones(2, 2)},
        "no adapter known here has",
    ),
    "LoCon with an unfit third matrix": (
        pair() | {f"{Q}.lora_mid.weight": torch.ones(2, 3, 3, 3)},
        r"lora_mid\.weight has the shape 2 x 3 x 3 x 3",
    ),
    "half of PEFT's DoRA": (
        {"base_model.model.mid_block.a.lora_magnitude_vector": torch.ones(1)},
        r"no base_model\.model\.mid_block\.a\.lora_A",
    ),
    "biases": ({"unet.mid_block.a.lora_B.bias": torch.ones(1)}, "biases"),
    "Flux": ({"lora_unet_double_blocks_0_img.lora_down.weight": torch.ones(2, 2)}, "Flux"),
    "base model": ({"model.diffusion_model.out.2.weight": torch.ones(1)}, "whole base model"),
    "embedding": ({"emb_params": torch.ones(1, 8)}, "textual-inversion"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_files_are_named(tmp_path: Path, case: str) -> None:
    tensors, reason = UNREADABLE[case]
    path = tmp_path / "adapter.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError, match=reason) as caught:
        read_adapter(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_cut_files_are_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "adapter.safetensors"
    write_adapter(small_adapter(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"adapter\.safetensors"):
        read_adapter(path)


def full_adapter(base_of: BaseOf, family: str) -> Adapter:
    base = base_of(family)
    return random_adapter(base, dict.fromkeys(find_targets(base), (2, 2.0)))


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
    write_adapter(full_adapter(base_of, made_for), path)
    base = base_of(loaded_on)
    attach(base, adapter_config(rank=2), seed=0)
    nudge(base)
    before = outputs(base)
    with pytest.raises(UserError) as caught:
        load_into(base, read_adapter(path), "foreign")
    for reason in reasons:
        assert reason in caught.value.message
    assert caught.value.message.startswith(f"{path} does not fit ")
    assert len(caught.value.message) < 2500
    assert attached(base) == ["default"]
    assert all_equal(outputs(base), before)


@pytest.mark.parametrize(
    ("width", "names", "metadata", "family"),
    [
        (768, Q, {}, "sd1"),
        (1024, Q, {"ss_base_model_version": "sd_v1"}, "sd2"),
        (2048, Q, {}, "sdxl"),
        (40, Q, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        (40, Q, {}, None),
        (40, "lora_te2_text_model_encoder_layers_0_self_attn_q_proj", {}, "sdxl"),
    ],
)
def test_family_of_a_file(
    tmp_path: Path, width: int, names: str, metadata: dict[str, str], family: str | None
) -> None:
    path = tmp_path / "a.safetensors"
    name = names.replace("attn1_to_q", "attn2_to_k")
    tensors = {
        f"{name}.lora_down.weight": torch.ones(1, width),
        f"{name}.lora_up.weight": torch.ones(4, 1),
    }
    save_file(tensors, path, metadata)
    assert read_adapter(path).family == family


def test_half_and_dead_files_are_loaded_but_said(base_of: BaseOf) -> None:
    base = base_of("sd1")
    before = outputs(base)
    adapter = full_adapter(base_of, "sd1")
    half = {
        key: replace(layer, up=torch.zeros_like(layer.up))
        for key, layer in adapter.layers.items()
        if "to_q" in key.path
    }
    report = load_into(base, Adapter(half, "sd1"), "partly")
    assert report.layers == {"unet": 8}
    assert report.summary().startswith(
        "adapts 8 UNet layers; leaves out 24 UNet layers; all of its layers have no effect (B = 0)"
    )
    assert all_equal(outputs(base), before)


def test_several_files_with_strengths(base_of: BaseOf) -> None:
    base = base_of("sdxl")
    before = outputs(base)
    targets = find_targets(base)
    one = random_adapter(base, dict.fromkeys(targets, (2, 2.0)))
    two = random_adapter(base, dict.fromkeys(targets[::2], (3, 1.0)), seed=1000)
    strength: dict[Part, float] = {"unet": 0.5, "text_encoder": 0.0}
    load_into(base, one, "one", strength)
    alone = outputs(base)
    assert torch.equal(alone["text_encoder"], before["text_encoder"])
    load_into(base, two, "two", 0.0)
    assert all_equal(outputs(base), alone)
    set_strength(base, "two", 0.75)
    both = outputs(base)
    set_strength(base, "two", 0.0)
    assert all_equal(outputs(base), alone)
    set_strength(base, "two", 0.75)
    assert all_equal(outputs(base), both)
    detach(base, "two")
    assert all_equal(outputs(base), alone)
    assert not any(p.requires_grad for module in base.text_encoders for p in module.parameters())


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
