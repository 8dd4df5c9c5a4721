"""Writes a diffusers folder as a single file in the layout of the original code (ldm, sgm)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from trainer.models.families import FamilyName
from trainer.models.original_layout import text_tensors, unet_name, vae_name, vae_value


def write_original(
    folder: Path, path: Path, *, marks: tuple[str, ...] = (), metadata: dict[str, str] | None = None
) -> Path:
    """Writes the model of a diffusers folder as one file; `marks` are added as empty tensors."""
    layers = 1 if '"layers_per_block": 1' in (folder / "unet" / "config.json").read_text() else 2
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    tensors = {f"model.diffusion_model.{unet_name(key, unet, layers)}": unet[key] for key in unet}
    tensors |= {f"first_stage_model.{vae_name(key, vae)}": vae_value(key, vae[key]) for key in vae}
    parts = [name for name in ("text_encoder", "text_encoder_2") if (folder / name).is_dir()]
    encoders = [load_file(folder / name / "model.safetensors") for name in parts]
    tensors |= text_tensors(_family(folder), encoders)
    tensors |= {mark: torch.zeros(0) for mark in marks}
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return path


def _family(folder: Path) -> FamilyName:
    if (folder / "text_encoder_2").is_dir():
        return "sdxl"
    config = (folder / "text_encoder" / "config.json").read_text()
    return "sd2" if '"hidden_act": "gelu"' in config else "sd1"
