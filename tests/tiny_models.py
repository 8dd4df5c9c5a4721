"""Tiny random base models of the true block types, for tests that need a whole model.

Widths are 16 to 32 and there are two blocks, but the blocks, attention layouts, tokenizers and
conditioning are those of the real families. The VAE halves each side, so a picture of 32 px has
latents of 16 x 16 and resolutions are multiples of 16.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from trainer.models.families import MODELS_FOLDER

TinyName = Literal["sd1", "sd2", "sd2-v", "sdxl"]
TINY_NAMES: tuple[TinyName, ...] = ("sd1", "sd2", "sd2-v", "sdxl")

_ATTENTION_FIRST = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
_UNETS: dict[str, dict[str, Any]] = {
    "sd1": {**_ATTENTION_FIRST, "attention_head_dim": 2, "cross_attention_dim": 16},
    "sd2": {
        **_ATTENTION_FIRST,
        "attention_head_dim": (2, 4),
        "cross_attention_dim": 24,
        "use_linear_projection": True,
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
        "cross_attention_dim": 16 + 24,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    },
}


def make_tiny(name: TinyName, folder: Path, seed: int = 0) -> Path:
    """Writes a tiny random base model in diffusers' layout and returns its folder."""
    family = name.removesuffix("-v")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        components = _components(family, "v_prediction" if name == "sd2-v" else "epsilon")
    if family == "sdxl":
        pipeline = StableDiffusionXLPipeline(**components, force_zeros_for_empty_prompt=True)
    else:
        components |= {"safety_checker": None, "feature_extractor": None}
        pipeline = StableDiffusionPipeline(**components, requires_safety_checker=False)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for subfolder in ("tokenizer", "tokenizer_2"):
        if (folder / subfolder).is_dir():
            shutil.rmtree(folder / subfolder)
            shutil.copytree(_tokenizer_folder(family, subfolder), folder / subfolder)
    return folder


def _components(family: str, prediction: Literal["epsilon", "v_prediction"]) -> dict[str, Any]:
    components: dict[str, Any] = {
        "unet": UNet2DConditionModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(16, 32),
            norm_num_groups=8,
            **_UNETS[family],
        ),
        "vae": _vae(),
        "tokenizer": CLIPTokenizer.from_pretrained(_tokenizer_folder(family, "tokenizer")),
        "scheduler": DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    }
    if family == "sdxl":
        components["text_encoder"] = CLIPTextModel(_text_config(16, "quick_gelu"))
        components["text_encoder_2"] = CLIPTextModelWithProjection(_text_config(24, "gelu"))
        components["tokenizer_2"] = CLIPTokenizer.from_pretrained(
            _tokenizer_folder(family, "tokenizer_2")
        )
    elif family == "sd2":
        components["text_encoder"] = CLIPTextModel(_text_config(24, "gelu"))
    else:
        components["text_encoder"] = CLIPTextModel(_text_config(16, "quick_gelu"))
    return components


def _vae() -> AutoencoderKL:
    options: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "sample_size": 32,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    }
    return AutoencoderKL(**options)


def _text_config(width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act=activation,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )


def _tokenizer_folder(family: str, subfolder: str) -> Path:
    padded_with_zero = family == "sd2" or subfolder == "tokenizer_2"
    return MODELS_FOLDER / ("clip-tokenizer-2" if padded_with_zero else "clip-tokenizer")
