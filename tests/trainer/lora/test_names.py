"""Layer names: the golden lists of what every tool reads, and the way back."""

from __future__ import annotations

import re
from itertools import product
from typing import get_args

import pytest

from tests.trainer.lora.helpers import on_meta
from trainer.lora.layers import find_layers, find_targets
from trainer.lora.names import (
    ModuleKey,
    Part,
    Targets,
    canonical_path,
    count_layers,
    family_layers,
    is_target,
    kohya_name,
    parse_kohya_name,
    shorten,
)
from trainer.models.families import FamilyName

ATTENTION = "_attn{1,2}_to_{q,k,v,out_0}"
PROJECTIONS = "_self_attn_{q,k,v,out}_proj"
MLP = "_mlp_fc{1,2}"
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


def text_layers(prefix: str, count: int, names: str = PROJECTIONS) -> str:
    numbers = ",".join(str(number) for number in range(count))
    return f"{prefix}_text_model_encoder_layers_{{{numbers}}}{names}"


# SDXL reads the penultimate layer of its first text encoder: 11 of its 12 layers have an effect.
GOLDEN: dict[FamilyName, tuple[list[str], int]] = {
    "sd1": ([*SD_UNET, text_layers("lora_te", 12)], 128 + 48),
    "sd2": ([*SD_UNET, text_layers("lora_te", 23)], 128 + 92),
    "sdxl": (
        [*SDXL_UNET, text_layers("lora_te1", 11), text_layers("lora_te2", 32)],
        560 + 44 + 128,
    ),
}


# What LoCon adds to it, and how many names there are in all.
FEED_FORWARD = (
    "_{proj_in,proj_out,transformer_blocks_0_ff_net_0_proj,transformer_blocks_0_ff_net_2}"
)
RESIDUAL = "_{conv1,conv2,time_emb_proj}"
SHORTCUT = "_conv_shortcut"
SD_LOCON = [
    f"lora_unet_down_blocks_{{0,1,2}}_attentions_{{0,1}}{FEED_FORWARD}",
    f"lora_unet_mid_block_attentions_0{FEED_FORWARD}",
    f"lora_unet_up_blocks_{{1,2,3}}_attentions_{{0,1,2}}{FEED_FORWARD}",
    f"lora_unet_down_blocks_{{0,1,2,3}}_resnets_{{0,1}}{RESIDUAL}",
    f"lora_unet_mid_block_resnets_{{0,1}}{RESIDUAL}",
    f"lora_unet_up_blocks_{{0,1,2,3}}_resnets_{{0,1,2}}{RESIDUAL}",
    f"lora_unet_down_blocks_{{1,2}}_resnets_0{SHORTCUT}",
    f"lora_unet_up_blocks_{{0,1,2,3}}_resnets_{{0,1,2}}{SHORTCUT}",
    "lora_unet_down_blocks_{0,1,2}_downsamplers_0_conv",
    "lora_unet_up_blocks_{0,1,2}_upsamplers_0_conv",
]
TWO_OF_FF = "_ff_net_{0_proj,2}"
SDXL_LOCON = [
    "lora_unet_down_blocks_{1,2}_attentions_{0,1}_proj_{in,out}",
    "lora_unet_mid_block_attentions_0_proj_{in,out}",
    "lora_unet_up_blocks_{0,1}_attentions_{0,1,2}_proj_{in,out}",
    f"lora_unet_down_blocks_1_attentions_{{0,1}}_transformer_blocks_{{0,1}}{TWO_OF_FF}",
    f"lora_unet_down_blocks_2_attentions_{{0,1}}_transformer_blocks_{TEN}{TWO_OF_FF}",
    f"lora_unet_mid_block_attentions_0_transformer_blocks_{TEN}{TWO_OF_FF}",
    f"lora_unet_up_blocks_0_attentions_{{0,1,2}}_transformer_blocks_{TEN}{TWO_OF_FF}",
    f"lora_unet_up_blocks_1_attentions_{{0,1,2}}_transformer_blocks_{{0,1}}{TWO_OF_FF}",
    f"lora_unet_down_blocks_{{0,1,2}}_resnets_{{0,1}}{RESIDUAL}",
    f"lora_unet_mid_block_resnets_{{0,1}}{RESIDUAL}",
    f"lora_unet_up_blocks_{{0,1,2}}_resnets_{{0,1,2}}{RESIDUAL}",
    f"lora_unet_down_blocks_{{1,2}}_resnets_0{SHORTCUT}",
    f"lora_unet_up_blocks_{{0,1,2}}_resnets_{{0,1,2}}{SHORTCUT}",
    "lora_unet_down_blocks_{0,1}_downsamplers_0_conv",
    "lora_unet_up_blocks_{0,1}_upsamplers_0_conv",
]


# sd-scripts makes 192 modules of SD 1's UNet, 278 with convolutions; 722 of SDXL's, 788 with.
GOLDEN_LOCON: dict[FamilyName, tuple[list[str], int, int]] = {
    "sd1": ([*SD_LOCON, text_layers("lora_te", 12, MLP)], 278, 72),
    "sd2": ([*SD_LOCON, text_layers("lora_te", 23, MLP)], 278, 138),
    "sdxl": (
        [*SDXL_LOCON, text_layers("lora_te1", 11, MLP), text_layers("lora_te2", 32, MLP)],
        788,
        66 + 192,
    ),
}


def expand(pattern: str) -> list[str]:
    """All names of a pattern with {a,b} choices, as a shell has them."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [part.split(",") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


@pytest.mark.parametrize("family", GOLDEN)
def test_golden_names(family: FamilyName) -> None:
    attention, count = GOLDEN[family]
    locon, unet, text = GOLDEN_LOCON[family]
    cases: list[tuple[Targets, list[str], int]] = [
        ("attention", attention, count),
        ("convolution", [*attention, *locon], unet + text),
    ]
    for targets, patterns, total in cases:
        golden = [name for pattern in patterns for name in expand(pattern)]
        keys = find_targets(on_meta(family), targets)
        assert len(golden) == total
        assert sorted(kohya_name(family, key) for key in keys) == sorted(golden)
        assert targets == "attention" or sum(key.part == "unet" for key in keys) == unet


@pytest.mark.parametrize("family", GOLDEN)
def test_every_layer_is_found_again(family: FamilyName) -> None:
    keys = list(find_layers(on_meta(family)))
    assert len(keys) > 300
    assert [parse_kohya_name(kohya_name(family, key)) for key in keys] == keys


@pytest.mark.parametrize("family", GOLDEN)
def test_the_table_of_layers_is_the_real_model(family: FamilyName) -> None:
    real = {key: tuple(x.weight.shape) for key, x in find_layers(on_meta(family)).items()}
    assert family_layers(family) == real


def test_layers_of_text_encoders_always_have_the_text_model_level() -> None:
    texts = [key for key in find_layers(on_meta("sdxl")) if key.part != "unet"]
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
    ("part", "path", "first"),
    [
        ("unet", f"{BLOCK}.attn1.to_q", "attention"),
        ("unet", f"{BLOCK}.attn2.to_out.0", "attention"),
        ("unet", f"{BLOCK}.attn2.to_out.1", None),
        ("unet", f"{BLOCK}.attn2", None),
        ("unet", f"{BLOCK}.ff.net.2", "feed-forward"),
        ("unet", f"{BLOCK}.ff.net.0.proj", "feed-forward"),
        ("unet", "down_blocks.0.attentions.1.proj_in", "feed-forward"),
        ("unet", "down_blocks.0.resnets.0.conv1", "convolution"),
        ("unet", "mid_block.resnets.0.time_emb_proj", "convolution"),
        ("unet", "up_blocks.1.upsamplers.0.conv", "convolution"),
        ("unet", "conv_in", None),
        ("unet", "time_embedding.linear_1", None),
        ("unet", "mid_block.attentions.0.to_q", None),
        ("text_encoder", f"{TEXT}.self_attn.out_proj", "attention"),
        ("text_encoder_2", f"{TEXT}.self_attn.k_proj", "attention"),
        ("text_encoder", f"{TEXT}.mlp.fc1", "feed-forward"),
        ("text_encoder_2", "text_projection", None),
    ],
)
def test_targets(part: Part, path: str, first: str | None) -> None:
    kinds = get_args(Targets)
    expected = kinds[kinds.index(first) :] if first else ()
    assert tuple(t for t in kinds if is_target(ModuleKey(part, path), t)) == expected


def test_second_text_encoder_has_no_name_where_there_is_none() -> None:
    key = ModuleKey("text_encoder_2", f"{TEXT}.self_attn.k_proj")
    with pytest.raises(ValueError, match="text_encoder_2"):
        kohya_name("sd1", key)


@pytest.mark.parametrize("name", ["unet.down_blocks.0", "lora_transformer_x", "lora_unet_", ""])
def test_other_layouts_are_not_parsed(name: str) -> None:
    assert parse_kohya_name(name) is None


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ({"unet": 128, "text_encoder": 48}, "128 UNet and 48 text-encoder layers"),
        ({"text_encoder": 44, "text_encoder_2": 128}, "172 text-encoder layers"),
        ({"unet": 1}, "1 UNet layer"),
        ({}, "no layers"),
    ],
)
def test_count_layers(layers: dict[Part, int], text: str) -> None:
    assert count_layers(layers) == text


def test_shorten() -> None:
    assert shorten(["a", "b"]) == "a, b"
    assert shorten("abcdefg") == "a, b, c, d, e, … (7 in all)"
