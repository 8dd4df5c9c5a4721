"""Reading the files of a diffusers folder, without loading weights and without running its code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.models.families import FamilyName, Recognised
from trainer.models.plausible import check_factor, check_schedule, check_sizes
from trainer.models.refusals import (
    SUPPORTED,
    check_input_channels,
    distilled,
    refiner,
    wrong_kind,
)
from trainer.models.safetensors_header import read_header

MAX_JSON_BYTES = 8 * 2**20
_WHOLE = "Is this the whole folder, as downloaded or saved by diffusers?"
_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_UNSAFE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5", ".onnx")
_PIPELINES = re.compile(r"(Flax|Onnx)?StableDiffusion(XL)?(Img2Img|Inpaint)?Pipeline")
_OTHER_PIPELINES = {
    "Flux": "a Flux model",
    "StableDiffusion3": "a Stable Diffusion 3 model",
    "PixArt": "a PixArt model",
    "LatentConsistency": "a latent consistency model",
}


@dataclass(frozen=True)
class PartFiles:
    """The weights of one part: the files, and diffusers' variant ("fp16") or None."""

    files: tuple[Path, ...]
    variant: str | None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: the file is absent, too large, or holds something else.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"{path} is too large to be a model's configuration.", _WHOLE)
        content = json.loads(path.read_bytes())
    except OSError:
        raise UserError(f"{path} is missing.", _WHOLE) from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not valid JSON.", "Download the folder again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object.", "Download the folder again.")
    return content


def missing_parts(folder: Path) -> list[str]:
    """Parts of a model folder that have no safetensors weights here."""
    parts = ["unet", "vae", "text_encoder"]
    parts += ["text_encoder_2"] if _names_second_encoder(folder) else []
    missing: list[str] = []
    for part in parts:
        try:
            files = part_files(folder, part).files
            missing += [] if all(file.is_file() for file in files) else [part]
        except UserError:
            missing.append(part)
    return missing


def _names_second_encoder(folder: Path) -> bool:
    if (folder / "text_encoder_2").is_dir():
        return True
    try:
        named = read_json(folder / "model_index.json").get("text_encoder_2")
    except UserError:
        return False
    return isinstance(named, list) and named[:1] not in ([], [None])


def part_files(folder: Path, part: str) -> PartFiles:
    """The safetensors files of one part: plain, sharded or fp16.

    Raises:
        UserError: there are none, or only formats that can run code.
    """
    stem, place = _STEMS[part], folder / part
    for variant in (None, "fp16"):
        middle = f".{variant}" if variant else ""
        single = place / f"{stem}{middle}.safetensors"
        if single.is_file():
            return PartFiles((single,), variant)
        index = place / f"{stem}.safetensors.index{middle}.json"
        if index.is_file():
            return PartFiles(_shards(index), variant)
    found = sorted(path.name for path in place.glob("*")) if place.is_dir() else []
    unsafe = [name for name in found if name.endswith(_UNSAFE_SUFFIXES)]
    if unsafe:
        raise UserError(
            f"The weights in {place} are not safetensors ({unsafe[0]}).",
            "Only safetensors are read, since pickled weights can run code: download the "
            "safetensors version of the model.",
        )
    raise UserError(
        f"{place} has no weights ({stem}.safetensors).",
        _WHOLE,
    )


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names or not all(
        isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
        for name in names
    ):
        raise UserError(f"{index} does not list safetensors files beside it.", _WHOLE)
    return tuple(index.parent / name for name in sorted(names))


def check_part(folder: Path, part: str) -> PartFiles:
    """`part_files`, after checking what a library might otherwise act upon.

    Raises:
        UserError: a damaged file, a quantized part, or an adapter's pointer to another model.
    """
    config = read_json(folder / part / "config.json")
    if config.get("quantization_config") is not None:
        raise UserError(
            f"{folder / part} is quantized, and cannot be trained here.",
            "Use the model in fp32, fp16 or bf16.",
        )
    if (folder / part / "adapter_config.json").exists():
        raise UserError(
            f"{folder / part} is an adapter (it has adapter_config.json), not a base model.",
            "Give the base model that it was trained on.",
        )
    files = part_files(folder, part)
    tensors = [entry for file in files.files for entry in read_header(file).tensors.values()]
    sizes = {size for entry in tensors for size in entry.shape}
    check_sizes(folder / part / "config.json", config, sizes)
    return files


def recognise_folder(folder: Path) -> Recognised:
    """Family and prediction type of a model in diffusers' layout, its files checked.

    Raises:
        UserError: a damaged or incomplete folder, or another kind of model.
    """
    _check_layout(folder)
    _check_pipeline(folder)
    family = _family_of(folder, read_json(folder / "unet" / "config.json"))
    for part in ("unet", "vae", "text_encoder", "text_encoder_2")[: 4 if family == "sdxl" else 3]:
        check_part(folder, part)
    vae_config = read_json(folder / "vae" / "config.json")
    check_factor(folder / "vae" / "config.json", vae_config, "scaling_factor")
    vae = vae_config.get("_class_name")
    if vae not in ("AutoencoderKL", "FlaxAutoencoderKL"):
        raise UserError(f"The VAE in {folder} is {vae}, not AutoencoderKL.", SUPPORTED)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    check_schedule(folder / "scheduler" / "scheduler_config.json", scheduler)
    prediction = scheduler.get("prediction_type") or "epsilon"
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(
            f"The model in {folder} predicts {prediction!r}; epsilon or v_prediction is needed.",
            SUPPORTED,
        )
    if _looks_distilled(scheduler, prediction):
        otherwise = "set timestep_spacing to leading in its scheduler_config.json."
        raise distilled(folder, f"If it is not distilled, {otherwise}")
    zero_snr = bool(scheduler.get("rescale_betas_zero_snr"))
    return Recognised(family, prediction, zero_snr, "from its scheduler's configuration")


def _check_layout(folder: Path) -> None:
    if (folder / "unet").is_dir():
        return
    if (folder / "model_index.json").is_file():
        _check_pipeline(folder)  # says more, where it is another kind of model
        raise UserError(f"{folder} has no unet folder.", SUPPORTED)
    if (folder / "diffusion_pytorch_model.safetensors").is_file():
        raise UserError(
            f"{folder} is one part of a diffusers model.",
            f"Give the folder above it: {folder.parent}",
        )
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if files:
        raise UserError(
            f"{folder} is not a model in diffusers' layout, but holds single files.",
            f"Give one of them, such as {folder / files[0]}",
        )
    raise UserError(
        f"{folder} holds no base model: neither model_index.json nor a unet folder.",
        "Give a diffusers folder, a .safetensors file, a hub id or a built-in name.",
    )


def _check_pipeline(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        return
    name = read_json(index).get("_class_name")
    if not isinstance(name, str):
        raise UserError(
            f"{folder} asks for a pipeline of its own code ({name}), which is never run.", SUPPORTED
        )
    if not _PIPELINES.fullmatch(name):
        kinds = (kind for start, kind in _OTHER_PIPELINES.items() if name.startswith(start))
        raise wrong_kind(folder, next(kinds, f"a model for {name}"))


def _family_of(folder: Path, unet: dict[str, Any]) -> FamilyName:
    if "UNet2DConditionModel" not in str(unet.get("_class_name")):
        raise UserError(
            f"The UNet in {folder} is {unet.get('_class_name')}, not UNet2DConditionModel.",
            SUPPORTED,
        )
    check_input_channels(folder, unet.get("in_channels"))
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


def _looks_distilled(scheduler: dict[str, Any], prediction: str) -> bool:
    """SD Turbo and SDXL Turbo show only in their scheduler: Euler, trailing, epsilon."""
    name = str(scheduler.get("_class_name"))
    spacing = scheduler.get("timestep_spacing")
    turbo = name.startswith("Euler") and spacing == "trailing" and prediction == "epsilon"
    return turbo or name.startswith(("LCM", "TCD"))
