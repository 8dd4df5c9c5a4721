"""What is written is what was trained, in every layout, and others read it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import (
    NAMES,
    adapter_for,
    on_meta,
    outputs,
    random_tensor,
    worst_difference,
    written,
)
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.attach import detach
from trainer.lora.layers import find_layers, find_targets
from trainer.lora.loading import load_into
from trainer.lora.names import ModuleKey, Targets, kohya_name
from trainer.lora.reading import PEFT_METADATA, read_adapter
from trainer.lora.writing import (
    WritableLayout,
    best_layout,
    write_adapter,
    write_tensors,
)
from trainer.memory.devices import Precision
from trainer.models.families import FamilyName

WRITABLE_LAYOUTS: tuple[WritableLayout, ...] = get_args(WritableLayout)
SCALES = [(4, 4.0), (4, 1.0), (3, 7.5), (None, 0.0)]  # None: mixed
# Greatest difference of a layer's change, relative to that change: rounding of A and B alone.
ROUNDING: dict[Precision, float] = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 8e-3}
LAYER = LoraLayer(torch.ones(1, 2), torch.ones(3, 1), 1.0)
Q = ModuleKey("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")


@pytest.mark.parametrize(("family", "precision"), zip(NAMES, ROUNDING, strict=True))
@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
@pytest.mark.parametrize(("rank", "alpha"), SCALES)
def test_every_layout_comes_back(
    base_of: BaseOf,
    tmp_path: Path,
    family: str,
    layout: WritableLayout,
    rank: int | None,
    alpha: float,
    precision: Precision,
) -> None:
    adapter = adapter_for(base_of(family), rank, alpha)
    back = written(adapter, tmp_path / "a.safetensors", layout=layout, precision=precision)
    assert worst_difference(adapter, back) <= ROUNDING[precision]


@pytest.mark.parametrize("family", NAMES)
def test_locon_of_full_size_models_comes_back_in_every_layout(
    family: FamilyName, tmp_path: Path
) -> None:
    """Rank 1 on every layer of UNet and text encoders, a number for each."""
    layers: dict[ModuleKey, LoraLayer] = {}
    for index, (key, live) in enumerate(find_layers(on_meta(family)).items()):
        kernel = live.weight.shape[2:]
        down = torch.full((1, 2, *kernel), 1.0 + index)
        layers[key] = LoraLayer(down, torch.ones(3, 1, *([1] * len(kernel))), 0.5 + index % 5)
    adapter = Adapter(layers, family)
    for layout in WRITABLE_LAYOUTS:
        path = tmp_path / f"{layout}.safetensors"
        back = written(adapter, path, layout=layout, precision="fp32")
        assert worst_difference(adapter, back) <= 1e-6
    names = load_file(tmp_path / "kohya-sgm.safetensors")
    assert not any("down_blocks" in name or "conv1" in name for name in names)


# In kohya's layout diffusers gives all layers of a part one alpha: `trainer.lora.tools`.
FOR_DIFFUSERS = [("diffusers", *scale) for scale in SCALES] + [("kohya", *s) for s in SCALES[:-1]]


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize(("layout", "rank", "alpha"), FOR_DIFFUSERS)
def test_diffusers_gives_the_same_outputs(
    base_of: BaseOf,
    tmp_path: Path,
    family: str,
    layout: WritableLayout,
    rank: int | None,
    alpha: float,
) -> None:
    base, path = base_of(family), tmp_path / "a.safetensors"
    adapter, before = adapter_for(base, rank, alpha), outputs(base)
    load_into(base, adapter, "ours")
    expected = outputs(base)
    detach(base)
    write_adapter(adapter, path, layout, "fp32")
    pipeline = base.pipeline()
    pipeline.load_lora_weights(str(path))
    try:
        loaded = outputs(base)
    finally:
        pipeline.unload_lora_weights()
    for part, output in expected.items():
        own_change = (output - before[part]).norm()
        assert own_change > 0
        assert (loaded[part] - output).norm() <= 1e-5 * own_change, part


def test_diffusers_refuses_bundled_embeddings(base_of: BaseOf, tmp_path: Path) -> None:
    """As `trainer.lora.tools` says."""
    base, path = base_of("sd1"), tmp_path / "a.safetensors"
    embeddings = {"tok": {"string_to_param.*": torch.ones(2, 16)}}
    write_adapter(replace(adapter_for(base), embeddings=embeddings), path)
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        base.pipeline().load_lora_weights(str(path))


@pytest.mark.parametrize("family", NAMES)
def test_other_tools_find_their_keys(base_of: BaseOf, tmp_path: Path, family: str) -> None:
    path = tmp_path / "a.safetensors"
    adapter = adapter_for(base_of(family), 3, 1.5)
    write_adapter(adapter, path, precision="bf16")
    tensors = load_file(path)
    assert set(tensors) == {
        f"{kohya_name(adapter.family, key)}.{kind}"
        for key in adapter.layers
        for kind in ("alpha", "lora_down.weight", "lora_up.weight")
    }
    for name, tensor in tensors.items():
        if name.endswith(".alpha"):
            assert (tensor.shape, tensor.dtype, tensor.item()) == ((), torch.float32, 1.5)
        else:
            assert tensor.dtype == torch.bfloat16
            assert tensor.shape[0 if "lora_down" in name else 1] == 3


@pytest.mark.parametrize(
    ("family", "targets", "layout"),
    [
        ("sd1", "convolution", "kohya"),
        ("sd2", "convolution", "kohya"),
        ("sdxl", "feed-forward", "kohya"),
        ("sdxl", "convolution", "kohya-sgm"),
    ],
)
def test_only_sdxl_convolutions_need_block_names(
    base_of: BaseOf, family: FamilyName, targets: Targets, layout: WritableLayout
) -> None:
    for base, expected in ((on_meta(family), layout), (base_of(family), "kohya")):
        layers = dict.fromkeys(find_targets(base, targets), LAYER)
        assert best_layout(Adapter(layers, family)) == expected


def test_block_names_need_a_full_size_model(tmp_path: Path) -> None:
    adapter = Adapter({ModuleKey("unet", "down_blocks.3.resnets.1.conv1"): LAYER}, "sdxl")
    for broken in (adapter, replace(adapter, family=None)):
        with pytest.raises(UserError, match="block name"):
            write_adapter(broken, tmp_path / "a.safetensors", "kohya-sgm")


def test_layers_that_no_model_has_are_not_written(tmp_path: Path) -> None:
    adapter = Adapter({ModuleKey("unet", "base_model.model.conv_in"): LAYER, Q: LAYER}, "sd1")
    with pytest.raises(UserError, match=r"don't have: unet\.base_model\.model\.conv_in\."):
        write_adapter(adapter, tmp_path / "a.safetensors")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("alpha", [1e38, -1e30, 2e9, 0.0, -3.0, float("nan")])
@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_what_is_written_is_read_again_whatever_alpha(
    alpha: float, layout: WritableLayout, precision: Precision, tmp_path: Path
) -> None:
    """Or it is refused, and there is no file."""
    layer = LoraLayer(random_tensor(1, 2, 8), random_tensor(2, 8, 2), alpha)
    path = tmp_path / "a.safetensors"
    try:
        write_adapter(Adapter({Q: layer}, "sd1"), path, layout, precision)
    except UserError as error:
        assert "NaN, infinite or too large" in error.message
        assert not path.exists()
        unfit = precision == "fp16" and layout == "diffusers" and abs(alpha) > 1e9
        assert alpha != alpha or unfit
        return
    (back,) = read_adapter(path).layers.values()
    expected = layer.down.T @ layer.up.T * (alpha / 2)
    change = back.down.float().T @ back.up.float().T * (back.alpha / 2)
    assert torch.allclose(change, expected, rtol=2e-2, atol=1e-2 * expected.abs().max().item())


# -- the bytes of a file


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


def test_metadata_with_broken_text_is_still_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    odd = {"title": "\ud800 \u202e <script>", "x": '"\\\n\0'}
    metadata = written(small_adapter(metadata=odd), path).metadata
    assert metadata["title"] == "? \u202e <script>"
    assert metadata["x"] == odd["x"]
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == metadata
    plain = written(small_adapter(), tmp_path / "b").metadata
    assert metadata["sshs_model_hash"] == plain["sshs_model_hash"]


def test_metadata_that_has_no_room_is_left_out(tmp_path: Path) -> None:
    """ComfyUI reads no header beyond 1 MiB."""
    path = tmp_path / "a.safetensors"
    adapter = small_adapter(metadata={"short": "here", "long": "x" * 2_000_000})
    assert write_adapter(adapter, path) == ["long"]
    assert read_adapter(path).metadata["short"] == "here"
    assert int.from_bytes(path.read_bytes()[:8], "little") < 1 << 20
    many = small_adapter(metadata={str(number): "x" * 100 for number in range(12_000)})
    assert PEFT_METADATA not in write_adapter(many, path, "diffusers")
    with pytest.raises(UserError, match="header"):
        write_tensors(tmp_path / "b", {"a": torch.ones(2)}, {"x": "y" * (1 << 20)})
    assert list(tmp_path.iterdir()) == [path]


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


@pytest.mark.parametrize(
    ("value", "precision"),
    [(float("nan"), "fp32"), (float("inf"), "bf16"), (1e6, "fp16")],
)
def test_numbers_that_are_not_finite_are_not_written(
    tmp_path: Path, value: float, precision: Precision
) -> None:
    adapter = small_adapter()
    next(iter(adapter.layers.values())).up[0, 0] = value
    with pytest.raises(UserError, match=r"attn1_to_q\.lora_up\.weight"):
        write_adapter(adapter, tmp_path / "a", precision=precision)
    assert list(tmp_path.iterdir()) == []
    if value == 1e6:
        write_adapter(adapter, tmp_path / "a", precision="bf16")


def test_a_file_may_be_named_by_a_text(tmp_path: Path) -> None:
    """As `train`, `evaluate` and `generate` take it."""
    name = str(tmp_path / "a.safetensors")
    write_adapter(small_adapter(), name)
    assert read_adapter(name).layers.keys() == small_adapter().layers.keys()
