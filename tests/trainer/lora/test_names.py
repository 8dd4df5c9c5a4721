"""Layer names: the golden lists of what every tool reads, and the way back."""

from __future__ import annotations

import json
import re
from itertools import product
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from trainer.lora.layers import find_layers, find_targets
from trainer.lora.names import (
    ModuleKey,
    Part,
    canonical_path,
    is_target,
    kohya_name,
    parse_kohya_name,
    shorten,
)
from trainer.models.base import BaseModel
from trainer.models.families import FAMILIES, FamilyName

ATTENTION = "_attn{1,2}_to_{q,k,v,out_0}"
PROJECTIONS = "_self_attn_{q,k,v,out}_proj"
SD_UNET = [
    f"lora_unet_down_blocks_{{0,1,2}}_attentions_{{0,1}}_transformer_blocks_0{ATTENTION}",
    f"lora_unet_mid_block_attentions_0_transformer_blocks_0{ATTENTION}",
    f"lora_unet_up_blocks_{{1,2,3}}_attentions_{{0,1,2}}_transformer_blocks_0{ATTENTION}",
]
TEN = "{0,1,2,3,4,5,6,7,8,9}"
SDXL_UNET = [
    f"lora_unet_down_blocks_1_attentions_{{0,1}}_transformer_blocks_{{0,1}}{ATTENTION}",
    f"lora_unet_down_blocks_2_attentions_{{0,1}}_transformer_blocks_{TEN}{ATTENTION}",
    f"lora_unet_mid_block_attentions_0_transformer_blocks_{TEN}{ATTENTION}",
    f"lora_unet_up_blocks_0_attentions_{{0,1,2}}_transformer_blocks_{TEN}{ATTENTION}",
    f"lora_unet_up_blocks_1_attentions_{{0,1,2}}_transformer_blocks_{{0,1}}{ATTENTION}",
]


def text_layers(prefix: str, count: int) -> str:
    numbers = ",".join(str(number) for number in range(count))
    return f"{prefix}_text_model_encoder_layers_{{{numbers}}}{PROJECTIONS}"


# SDXL reads the penultimate layer of its first text encoder: 11 of its 12 layers have an effect.
GOLDEN: dict[FamilyName, tuple[list[str], int]] = {
    "sd1": ([*SD_UNET, text_layers("lora_te", 12)], 128 + 48),
    "sd2": ([*SD_UNET, text_layers("lora_te", 23)], 128 + 92),
    "sdxl": (
        [*SDXL_UNET, text_layers("lora_te1", 11), text_layers("lora_te2", 32)],
        560 + 44 + 128,
    ),
}


def expand(pattern: str) -> list[str]:
    """All names of a pattern with {a,b} choices, as a shell has them."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [part.split(",") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


@pytest.fixture(scope="module")
def full_size() -> dict[FamilyName, BaseModel]:
    """The real architectures from models/configs, without memory for weights."""
    return {name: on_meta(name) for name in GOLDEN}


def on_meta(name: FamilyName) -> BaseModel:
    folder = FAMILIES[name].config_folder("epsilon")
    unet_config = json.loads((folder / "unet" / "config.json").read_text())
    encoders: list[CLIPTextModel | CLIPTextModelWithProjection] = []
    with torch.device("meta"):
        unet = cast(UNet2DConditionModel, UNet2DConditionModel.from_config(unet_config))
        for subfolder, kind in (
            ("text_encoder", CLIPTextModel),
            ("text_encoder_2", CLIPTextModelWithProjection),
        ):
            if (folder / subfolder).is_dir():
                config = json.loads((folder / subfolder / "config.json").read_text())
                encoders.append(kind(CLIPTextConfig(**config)))
    # Adapters look at nothing else of a base model.
    seen = SimpleNamespace(name=name, family=FAMILIES[name], unet=unet, text_encoders=encoders)
    return cast(BaseModel, seen)


@pytest.mark.parametrize("family", GOLDEN)
def test_golden_names(full_size: dict[FamilyName, BaseModel], family: FamilyName) -> None:
    patterns, count = GOLDEN[family]
    golden = [name for pattern in patterns for name in expand(pattern)]
    assert len(golden) == count
    names = [kohya_name(family, key) for key in find_targets(full_size[family])]
    assert sorted(names) == sorted(golden)


@pytest.mark.parametrize("family", GOLDEN)
def test_every_layer_is_found_again(
    full_size: dict[FamilyName, BaseModel], family: FamilyName
) -> None:
    keys = list(find_layers(full_size[family]))
    assert len(keys) > 300
    assert [parse_kohya_name(kohya_name(family, key)) for key in keys] == keys


def test_layers_of_text_encoders_always_have_the_text_model_level(
    full_size: dict[FamilyName, BaseModel],
) -> None:
    texts = [key for key in find_layers(full_size["sdxl"]) if key.part != "unet"]
    assert {key.part for key in texts} == {"text_encoder", "text_encoder_2"}
    odd = [key for key in texts if not key.path.startswith("text_model.")]
    assert odd == [ModuleKey("text_encoder_2", "text_projection")]


@pytest.mark.parametrize(
    ("part", "path", "canonical"),
    [
        ("text_encoder", "encoder.layers.0.mlp.fc1", "text_model.encoder.layers.0.mlp.fc1"),
        ("text_encoder", "text_model.encoder.layers.0.mlp.fc1", None),
        ("text_encoder_2", "text_projection", None),
        ("unet", "mid_block.attentions.0.proj_in", None),
    ],
)
def test_canonical_path(part: Part, path: str, canonical: str | None) -> None:
    assert canonical_path(part, path) == (canonical or path)


BLOCK = "down_blocks.0.attentions.1.transformer_blocks.0"
TEXT = "text_model.encoder.layers.3"


@pytest.mark.parametrize(
    ("part", "path", "target"),
    [
        ("unet", f"{BLOCK}.attn1.to_q", True),
        ("unet", f"{BLOCK}.attn2.to_out.0", True),
        ("unet", f"{BLOCK}.attn2.to_out.1", False),
        ("unet", f"{BLOCK}.attn2", False),
        ("unet", f"{BLOCK}.ff.net.2", False),
        ("unet", "down_blocks.0.attentions.1.proj_in", False),
        ("unet", "down_blocks.0.resnets.0.conv1", False),
        ("unet", "mid_block.attentions.0.to_q", False),
        ("text_encoder", f"{TEXT}.self_attn.out_proj", True),
        ("text_encoder_2", f"{TEXT}.self_attn.k_proj", True),
        ("text_encoder", f"{TEXT}.mlp.fc1", False),
        ("text_encoder_2", "text_projection", False),
    ],
)
def test_targets(part: Part, path: str, target: bool) -> None:
    assert is_target(ModuleKey(part, path)) is target


def test_second_text_encoder_has_no_name_where_there_is_none() -> None:
    key = ModuleKey("text_encoder_2", f"{TEXT}.self_attn.k_proj")
    with pytest.raises(ValueError, match="text_encoder_2"):
        kohya_name("sd1", key)


@pytest.mark.parametrize("name", ["unet.down_blocks.0", "lora_transformer_x", "lora_unet_", ""])
def test_other_layouts_are_not_parsed(name: str) -> None:
    assert parse_kohya_name(name) is None


def test_shorten() -> None:
    assert shorten(["a", "b"]) == "a, b"
    assert shorten("abcdefg") == "a, b, c, d, e, … (7 in all)"
