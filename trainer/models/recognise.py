"""What a model on the disk is, from its configurations, the names of its tensors and its metadata.

Imports no torch and loads no weights.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import UserError
from trainer.models.configs import (
    SUPPORTED,
    check_input_channels,
    check_vae,
    distilled,
    read_json,
    refiner,
    wrong_kind,
)
from trainer.models.diffusers_folder import check_part
from trainer.models.families import FAMILIES, FamilyName, PredictionType
from trainer.models.noise import NoiseProcess, prediction_named, read_noise
from trainer.models.original_names import INPUT, UNET, VAE, in_standard_names
from trainer.models.safetensors_header import SafetensorsHeader, TensorEntry, read_header
from trainer.plain_files import check_model_folder

_LAST_NORM = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_UNSAFE = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_OTHER_FILES = (
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
_PIPELINES = re.compile(r"(Flax|Onnx)?StableDiffusion(XL)?(Img2Img|Inpaint)?Pipeline")


def recognise(path: Path, has_vae: bool) -> tuple[FamilyName, NoiseProcess]:
    """Family and noise process of a diffusers folder or a single file.

    Args:
        has_vae: it is to have a VAE; False where one is given apart or none is needed.

    Raises:
        UserError: it is damaged, in a format that can run code, or of another kind.
    """
    return (_recognise_folder if path.is_dir() else _recognise_file)(path, has_vae)


# ------------------------------------------------------------------------- diffusers folders


def _recognise_folder(folder: Path, has_vae: bool) -> tuple[FamilyName, NoiseProcess]:
    check_model_folder(folder)
    _check_pipeline(folder)
    if not (folder / "unet").is_dir():
        hint = "Give a diffusers folder, a .safetensors file, a hub id or a built-in name."
        if files := sorted(folder.glob("*.safetensors")):
            is_part = files[0].name == "diffusion_pytorch_model.safetensors"
            hint = f"Give {folder.parent if is_part else files[0]}."
        raise UserError(f"{folder} holds no base model: it has no unet folder.", hint)
    family = _family_of_unet(folder, read_json(folder / "unet" / "config.json"))
    for part in FAMILIES[family].parts:
        if part != "vae":
            check_part(folder / part, part)
        elif has_vae:
            check_vae_folder(folder / part, family)
    place = folder / "scheduler" / "scheduler_config.json"
    return family, read_noise(folder, place, read_json(place))


def check_vae_folder(folder: Path, family: FamilyName) -> None:
    """Checks a VAE in diffusers' layout.

    Raises:
        UserError: it is damaged or of another kind.
    """
    check_part(folder, "vae")
    config = read_json(folder / "config.json")
    check_vae(folder / "config.json", config, applies_statistics=family == "sdxl")
    if config.get("_class_name") not in ("AutoencoderKL", "FlaxAutoencoderKL"):
        raise UserError(
            f"The VAE in {folder} is {config.get('_class_name')}, not AutoencoderKL.", SUPPORTED
        )


def _check_pipeline(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        return
    name = read_json(index).get("_class_name")  # a list where it has a pipeline of its own code
    if not _PIPELINES.fullmatch(str(name)):
        raise wrong_kind(folder, f"a model for {name}")


def _family_of_unet(folder: Path, unet: dict[str, Any]) -> FamilyName:
    kind = unet.get("_class_name")
    if "UNet2DConditionModel" not in str(kind):
        raise UserError(f"The UNet in {folder} is {kind}, not UNet2DConditionModel.", SUPPORTED)
    check_input_channels(folder, unet.get("in_channels"))
    if unet.get("out_channels", 4) != 4:
        raise wrong_kind(folder, "a model whose UNet predicts more than noise (learned variances)")
    if unet.get("time_cond_proj_dim") is not None:
        raise distilled(folder)
    if unet.get("addition_embed_type") == "text_time":
        if not (folder / "text_encoder").is_dir():
            raise refiner(folder)
        return "sdxl"
    if any(
        unet.get(f"{kind}_type") for kind in ("addition_embed", "class_embed", "encoder_hid_dim")
    ):
        raise wrong_kind(folder, "a model that needs more than a text (unCLIP, upscaler)")
    return "sd2" if unet.get("use_linear_projection") else "sd1"


# ------------------------------------------------------------------------------ single files


def read_safe_header(path: Path) -> SafetensorsHeader:
    """A file's header; other formats are not opened.

    Raises:
        UserError: it is in a format that can run code, or damaged.
    """
    if path.suffix.lower() in _UNSAFE:
        raise UserError(
            f"{path} is a {path.suffix} file, which can run code when it is opened.",
            "Only .safetensors files are read: download that version of the model.",
        )
    return read_header(path)


def _recognise_file(path: Path, has_vae: bool) -> tuple[FamilyName, NoiseProcess]:
    probes = (INPUT, UNET + "label_emb.0.0.weight", _LAST_NORM)
    header = in_standard_names(read_safe_header(path), *probes)
    family = _family_of_tensors(path, header, has_vae)
    named = (path.stem, header.metadata.get("modelspec.title", ""))
    if any(_FEW_STEPS.search(text) for text in named):
        raise distilled(path, "If only its name says so, rename the file.")
    prediction, detail = _prediction_of_file(path, header, family)
    return family, NoiseProcess(prediction, "ztsnr" in header.tensors, detail)


def _family_of_tensors(path: Path, header: SafetensorsHeader, has_vae: bool) -> FamilyName:
    tensors = header.tensors

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in tensors)

    if INPUT not in tensors:
        kinds = (
            kind for pattern, kind in _OTHER_FILES if any(map(re.compile(pattern).search, tensors))
        )
        raise wrong_kind(
            path, next(kinds, "no Stable Diffusion model (its tensors have other names)")
        )
    if has("edm_mean", "edm_vpred."):
        raise wrong_kind(path, "a model with the EDM noise schedule (Playground, CosXL)")
    if has(UNET + "label_emb.0.0.weight") and has("conditioner.embedders.0.model."):
        raise refiner(path)
    shape = tensors[INPUT].shape
    check_input_channels(path, shape[1] if len(shape) == 4 else None)
    encoders: dict[str, FamilyName] = {
        "conditioner.embedders.1.model.": "sdxl",
        "cond_stage_model.model.": "sd2",
        "cond_stage_model.transformer.": "sd1",
    }
    family: FamilyName | None = next(
        (name for prefix, name in encoders.items() if has(prefix)), None
    )
    if family is None:
        raise UserError(
            f"{path} holds a UNet without a text encoder.", "Use a file of the whole model."
        )
    if has_vae and not has(VAE):
        raise UserError(
            f"{path} holds no VAE.",
            "Give one with base.vae (--set base.vae=FILE), or use a file of the whole model.",
        )
    return family


def _prediction_of_file(
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
    stated = header.metadata.get("modelspec.prediction_type", "").strip()
    architecture = header.metadata.get("modelspec.architecture", "")
    if stated:
        return prediction_named(path, stated), "from its metadata"
    if architecture.endswith(("-768-v", "v2-512")):
        return ("v_prediction" if architecture.endswith("-v") else "epsilon"), "from its metadata"
    beside = path.with_suffix(".yaml")
    if beside.is_file():
        with beside.open("rb") as file:
            text = file.read(2**16).decode("utf-8", "replace")
        is_v = re.search(r"parameterization:\s*[\"']?v\b", text)
        return ("v_prediction" if is_v else "epsilon"), f"from {beside.name}"
    if family != "sd2":
        return "epsilon", "the usual one of its family"
    bias = header.tensors.get(_LAST_NORM)
    if bias is None:
        return "v_prediction", "assumed; set base.prediction if it is wrong"
    is_v = np.std(_read_values(path, bias)) > 0.09
    guessed = "guessed from its weights; set base.prediction if it is wrong"
    return ("v_prediction" if is_v else "epsilon"), guessed


def _read_values(path: Path, entry: TensorEntry) -> np.ndarray:
    """A tensor's values, flat; NumPy has no bfloat16, which is the upper half of a float32."""
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}.get(entry.dtype, "u1")
    values = np.fromfile(path, kind, math.prod(entry.shape), offset=entry.begin)
    if entry.dtype == "BF16":
        return (values.astype("<u4") << 16).view("<f4")
    return values.astype(np.float32)
