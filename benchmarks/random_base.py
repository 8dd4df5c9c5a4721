"""Base models with the layers of SD 1.5 and random weights, and pictures: what is timed does not
depend on what they show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.memory import fill
from trainer.memory.phases import build
from trainer.models.families import MODELS_FOLDER
from trainer.models.identify import read_facts

Size = Literal["full", "small", "tiny"]

TRIGGER = "ohwx"

_CONFIGS = MODELS_FOLDER / "configs" / "sd1"
_TOKENIZER = MODELS_FOLDER / "clip-tokenizer"
# Changes to SD 1.5's own configuration: a fifth of the UNet's channels and a quarter of the rest;
# or as narrow as its 32 groups allow, with one layer a block.
_CHANGES: dict[Size, dict[str, dict[str, Any]]] = {
    "full": {"unet": {}, "vae": {}, "text_encoder": {}},
    "small": {
        "unet": {"block_out_channels": [64, 128, 256, 256], "cross_attention_dim": 192},
        "vae": {"block_out_channels": [32, 64, 128, 128]},
        "text_encoder": {"hidden_size": 192, "intermediate_size": 768},
    },
    "tiny": {
        "unet": {
            "block_out_channels": [32, 32, 32, 32],
            "cross_attention_dim": 32,
            "layers_per_block": 1,
            "attention_head_dim": 2,
        },
        "vae": {
            "block_out_channels": [8, 8, 8, 8],
            "layers_per_block": 1,
            "norm_num_groups": 8,
        },
        "text_encoder": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
        },
    },
}


def make_base(folder: Path, size: Size, seed: int = 0) -> Path:
    """Writes a random base model in diffusers' layout, in float32; one that is there stays.

    Returns:
        The folder.
    """
    if (folder / "model_index.json").exists():
        return folder
    torch.manual_seed(seed)
    unet, vae, text = (_config(part, size) for part in ("unet", "vae", "text_encoder"))
    pipeline = StableDiffusionPipeline(
        unet=UNet2DConditionModel.from_config(unet),
        vae=AutoencoderKL.from_config(vae),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
        tokenizer=CLIPTokenizer.from_pretrained(_TOKENIZER),
        scheduler=DDIMScheduler.from_pretrained(_CONFIGS, subfolder="scheduler"),
        safety_checker=None,
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(_TOKENIZER, folder / "tokenizer")
    return folder


def write_sdxl(folder: Path, device: torch.device, like: str = "sdxl") -> Path:
    """Writes a base model of SDXL's sizes with random weights in bf16; one that is there stays.

    Args:
        device: where the weights are drawn.
        like: what ``fit`` takes for a base model.
    """
    if (folder / "model_index.json").exists():
        return folder
    facts = read_facts(like)
    for name, module in build(facts, torch.bfloat16).modules().items():
        fill(module, device)
        module.to("cpu").save_pretrained(folder / name)  # type: ignore[operator]
    for name, own in zip(("tokenizer", "tokenizer_2"), facts.family.tokenizer_folders, strict=True):
        shutil.copytree(own, folder / name)
    shutil.copytree(facts.config_folder / "scheduler", folder / "scheduler")
    shutil.copy(facts.config_folder / "model_index.json", folder)
    return folder


def _config(part: str, size: Size) -> dict[str, Any]:
    config = json.loads((_CONFIGS / part / "config.json").read_text(encoding="utf-8"))
    return config | _CHANGES[size][part]


def make_pictures(folder: Path, count: int, side: int) -> Path:
    """Writes JPEG pictures of coloured clouds, with captions in a metadata.jsonl, which the
    diffusers scripts read as well as this trainer; those that are there stay.

    Args:
        side: of each picture, in pixels.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        name = f"{number:05}.jpg"
        if not (folder / name).exists():
            colours = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            cloud = Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC)
            cloud.save(folder / name, quality=90)
        lines.append(json.dumps({"file_name": name, "text": f"{TRIGGER}, cloud number {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
