"""Everyone's layouts: each tensor is understood, and comes back as the same layer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_unet_lora_key,
    _maybe_map_sgm_blocks_to_diffusers,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import change_of, outputs, random_adapter, random_tensor
from tests.trainer.lora.test_names import on_meta
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.attach import detach
from trainer.lora.changes import relative_difference
from trainer.lora.layers import find_layers, find_targets
from trainer.lora.layouts import group_layers, layouts_of
from trainer.lora.loading import load_into
from trainer.lora.names import ModuleKey, Targets, from_sgm, to_sgm
from trainer.lora.reading import PEFT_METADATA, read_adapter
from trainer.lora.writing import WRITABLE_LAYOUTS, WritableLayout, best_layout, write_adapter
from trainer.memory.devices import Precision
from trainer.models.families import FAMILIES, FamilyName

# Name in the file (without its suffix) -> canonical layer. From files that sd-scripts, LyCORIS,
# diffusers of several years and PEFT write.
BLOCK = "transformer_blocks_0"
GOLDEN_KOHYA = {
    "lora_unet_down_blocks_0_resnets_1_conv_shortcut": "unet.down_blocks.0.resnets.1.conv_shortcut",
    "lora_unet_up_blocks_1_upsamplers_0_conv": "unet.up_blocks.1.upsamplers.0.conv",
    f"lora_unet_mid_block_attentions_0_{BLOCK}_ff_net_0_proj": (
        "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"
    ),
    "lora_te_text_model_encoder_layers_3_mlp_fc1": (
        "text_encoder.text_model.encoder.layers.3.mlp.fc1"
    ),
    # Without the level that transformers 5.6 dropped: other tools lose it, here it is known.
    "lora_te_encoder_layers_3_self_attn_q_proj": (
        "text_encoder.text_model.encoder.layers.3.self_attn.q_proj"
    ),
    "lora_te2_text_projection": "text_encoder_2.text_projection",
}
GOLDEN_SGM = {
    "input_blocks_0_0": "conv_in",
    "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
    "input_blocks_2_0_out_layers_3": "down_blocks.0.resnets.1.conv2",
    "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks_4_0_emb_layers_1": "down_blocks.1.resnets.0.time_emb_proj",
    "input_blocks_4_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
    "input_blocks_4_1_proj_in": "down_blocks.1.attentions.0.proj_in",
    f"input_blocks_4_1_{BLOCK}_attn1_to_q": (
        "down_blocks.1.attentions.0.transformer_blocks_0_attn1_to_q"
    ),
    "input_blocks_8_1_transformer_blocks_9_ff_net_0_proj": (
        "down_blocks.2.attentions.1.transformer_blocks_9_ff_net_0_proj"
    ),
    "middle_block_0_in_layers_2": "mid_block.resnets.0.conv1",
    f"middle_block_1_{BLOCK}_attn2_to_out_0": "mid_block.attentions.0."
    "transformer_blocks_0_attn2_to_out_0",
    "middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
    "output_blocks_0_1_proj_out": "up_blocks.0.attentions.0.proj_out",
    "output_blocks_2_1_conv": "up_blocks.0.upsamplers.0.conv",  # SD 1 and 2
    "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",  # SDXL
    "output_blocks_5_0_skip_connection": "up_blocks.1.resnets.2.conv_shortcut",
    "output_blocks_11_0_in_layers_2": "up_blocks.3.resnets.2.conv1",
    "time_embed_0": "time_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
    "out_2": "conv_out",
}
ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
SELF_ATTENTION = "encoder.layers.3.self_attn"
GOLDEN_PATHS = {
    f"unet.{ATTENTION}.to_q.lora_A.weight": f"unet.{ATTENTION}.to_q",
    f"unet.{ATTENTION}.to_q.lora_A.default.weight": f"unet.{ATTENTION}.to_q",
    f"unet.{ATTENTION}.to_out.0.lora.down.weight": f"unet.{ATTENTION}.to_out.0",
    f"unet.{ATTENTION}.processor.to_out_lora.down.weight": f"unet.{ATTENTION}.to_out.0",
    f"{ATTENTION}.processor.to_k_lora.down.weight": f"unet.{ATTENTION}.to_k",
    "unet.down_blocks.0.resnets.0.conv1.lora_A.weight": "unet.down_blocks.0.resnets.0.conv1",
    f"text_encoder.text_model.{SELF_ATTENTION}.q_proj.lora_A.weight": (
        f"text_encoder.text_model.{SELF_ATTENTION}.q_proj"
    ),
    f"text_encoder.{SELF_ATTENTION}.q_proj.lora_A.weight": (
        f"text_encoder.text_model.{SELF_ATTENTION}.q_proj"
    ),
    f"text_encoder_2.text_model.{SELF_ATTENTION}.out_proj.lora_linear_layer.down.weight": (
        f"text_encoder_2.text_model.{SELF_ATTENTION}.out_proj"
    ),
    f"text_encoder.text_model.{SELF_ATTENTION}.to_out_lora.down.weight": (
        f"text_encoder.text_model.{SELF_ATTENTION}.out_proj"
    ),
    f"base_model.model.{ATTENTION}.to_v.lora_A.weight": f"unet.{ATTENTION}.to_v",
    f"base_model.model.text_model.{SELF_ATTENTION}.v_proj.lora_A.weight": (
        f"text_encoder.text_model.{SELF_ATTENTION}.v_proj"
    ),
}


def only_key(tmp_path: Path, down: str, up: str) -> tuple[str, str]:
    """The layer of a file of one layer, and the file's layout."""
    groups = group_layers(tmp_path / "a.safetensors", [down, up])
    (key,) = groups
    return str(key), layouts_of(groups)[0]


@pytest.mark.parametrize("name", GOLDEN_KOHYA)
def test_golden_kohya_names(tmp_path: Path, name: str) -> None:
    key = only_key(tmp_path, f"{name}.lora_down.weight", f"{name}.lora_up.weight")
    assert key == (GOLDEN_KOHYA[name], "kohya")


@pytest.mark.parametrize("name", GOLDEN_SGM)
def test_golden_sgm_names(tmp_path: Path, name: str) -> None:
    assert from_sgm(name) == GOLDEN_SGM[name]
    full = f"lora_unet_{name}"
    key, layout = only_key(tmp_path, f"{full}.lora_down.weight", f"{full}.lora_up.weight")
    assert key.replace(".", "_") == f"unet.{GOLDEN_SGM[name]}".replace(".", "_")
    assert layout == "kohya-sgm"


@pytest.mark.parametrize("name", GOLDEN_PATHS)
def test_golden_paths(tmp_path: Path, name: str) -> None:
    up = name.replace("lora_A", "lora_B").replace(".down.", ".up.")
    key, layout = only_key(tmp_path, name, up)
    assert key == GOLDEN_PATHS[name]
    assert layout == ("peft" if name.startswith("base_model") else "diffusers")


@pytest.mark.parametrize(
    "name",
    [
        "input_blocks_12_0_in_layers_2",
        f"input_blocks_{'1' * 9999}_0_in_layers_2",
        "input_blocks_3_0_in_layers_2",
        "input_blocks_1_2_in_layers_2",
        "input_blocks_1_0_in_layers_0",
        "middle_block_3_in_layers_2",
        "output_blocks_1_1_conv",
        "output_blocks_12_0_in_layers_2",
        "input_blocks_1_1_norm",
    ],
)
def test_block_names_that_no_unet_has(name: str) -> None:
    assert from_sgm(name) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_has_a_block_name_and_comes_back(family: FamilyName, tmp_path: Path) -> None:
    keys = [key for key in find_layers(on_meta(family)) if key.part == "unet"]
    names = {key: to_sgm(family, key.path) for key in keys}
    assert len(set(names.values())) == len(keys) > 250
    tensors = [
        f"lora_unet_{name}.{kind}.weight"
        for name in names.values()
        for kind in ("lora_down", "lora_up")
    ]
    groups = group_layers(tmp_path / "a.safetensors", tensors)
    assert groups.keys() == set(keys)
    assert all(
        groups[key].tensors["down"] == f"lora_unet_{names[key]}.lora_down.weight" for key in keys
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_block_names_are_those_of_diffusers(family: FamilyName) -> None:
    """diffusers' own translation, for the layers that it can translate one by one."""
    base = on_meta(family)
    for key in find_targets(base):
        if key.part != "unet":
            continue
        name = f"lora_unet_{to_sgm(family, key.path)}.lora_down.weight"
        (mapped,) = _maybe_map_sgm_blocks_to_diffusers({name: None}, base.unet.config)
        path = _convert_unet_lora_key(mapped).replace(".processor", "")
        path = path.replace("_lora.down.weight", "").replace("to_out", "to_out.0")
        assert path == key.path


# -- whole files

SCALES = [(4, 4.0), (4, 1.0), (3, 7.5), (0, 0.0)]  # (0, 0): mixed
ROUNDING: dict[Precision, float] = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 8e-3}


def adapter_for(base_of: BaseOf, family: str, rank: int, alpha: float) -> Adapter:
    base = base_of(family)
    targets = find_targets(base)
    mixed = rank == 0
    return random_adapter(
        base,
        {
            key: (1 + index % 3, 0.5 + index % 4) if mixed else (rank, alpha)
            for index, key in enumerate(targets)
        },
    )


def worst(one: Adapter, other: Adapter) -> float:
    assert one.layers.keys() == other.layers.keys()
    return max(relative_difference(one.layers[key], other.layers[key]) for key in one.layers)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
@pytest.mark.parametrize(("rank", "alpha"), SCALES)
@pytest.mark.parametrize("precision", ROUNDING)
def test_every_layout_comes_back(
    base_of: BaseOf,
    tmp_path: Path,
    family: str,
    layout: WritableLayout,
    rank: int,
    alpha: float,
    precision: Precision,
) -> None:
    adapter, path = adapter_for(base_of, family, rank, alpha), tmp_path / "a.safetensors"
    write_adapter(adapter, path, layout, precision)
    assert worst(adapter, read_adapter(path)) <= ROUNDING[precision]


def full_size_adapter(family: FamilyName) -> Adapter:
    """Rank 1 on every layer of the full-size UNet and text encoders, a number for each."""
    layers: dict[ModuleKey, LoraLayer] = {}
    for index, (key, spot) in enumerate(find_layers(on_meta(family)).items()):
        kernel = spot.original.weight.shape[2:]
        down = torch.full((1, 2, *kernel), 1.0 + index)
        layers[key] = LoraLayer(down, torch.ones(3, 1, *([1] * len(kernel))), 0.5 + index % 5)
    return Adapter(layers, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_locon_of_full_size_models_comes_back_in_every_layout(
    family: FamilyName, tmp_path: Path
) -> None:
    adapter = full_size_adapter(family)
    for layout in WRITABLE_LAYOUTS:
        path = tmp_path / f"{layout}.safetensors"
        write_adapter(adapter, path, layout, "fp32")
        assert worst(adapter, read_adapter(path)) <= 1e-6
    names = load_file(tmp_path / "kohya-sgm.safetensors")
    assert not any("down_blocks" in name or "conv1" in name for name in names)


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
    keys = find_targets(on_meta(family), targets)
    layer = LoraLayer(torch.zeros(1, 1), torch.zeros(1, 1), 1.0)
    assert best_layout(Adapter(dict.fromkeys(keys, layer), family)) == layout
    small = find_targets(base_of(family), targets)
    assert best_layout(Adapter(dict.fromkeys(small, layer), family)) == "kohya"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(("rank", "alpha"), SCALES)
def test_diffusers_reads_its_layout(
    base_of: BaseOf, tmp_path: Path, family: str, rank: int, alpha: float
) -> None:
    base, path = base_of(family), tmp_path / "a.safetensors"
    adapter = adapter_for(base_of, family, rank, alpha)
    before = outputs(base)
    load_into(base, adapter, "ours")
    expected = outputs(base)
    detach(base)
    write_adapter(adapter, path, "diffusers", "fp32")
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


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_what_diffusers_saves_is_read(base_of: BaseOf, tmp_path: Path, family: str) -> None:
    """Its text encoders lack the level text_model. with today's transformers."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    base = base_of(family)
    pipeline = base.pipeline()
    config = LoraConfig(r=3, lora_alpha=7.5, target_modules=["to_q", "q_proj"])  # type: ignore[arg-type]
    parts: dict[str, Any] = {"unet": base.unet, "text_encoder": base.text_encoders[0]}
    for module in parts.values():
        module.add_adapter(config)
    try:
        for module in parts.values():
            for name, parameter in module.named_parameters():
                if "lora_B" in name:
                    parameter.data.copy_(random_tensor(len(name), *parameter.shape))
        expected = outputs(base)
        saved: dict[str, Any] = {
            part: get_peft_model_state_dict(module) for part, module in parts.items()
        }
        type(pipeline).save_lora_weights(
            tmp_path,
            unet_lora_layers=saved["unet"],
            text_encoder_lora_layers=saved["text_encoder"],
            unet_lora_adapter_metadata=config.to_dict(),
            text_encoder_lora_adapter_metadata=config.to_dict(),
        )
    finally:
        pipeline.unload_lora_weights()
        base.text_encoders[0].requires_grad_(False)
        base.unet.requires_grad_(False)
    adapter = read_adapter(tmp_path / "pytorch_lora_weights.safetensors")
    assert {layer.alpha for layer in adapter.layers.values()} == {7.5}
    load_into(base, adapter, "read")
    loaded = outputs(base)
    for part, output in expected.items():
        assert torch.allclose(loaded[part], output, atol=1e-5), part


# -- alpha in configurations

PEFT_Q, PEFT_K = (f"base_model.model.{ATTENTION}.{name}" for name in ("to_q", "to_k"))


def peft_tensors() -> dict[str, Tensor]:
    return {
        f"{name}.{matrix}.weight": torch.ones(4, 8) if matrix == "lora_A" else torch.ones(8, 4)
        for name in (PEFT_Q, PEFT_K)
        for matrix in ("lora_A", "lora_B")
    }


CONFIGS: dict[str, tuple[dict[str, Any], float, float]] = {
    "nothing": ({}, 4.0, 4.0),
    "alpha": ({"r": 4, "lora_alpha": 8}, 8.0, 8.0),
    "rsLoRA": ({"lora_alpha": 8, "use_rslora": True}, 16.0, 16.0),
    "by layer": ({"lora_alpha": 8, "alpha_pattern": {"attn1.to_k": 2}}, 8.0, 2.0),
    "by path": ({"lora_alpha": 8, "alpha_pattern": {f"^{ATTENTION}.to_k": 2.5}}, 8.0, 2.5),
    "of another part": ({"text_encoder.lora_alpha": 8}, 4.0, 4.0),
    "of this part": ({"unet.lora_alpha": 8, "lora_alpha": 2}, 8.0, 8.0),
}


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("place", ["metadata", "beside"])
def test_alpha_from_the_configuration(tmp_path: Path, case: str, place: str) -> None:
    config, for_q, for_k = CONFIGS[case]
    path = tmp_path / "adapter_model.safetensors"
    text = json.dumps(config)
    save_file(peft_tensors(), path, {PEFT_METADATA: text} if place == "metadata" else None)
    if place == "beside":
        (tmp_path / "adapter_config.json").write_text(text)
    alphas = {key.path[-4:]: layer.alpha for key, layer in read_adapter(path).layers.items()}
    assert alphas == {"to_q": for_q, "to_k": for_k}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('{"lora_alpha": "8"}', "no number"),
        ('{"lora_alpha": true}', "no number"),
        ('{"lora_alpha": NaN}', "alpha is nan"),
        ('{"lora_alpha": 1' + "0" * 4000 + "}", "alpha is 1000"),
        ('{"alpha_pattern": {"(a+)+$": 1}}', "not a path"),
        ('{"alpha_pattern": [1]}', "no table"),
        ('{"use_dora": true}', "DoRA"),
    ],
)
def test_configurations_that_are_not_understood(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file(peft_tensors(), path, {PEFT_METADATA: text})
    with pytest.raises(UserError, match=reason) as caught:
        read_adapter(path)
    assert len(caught.value.message) < 600


def test_peft_on_the_second_text_encoder_is_known_by_its_width(tmp_path: Path) -> None:
    name, path = f"base_model.model.text_model.{SELF_ATTENTION}.q_proj", tmp_path / "a.safetensors"
    save_file(
        {
            f"{name}.lora_A.weight": torch.ones(1, 1280),
            f"{name}.lora_B.weight": torch.ones(1280, 1),
        },
        path,
    )
    adapter = read_adapter(path)
    assert [key.part for key in adapter.layers] == ["text_encoder_2"]
    assert adapter.family == "sdxl"


def test_one_layer_in_two_layouts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {
        f"{name}.{kind}.weight": torch.ones(2, 2)
        for name in ("lora_unet_conv_in", "lora_unet_input_blocks_0_0")
        for kind in ("lora_down", "lora_up")
    }
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"twice: .*unet\.conv_in"):
        read_adapter(path)


def test_metadata_that_has_no_room_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    key = ModuleKey("unet", "conv_in")
    layer = LoraLayer(torch.ones(1, 2), torch.ones(3, 1), 1.0)
    adapter = Adapter({key: layer}, "sd1", {"short": "kept", "long": "x" * 2_000_000})
    assert write_adapter(adapter, path) == ["long"]
    assert read_adapter(path).metadata["short"] == "kept"
    assert int.from_bytes(path.read_bytes()[:8], "little") < 1 << 20


def test_block_names_need_a_full_size_model(tmp_path: Path) -> None:
    layer = LoraLayer(torch.ones(1, 2), torch.ones(3, 1), 1.0)
    adapter = Adapter({ModuleKey("unet", "down_blocks.3.resnets.7.conv1"): layer}, "sd1")
    for broken in (adapter, replace(adapter, family=None)):
        with pytest.raises(UserError, match="block name"):
            write_adapter(broken, tmp_path / "a.safetensors", "kohya-sgm")


def test_folding_alpha_changes_nothing(base_of: BaseOf) -> None:
    from trainer.lora.writing import fold_alpha

    adapter = adapter_for(base_of, "sd1", 0, 0)
    folded = fold_alpha(adapter)
    for key, layer in adapter.layers.items():
        assert folded.layers[key].alpha == folded.layers[key].rank
        assert torch.allclose(change_of(folded.layers[key]), change_of(layer), rtol=1e-5)


def test_strange_names_are_shown_escaped_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"\u202e\x1b[31m" + "x" * 10_000: torch.ones(1)}, path)
    with pytest.raises(UserError) as caught:
        read_adapter(path)
    assert "\\u202e\\u001b[31mxxx" in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("alpha", [1e38, -1e30, 2e9, 0.0, -3.0, float("nan")])
@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_what_is_written_is_read_again_whatever_alpha(
    alpha: float, layout: WritableLayout, precision: Precision, tmp_path: Path
) -> None:
    """Or it is refused, and there is no file."""
    key = ModuleKey("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    layer = LoraLayer(random_tensor(1, 2, 8), random_tensor(2, 8, 2), alpha)
    adapter = Adapter({key: layer}, "sd1")
    path = tmp_path / "a.safetensors"
    try:
        write_adapter(adapter, path, layout, precision)
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
