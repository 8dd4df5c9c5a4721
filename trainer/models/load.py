"""Loading base models: a diffusers folder or a single file to live, checked modules."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from trainer.errors import UserError
from trainer.models.base import BaseModel, TextEncoder
from trainer.models.configs import read_json
from trainer.models.diffusers_folder import part_files
from trainer.models.families import Family
from trainer.models.fingerprint import combined_digest, file_digest
from trainer.models.identify import BaseIdentity, identify
from trainer.models.noise import Prediction, read_schedule
from trainer.models.recognise import UNET, VAE
from trainer.models.safetensors_header import read_header
from trainer.models.text import longest_prompt

__all__ = ["BaseModel", "TextPart", "load_base", "load_text_part", "load_tokenizers"]

Dtypes = Mapping[str, torch.dtype]

ENCODERS: dict[str, type[TextEncoder]] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
_KINDS: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, **ENCODERS}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")


def load_base(
    name: str,
    *,
    prediction: Prediction = "auto",
    dtype: torch.dtype = torch.float32,
    vae_dtype: torch.dtype = torch.float32,
) -> BaseModel:
    """Loads a base model onto the CPU: frozen, in evaluation mode, every weight finite.

    Args:
        name: a built-in name, a diffusers folder, a .safetensors file or a hub id.
        prediction: what the UNet predicts, where it cannot be recognised rightly.
        dtype: number format of the UNet and the text encoders.
        vae_dtype: number format of the VAE; SDXL's overflows in fp16.

    Raises:
        UserError: it cannot be found, recognised or loaded whole, or holds NaN or Inf.
    """
    identity = identify(name, prediction=prediction)
    parts = identity.family.parts
    modules = _load(identity, dict.fromkeys(parts, dtype) | {"vae": vae_dtype})
    encoders: list[TextEncoder] = [modules[part] for part in parts[2:]]
    index = identity.config_folder / "model_index.json"
    settings = read_json(index) if index.is_file() else {}
    everything = f"{identity.prediction_type} {identity.zero_terminal_snr}"
    return BaseModel(
        name=identity.name,
        family=identity.family,
        prediction_type=identity.prediction_type,
        unet=modules["unet"],
        vae=modules["vae"],
        text_encoders=encoders,
        tokenizers=_fitting_tokenizers(identity, encoders),
        scheduler_config=_noise_schedule(identity),
        vae_scale_factor=identity.latent_factor,
        default_resolution=identity.resolution,
        zero_empty_prompt=bool(settings.get("force_zeros_for_empty_prompt", True)),
        fingerprint=_fingerprint(identity, parts, everything),
        vae_fingerprint=_fingerprint(identity, ["vae"]),
    )


@dataclass(frozen=True)
class TextPart:
    """What a base model reads prompts with, without the parts that draw.

    Attributes:
        text_encoders: one, or two for SDXL, frozen, on the CPU.
        tokenizers: one for each text encoder.
        fingerprint: SHA-256 over the text encoders and their vocabularies.
    """

    name: str
    family: Family
    text_encoders: list[TextEncoder]
    tokenizers: list[CLIPTokenizer]
    fingerprint: str


def load_text_part(name: str) -> TextPart:
    """Loads only the text encoders and tokenizers of a base model, in fp32.

    Raises:
        UserError: as for `load_base`.
    """
    identity = identify(name)
    parts = identity.family.parts[2:]
    modules = _load(identity, dict.fromkeys(parts, torch.float32))
    encoders: list[TextEncoder] = [modules[part] for part in parts]
    return TextPart(
        name=identity.name,
        family=identity.family,
        text_encoders=encoders,
        tokenizers=_fitting_tokenizers(identity, encoders),
        fingerprint=_fingerprint(identity, parts),
    )


def _load(identity: BaseIdentity, dtypes: Dtypes) -> dict[str, Any]:
    """The parts that have a number format: frozen, in evaluation mode, every weight finite."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    load = _load_file if identity.is_single_file else _load_folder
    modules = load(identity, dtypes)
    for part, module in modules.items():
        module.eval().requires_grad_(False)
        _check_finite(identity.name, part, module)
    return modules


def _load_folder(identity: BaseIdentity, dtypes: Dtypes) -> dict[str, torch.nn.Module]:
    modules: dict[str, torch.nn.Module] = {}
    for part, dtype in dtypes.items():
        place = identity.path / part
        # Named outright, so that a configuration cannot ask for attention code from the hub.
        options = {"attn_implementation": "sdpa"} if part in ENCODERS else {}
        with _failures_named(place):
            modules[part], info = _KINDS[part].from_pretrained(
                place,
                dtype=dtype,
                variant=part_files(identity.path, part).variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        _check_complete(place, info)
    return modules


def _load_file(identity: BaseIdentity, dtypes: Dtypes) -> dict[str, torch.nn.Module]:
    config, path = identity.config_folder, str(identity.path)
    _check_counts(identity)
    options: dict[str, Any] = {"config": str(config), "local_files_only": True}
    encoders = [part for part in identity.family.parts[2:] if part in dtypes]
    modules: dict[str, Any] = {}
    with _failures_named(identity.path):
        for part in [part for part in ("unet", "vae") if part in dtypes]:
            modules[part] = _KINDS[part].from_single_file(
                path, subfolder=part, torch_dtype=dtypes[part], **options
            )
        # diffusers loads text encoders of single files only as parts of a pipeline. What is given
        # as None is not loaded; tokenizers and scheduler are made elsewhere.
        is_xl = identity.family.name == "sdxl"
        pipeline_kind = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
        given = dict.fromkeys(("unet", "vae", "tokenizer", "scheduler"))
        given |= dict.fromkeys(("tokenizer_2",) if is_xl else ("safety_checker",))
        pipeline = pipeline_kind.from_single_file(
            path, torch_dtype=dtypes[encoders[0]], **options, **given
        )
        modules |= {part: getattr(pipeline, part) for part in encoders}
    _check_filled(identity.path, modules)
    return modules


@contextmanager
def _failures_named(place: Path) -> Generator[None]:
    """Turns what the libraries raise for unfit weights into one sentence that names the place."""
    try:
        yield
    except (MemoryError, UserError):
        raise
    except Exception as problem:  # any kind: they do not document what they raise
        first = (str(problem) or type(problem).__name__).strip().splitlines()[0][:300]
        if "allocate memory" in first:
            raise
        if "meta tensor" in first:  # what is left where a weight was not in the file
            first = "some of its weights are missing or have other names."
        raise UserError(
            f"{place} cannot be loaded: {first}",
            "Its weights and its configuration do not belong together, or its sizes are not "
            "those of the standard model.",
        ) from problem


def _check_complete(place: Path, info: Mapping[str, Any]) -> None:
    problems = {
        kind: sorted(str(key) for key in info.get(f"{kind}_keys") or ())
        for kind in ("missing", "unexpected", "mismatched")
    }
    listed = [_listed(kind, keys) for kind, keys in problems.items() if keys]
    if listed:
        raise UserError(
            f"The weights in {place} do not fit its config.json: {'; '.join(listed)}.",
            "Download the folder again.",
        )


def _listed(kind: str, keys: list[str]) -> str:
    more = ", ..." if len(keys) > 5 else ""
    return f"{len(keys)} {kind} ({', '.join(keys[:5])}{more})"


def _check_counts(identity: BaseIdentity) -> None:
    """The file has as many tensors for UNet and VAE as the standard model."""
    names = read_header(identity.path).tensors
    for part, prefix in {"unet": UNET, "vae": VAE}.items():
        config = read_json(identity.config_folder / part / "config.json")
        with torch.device("meta"):
            expected = len(_KINDS[part].from_config(config).state_dict())
        found = sum(name.startswith(prefix) and ".loss." not in name for name in names)
        if found != expected:
            raise UserError(
                f"{identity.path} has {found} tensors for the {part}, the standard model "
                f"{expected}.",
                "Only whole checkpoints of the standard architecture can be trained here.",
            )


def _check_filled(path: Path, modules: Mapping[str, torch.nn.Module]) -> None:
    """No parameter was left without a value."""
    for part, module in modules.items():
        empty = sorted(name for name, value in module.named_parameters() if value.is_meta)
        if empty:
            raise UserError(
                f"{path} lacks weights of the {part}: {_listed('missing', empty)}.",
                "Use a whole checkpoint of the model.",
            )


def _check_finite(name: str, part: str, module: torch.nn.Module) -> None:
    for key, tensor in chain(module.named_parameters(), module.named_buffers()):
        if tensor.numel() == 0 or not tensor.is_floating_point():
            continue
        low, high = torch.aminmax(tensor)  # NaN wins in both, and no copy is made
        if not (math.isfinite(low.item()) and math.isfinite(high.item())):
            raise UserError(
                f"{name}: the tensor {part}.{key} holds NaN or Inf (in {tensor.dtype}).",
                "The file is broken; download it again, or load it in fp32.",
            )


def load_tokenizers(identity: BaseIdentity) -> list[CLIPTokenizer]:
    """The tokenizer of each text encoder.

    Raises:
        UserError: a vocabulary is missing or damaged.
    """
    tokenizers: list[CLIPTokenizer] = []
    for place in identity.tokenizer_folders:
        have = {name for name in _TOKENIZER_FILES if (place / name).is_file()}
        if "tokenizer.json" not in have and have != {"vocab.json", "merges.txt"}:
            raise UserError(
                f"{place} has no vocabulary (vocab.json and merges.txt).",
                "Download the folder again.",
            )
        with _failures_named(place):
            tokenizers.append(
                cast(CLIPTokenizer, CLIPTokenizer.from_pretrained(place, local_files_only=True))
            )
    return tokenizers


def _fitting_tokenizers(
    identity: BaseIdentity, encoders: Sequence[TextEncoder]
) -> list[CLIPTokenizer]:
    """`load_tokenizers`, cut to what the encoders take, and checked to belong to them."""
    tokenizers = load_tokenizers(identity)
    places = identity.tokenizer_folders
    for place, tokenizer, encoder in zip(places, tokenizers, encoders, strict=True):
        limit, size = encoder.config.max_position_embeddings, encoder.config.vocab_size
        with _failures_named(place):
            tokenizer.model_max_length = min(longest_prompt(tokenizer), limit)
        if len(tokenizer) > size:
            raise UserError(
                f"The tokenizer in {place} has {len(tokenizer)} entries, the text encoder {size}.",
                "They do not belong together: download the folder again.",
            )
    return tokenizers


def _noise_schedule(identity: BaseIdentity) -> dict[str, Any]:
    place = identity.config_folder / "scheduler" / "scheduler_config.json"
    stated = read_schedule(place, read_json(place)).model_dump(exclude_unset=True)
    return stated | {
        "prediction_type": identity.prediction_type,
        "rescale_betas_zero_snr": identity.zero_terminal_snr,
    }


def _fingerprint(identity: BaseIdentity, parts: Sequence[str], *settings: str) -> str:
    """Over the files of some parts, with the vocabularies where there is a text encoder."""
    folder = identity.path
    if identity.is_single_file:
        return combined_digest([], folder, file_digest(folder), *settings)
    files = [
        file
        for part in parts
        for file in (*part_files(folder, part).files, folder / part / "config.json")
    ]
    if any(part in ENCODERS for part in parts):
        vocabularies = [p / name for p in identity.tokenizer_folders for name in _TOKENIZER_FILES]
        files += [file for file in vocabularies if file.is_file()]
    return combined_digest(files, folder, *settings)
