"""Everyone's names of tensors: each is understood in one way, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers.loaders.lora_conversion_utils import (
    _convert_unet_lora_key,
    _maybe_map_sgm_blocks_to_diffusers,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.lora.helpers import on_meta
from trainer.lora.layers import find_layers, find_targets
from trainer.lora.layouts import group_layers, layouts_of, parse_tensor_name
from trainer.lora.names import parse_kohya_name, sgm_names
from trainer.models.families import FAMILIES, FamilyName

PATH = Path("a.safetensors")

# Name in the file (without its suffix) -> canonical layer. From files that sd-scripts, LyCORIS,
# diffusers of several years and PEFT write.
BLOCK = "transformer_blocks_0"
GOLDEN_KOHYA = {
    "lora_unet_down_blocks_1_resnets_0_conv_shortcut": "unet.down_blocks.1.resnets.0.conv_shortcut",
    "lora_unet_up_blocks_1_upsamplers_0_conv": "unet.up_blocks.1.upsamplers.0.conv",
    f"lora_unet_mid_block_attentions_0_{BLOCK}_ff_net_0_proj":
        "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "lora_te_text_model_encoder_layers_3_mlp_fc1":
        "text_encoder.text_model.encoder.layers.3.mlp.fc1",
    # Without the level that transformers 5.6 dropped: other tools lose it, here it is known.
    "lora_te_encoder_layers_3_self_attn_q_proj":
        "text_encoder.text_model.encoder.layers.3.self_attn.q_proj",
    "lora_te2_text_projection": "text_encoder_2.text_projection",
}  # fmt: skip
# The rest is held by what models/test_single_file loads, and by diffusers' translation below.
GOLDEN_SGM = {
    "input_blocks_0_0": "conv_in",
    "input_blocks_4_0_emb_layers_1": "down_blocks.1.resnets.0.time_emb_proj",
    f"input_blocks_4_1_{BLOCK}_attn1_to_q":
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
    "output_blocks_2_1_conv": "up_blocks.0.upsamplers.0.conv",  # SD 1 and 2
    "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",  # SDXL
    "label_emb_0_2": "add_embedding.linear_2",
    "out_2": "conv_out",
}  # fmt: skip
ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
SELF_ATTENTION = "encoder.layers.3.self_attn"
TEXT = f"text_encoder.text_model.{SELF_ATTENTION}"
GOLDEN_PATHS = {
    f"unet.{ATTENTION}.to_q.lora_A.weight": f"unet.{ATTENTION}.to_q",
    f"unet.{ATTENTION}.to_q.lora_A.default.weight": f"unet.{ATTENTION}.to_q",
    f"unet.{ATTENTION}.to_out.0.lora.down.weight": f"unet.{ATTENTION}.to_out.0",
    f"unet.{ATTENTION}.processor.to_out_lora.down.weight": f"unet.{ATTENTION}.to_out.0",
    f"{ATTENTION}.processor.to_k_lora.down.weight": f"unet.{ATTENTION}.to_k",
    "unet.down_blocks.0.resnets.0.conv1.lora_A.weight": "unet.down_blocks.0.resnets.0.conv1",
    f"{TEXT}.q_proj.lora_A.weight": f"{TEXT}.q_proj",
    f"text_encoder.{SELF_ATTENTION}.q_proj.lora_A.weight": f"{TEXT}.q_proj",
    f"text_encoder_2.text_model.{SELF_ATTENTION}.out_proj.lora_linear_layer.down.weight":
        f"text_encoder_2.text_model.{SELF_ATTENTION}.out_proj",
    f"{TEXT}.to_out_lora.down.weight": f"{TEXT}.out_proj",
    f"base_model.model.{ATTENTION}.to_v.lora_A.weight": f"unet.{ATTENTION}.to_v",
    f"base_model.model.text_model.{SELF_ATTENTION}.v_proj.lora_A.weight": f"{TEXT}.v_proj",
}  # fmt: skip


def golden() -> list[tuple[str, str, str]]:
    """The name of the down matrix in a file, the layer, and the layout."""
    cases = [(f"{name}.lora_down.weight", key, "kohya") for name, key in GOLDEN_KOHYA.items()]
    for name, path in GOLDEN_SGM.items():
        cases.append((f"lora_unet_{name}.lora_down.weight", f"unet.{path}", "kohya-sgm"))
    for name, key in GOLDEN_PATHS.items():
        cases.append((name, key, "peft" if name.startswith("base_model") else "diffusers"))
    return cases


@pytest.mark.parametrize(("down", "key", "layout"), golden())
def test_golden_names(down: str, key: str, layout: str) -> None:
    up = down.replace("lora_A", "lora_B").replace("lora_down", "lora_up").replace(".down.", ".up.")
    groups = group_layers(PATH, [down, up]).layers
    assert layouts_of(groups) == [layout]
    assert [str(found) for found in groups] == [key]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_has_a_block_name_and_comes_back(family: FamilyName) -> None:
    keys = [key for key in find_layers(on_meta(family)) if key.part == "unet"]
    names = {key: sgm_names(family)[key.path] for key in keys}
    assert len(set(names.values())) == len(keys) > 250
    tensors = [
        f"lora_unet_{name}.{kind}.weight"
        for name in names.values()
        for kind in ("lora_down", "lora_up")
    ]
    groups = group_layers(PATH, tensors).layers
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
        name = f"lora_unet_{sgm_names(family)[key.path]}.lora_down.weight"
        (mapped,) = _maybe_map_sgm_blocks_to_diffusers({name: None}, base.unet.config)
        path = _convert_unet_lora_key(mapped).replace(".processor", "")
        path = path.replace("_lora.down.weight", "").replace("to_out", "to_out.0")
        assert path == key.path


# -- invented names

PIECES = (
    "lora_unet", "lora_te", "lora_te1", "lora_te2", "unet", "text_encoder", "base_model.model",
    "_", ".", "down_blocks", "mid_block", "input_blocks", "0", "1", "12", "attentions", "resnets",
    "to_q", "to_out", "conv_shortcut", "lora_down.weight", "lora_A.weight", "alpha", "dora_scale",
    "lora_magnitude_vector", "processor", "\0", "é", "",
)  # fmt: skip
NAMES = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=9).map("".join))


@given(NAMES)
def test_any_name_is_parsed_or_not(name: str) -> None:
    parsed = parse_tensor_name(name)
    if parsed is not None:
        assert parsed.key.path
        assert parsed == parse_tensor_name(name)
    parse_kohya_name(name)
