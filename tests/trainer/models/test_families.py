"""The families' data, and the full-size configurations that single files are loaded with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from trainer.models.configs import read_json
from trainer.models.families import CONFIGS_FOLDER, FAMILIES, MODELS_FOLDER

VAE = 83_653_863
CLIP_L, CLIP_H, CLIP_BIG_G = 123_060_480, 340_387_840, 694_659_840

# name: UNet parameters, text encoders' parameters, picture side, VAE scaling, prediction type
FULL_SIZE: dict[str, tuple[int, tuple[int, ...], int, float, str]] = {
    "sd1": (859_520_964, (CLIP_L,), 512, 0.18215, "epsilon"),
    "sd2": (865_910_724, (CLIP_H,), 512, 0.18215, "epsilon"),
    "sd2-v": (865_910_724, (CLIP_H,), 768, 0.18215, "v_prediction"),
    "sdxl": (2_567_463_684, (CLIP_L, CLIP_BIG_G), 1024, 0.13025, "epsilon"),
}


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_configurations_have_the_published_sizes(name: str) -> None:
    unet_size, encoder_sizes, side, scaling, prediction = FULL_SIZE[name]
    folder = CONFIGS_FOLDER / name
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(read_json(folder / "unet/config.json"))
        vae: Any = AutoencoderKL.from_config(read_json(folder / "vae/config.json"))
        encoders: list[Any] = [
            CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
        ]
        if (folder / "text_encoder_2").is_dir():
            second = CLIPTextConfig.from_pretrained(folder / "text_encoder_2")
            encoders.append(CLIPTextModelWithProjection(second))
    scheduler: Any = DDIMScheduler.from_pretrained(folder / "scheduler")
    assert parameters(unet) == unet_size
    assert parameters(vae) == VAE
    assert tuple(parameters(encoder) for encoder in encoders) == encoder_sizes
    assert unet.config["sample_size"] * 8 == side
    assert vae.config["scaling_factor"] == scaling
    assert scheduler.config["prediction_type"] == prediction
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0.0047, rel=0.02)
    # Text widths meet the UNet's cross-attention.
    assert sum(e.config.hidden_size for e in encoders) == unet.config["cross_attention_dim"]


# family and what it predicts: prefixes of its text encoders, its name and architecture in metadata,
# and the folder of its configurations
SD1 = (("lora_te",), "sd_v1", "stable-diffusion-v1/lora", "sd1")
SDXL = (("lora_te1", "lora_te2"), "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "sdxl")
NAMES: dict[tuple[Any, Any], tuple[Any, ...]] = {
    ("sd1", "epsilon"): SD1,
    ("sd1", "v_prediction"): SD1,
    ("sd2", "epsilon"): (("lora_te",), "sd_v2", "stable-diffusion-v2-512/lora", "sd2"),
    ("sd2", "v_prediction"): (("lora_te",), "sd_v2", "stable-diffusion-v2-768-v/lora", "sd2-v"),
    ("sdxl", "epsilon"): SDXL,
    ("sdxl", "v_prediction"): SDXL,
}


@pytest.mark.parametrize(("name", "prediction"), NAMES)
def test_families_have_the_names_that_other_tools_read(name: Any, prediction: Any) -> None:
    family = FAMILIES[name]
    assert NAMES[name, prediction] == (
        family.text_encoder_prefixes,
        family.base_model_version,
        family.architecture(prediction),
        family.config_folder(prediction).name,
    )


@pytest.mark.parametrize(("family", "pads"), [("sd1", [49407]), ("sd2", [0]), ("sdxl", [49407, 0])])
def test_shipped_tokenizers_pad_as_the_encoders_were_trained(family: Any, pads: list[int]) -> None:
    for name, pad in zip(FAMILIES[family].tokenizer_names, pads, strict=True):
        tokenizer = CLIPTokenizer.from_pretrained(MODELS_FOLDER / name)
        ids = tokenizer("a dog", padding="max_length", max_length=6)["input_ids"]
        assert ids == [49406, 320, 1929, 49407, pad, pad]
