"""Recognising single-file checkpoints in the layout of the original code (ldm and sgm)."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import safe_open

from trainer.errors import UserError
from trainer.models.families import FamilyName, PredictionType, Recognised
from trainer.models.refusals import check_input_channels, distilled, refiner, wrong_kind
from trainer.models.safetensors_header import SafetensorsHeader, read_header

UNET = "model.diffusion_model."
VAE = "first_stage_model."

_INPUT = UNET + "input_blocks.0.0.weight"
_UNSAFE = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_OTHERS: tuple[tuple[str, str], ...] = (
    (r"lora_(down|up|A|B|unet|te)|\.hada_w|\.lokr_", "an adapter (LoRA), not a base model"),
    (r"(^|\.)double_blocks\.\d", "a Flux model or a relative of it"),
    (r"(^|\.)joint_blocks\.\d", "a Stable Diffusion 3 model"),
    (r"(^|\.)(adaln_single|t_block|y_embedder\.y_proj)", "a PixArt model"),
    (r"^control_model\.", "a ControlNet"),
    (r"^(encoder|decoder|first_stage_model)\.", "a VAE alone"),
    (r"^(emb_params|string_to_param)", "a textual inversion"),
    (r"^(down_blocks|up_blocks|mid_block)\.", "one part of a diffusers folder"),
)
_FEW_STEPS = re.compile(r"(?:^|[^a-z])(turbo|lightning|lcm|hyper-?sd)(?:[^a-z]|$)", re.IGNORECASE)


def recognise_file(path: Path) -> Recognised:
    """Family and prediction type of a single file.

    Raises:
        UserError: a format that can run code, a damaged file, or another kind of model.
    """
    if path.suffix.lower() in _UNSAFE:
        raise UserError(
            f"{path} is a {path.suffix} file, which can run code when it is opened.",
            "Only .safetensors files are read: download that version of the model.",
        )
    header = read_header(path)
    family = _family(path, header)
    _refuse_few_steps(path, header)
    prediction, detail = recognise_prediction(path, header, family)
    return Recognised(family, prediction, "ztsnr" in header.tensors, detail)


def _family(path: Path, header: SafetensorsHeader) -> FamilyName:
    tensors = header.tensors
    if _INPUT not in tensors:
        raise wrong_kind(path, _other_kind(header))
    if any(name.startswith(("edm_mean", "edm_vpred.")) for name in tensors):
        raise wrong_kind(path, "a model with the EDM noise schedule (Playground, CosXL)")
    if UNET + "label_emb.0.0.weight" in tensors and _has(header, "conditioner.embedders.0.model."):
        raise refiner(path)
    shape = tensors[_INPUT].shape  # (320, 4, 3, 3)
    check_input_channels(path, shape[1] if len(shape) == 4 else None)
    if _has(header, "conditioner.embedders.1.model."):
        family: FamilyName = "sdxl"
    elif _has(header, "cond_stage_model.model."):
        family = "sd2"
    elif _has(header, "cond_stage_model.transformer."):
        family = "sd1"
    else:
        raise UserError(
            f"{path} holds a UNet without a text encoder.", "Use a whole checkpoint of the model."
        )
    if not _has(header, VAE):
        raise UserError(f"{path} holds no VAE.", "Use a whole checkpoint of the model.")
    return family


def _has(header: SafetensorsHeader, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in header.tensors)


def _other_kind(header: SafetensorsHeader) -> str:
    for pattern, kind in _OTHERS:
        if any(re.search(pattern, name) for name in header.tensors):
            return kind
    return "no Stable Diffusion checkpoint (its tensors have other names)"


def _refuse_few_steps(path: Path, header: SafetensorsHeader) -> None:
    named = (path.stem, header.metadata.get("modelspec.title", ""))
    if any(_FEW_STEPS.search(text) for text in named):
        raise distilled(path, "If only its name says so, rename the file.")


def recognise_prediction(
    path: Path, header: SafetensorsHeader, family: FamilyName
) -> tuple[PredictionType, str]:
    """What a single file's UNet predicts, and how that was recognised.

    In this order: the marker tensor ``v_pred``; the metadata ``modelspec.prediction_type`` or
    ``modelspec.architecture``; a configuration beside it with the same name and ``.yaml``, as used
    by other tools; for SD 2, whose two kinds have the same tensors, the spread of one bias, as in
    ComfyUI (above 0.09: v_prediction); else epsilon.
    """
    if "v_pred" in header.tensors:
        return "v_prediction", "from its v_pred mark"
    stated = header.metadata.get("modelspec.prediction_type", "").lower()
    architecture = header.metadata.get("modelspec.architecture", "")
    if stated in ("v", "v_prediction", "v-prediction") or architecture.endswith("-768-v"):
        return "v_prediction", "from its metadata"
    if stated in ("epsilon", "eps") or architecture.endswith("v2-512"):
        return "epsilon", "from its metadata"
    beside = path.with_suffix(".yaml")
    if beside.is_file():
        with beside.open("rb") as file:
            text = file.read(2**16).decode("utf-8", "replace")
        is_v = re.search(r"parameterization:\s*[\"']?v\b", text)
        return ("v_prediction" if is_v else "epsilon"), f"from {beside.name}"
    if family == "sd2":
        return _guess_from_bias(path, header)
    return "epsilon", "the usual one of its family"


def _guess_from_bias(path: Path, header: SafetensorsHeader) -> tuple[PredictionType, str]:
    name = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
    if name not in header.tensors:
        return "v_prediction", "assumed; set base.prediction if it is wrong"
    with safe_open(path, framework="pt") as file:
        spread = float(torch.std(file.get_tensor(name).float(), unbiased=False))
    found: PredictionType = "v_prediction" if spread > 0.09 else "epsilon"
    return found, "guessed from its weights; set base.prediction if it is wrong"
