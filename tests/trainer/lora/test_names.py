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
    kohya_name,
    parse_kohya_name,
    shorten,
)
from trainer.models.families import FamilyName

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


# sd-scripts makes 278 modules of the UNet of SD 1 and 788 of SDXL's, with convolutions; two more
# of each layer of a text encoder.
LOCON: dict[FamilyName, int] = {
    "sd1": 278 + 12 * 6,
    "sd2": 278 + 23 * 6,
    "sdxl": 788 + (11 + 32) * 6,
}


def expand(pattern: str) -> list[str]:
    """All names of a pattern with {a,b} choices, as a shell has them."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [part.split(",") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


@pytest.mark.parametrize("family", GOLDEN)
def test_golden_names(family: FamilyName) -> None:
    patterns, count = GOLDEN[family]
    golden = [name for pattern in patterns for name in expand(pattern)]
    keys = find_targets(on_meta(family), "attention")
    assert len(golden) == count
    assert sorted(kohya_name(family, key) for key in keys) == sorted(golden)
    found = {kind: set(find_targets(on_meta(family), kind)) for kind in get_args(Targets)}
    assert found["attention"] < found["feed-forward"] < found["convolution"]
    assert len(found["convolution"]) == LOCON[family]


@pytest.mark.parametrize("family", GOLDEN)
def test_every_layer_is_found_again(family: FamilyName) -> None:
    keys = list(find_layers(on_meta(family)))
    assert len(keys) > 300
    assert [parse_kohya_name(kohya_name(family, key)) for key in keys] == keys


def test_layers_of_text_encoders_always_have_the_text_model_level() -> None:
    texts = [key for key in find_layers(on_meta("sdxl")) if key.part != "unet"]
    assert {key.part for key in texts} == {"text_encoder", "text_encoder_2"}
    odd = [key for key in texts if not key.path.startswith("text_model.")]
    assert odd == [ModuleKey("text_encoder_2", "text_projection")]


def test_canonical_path() -> None:
    """Whether the libraries have the level or not."""
    full, short = ("text_model.encoder.layers.0.mlp.fc1", "encoder.layers.0.mlp.fc1")
    assert canonical_path("text_encoder", short) == canonical_path("text_encoder", full) == full
    assert canonical_path("unet", short) == short


def test_second_text_encoder_has_no_name_where_there_is_none() -> None:
    key = ModuleKey("text_encoder_2", "text_model.encoder.layers.3.self_attn.k_proj")
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
