"""Loading base models: a diffusers folder or a single file to live, checked modules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from packaging.version import Version
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from trainer.errors import UserError
from trainer.models import families, single_file
from trainer.models.base import BaseModel, TextEncoder
from trainer.models.diffusers_folder import part_files, read_json
from trainer.models.families import Family
from trainer.models.fingerprint import combined_digest, file_digest
from trainer.models.identify import BaseIdentity, Prediction, identify
from trainer.models.safetensors_header import read_header

__all__ = [
    "BaseModel",
    "TextPart",
    "load_base",
    "load_text_part",
]

Dtypes = Mapping[str, torch.dtype]

_DENOISER_AND_VAE = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
_ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
_SCHEDULE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


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
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    identity = identify(name, prediction=prediction)
    dtypes = dict.fromkeys(("unet", *_ENCODERS), dtype) | {"vae": vae_dtype}
    return _assemble(identity, _load(identity, dtypes))


def _load(
    identity: BaseIdentity, dtypes: Dtypes, wanted: Sequence[str] | None = None
) -> dict[str, torch.nn.Module]:
    """The parts asked for, or all: frozen, in evaluation mode, every weight finite."""
    load = _load_file if identity.is_single_file else _load_folder
    modules = load(identity, dtypes, wanted)
    for part, module in modules.items():
        module.eval().requires_grad_(False)
        _check_finite(identity.name, part, module)
    return modules


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
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    identity = identify(name)
    parts = list(_ENCODERS)[: len(identity.family.text_encoder_prefixes)]
    dtypes = dict.fromkeys((*_ENCODERS, "unet", "vae"), torch.float32)
    modules = _load(identity, dtypes, parts)
    if identity.is_single_file:
        digest = combined_digest([], identity.path, file_digest(identity.path))
    else:
        digest = combined_digest(_text_files(identity, parts), identity.path)
    encoders: list[Any] = [modules[part] for part in parts]
    tokenizers = _load_tokenizers(identity, encoders)
    return TextPart(identity.name, identity.family, encoders, tokenizers, digest)


def _assemble(identity: BaseIdentity, modules: Mapping[str, Any]) -> BaseModel:
    encoders: list[TextEncoder] = [modules[part] for part in _ENCODERS if part in modules]
    source = _config_folder(identity)
    index = source / "model_index.json"
    settings = read_json(index) if index.is_file() else {}
    scale = 2 ** (len(modules["vae"].config["block_out_channels"]) - 1)
    with _failures_named(source):
        side = native_latent_side(source)
    fingerprint, vae_fingerprint = _fingerprints(identity, list(modules))
    return BaseModel(
        name=identity.name,
        family=identity.family,
        prediction_type=identity.prediction_type,
        unet=modules["unet"],
        vae=modules["vae"],
        text_encoders=encoders,
        tokenizers=_load_tokenizers(identity, encoders),
        scheduler_config=_noise_schedule(identity, source),
        vae_scale_factor=scale,
        default_resolution=scale * side,
        zero_empty_prompt=bool(settings.get("force_zeros_for_empty_prompt", True)),
        fingerprint=fingerprint,
        vae_fingerprint=vae_fingerprint,
    )


def _config_folder(identity: BaseIdentity) -> Path:
    """The folder with the configurations of the model's parts."""
    if identity.is_single_file:
        return identity.family.config_folder(identity.prediction_type)
    return identity.path


def _load_folder(
    identity: BaseIdentity, dtypes: Dtypes, wanted: Sequence[str] | None = None
) -> dict[str, torch.nn.Module]:
    encoders = dict(list(_ENCODERS.items())[: len(identity.family.text_encoder_prefixes)])
    kinds: dict[str, Any] = {**_DENOISER_AND_VAE, **encoders}
    modules: dict[str, torch.nn.Module] = {}
    for part, kind in kinds.items():
        if wanted is not None and part not in wanted:
            continue
        place = identity.path / part
        # Named outright, so that a configuration cannot ask for attention code from the hub.
        options = {"attn_implementation": "sdpa"} if part in _ENCODERS else {}
        with _failures_named(place):
            modules[part], info = kind.from_pretrained(
                place,
                dtype=dtypes[part],
                variant=part_files(identity.path, part).variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        _check_complete(place, info)
    return modules


def _load_file(
    identity: BaseIdentity, dtypes: Dtypes, wanted: Sequence[str] | None = None
) -> dict[str, torch.nn.Module]:
    config = _config_folder(identity)
    _check_counts(identity.path, config)
    is_xl = identity.family.name == "sdxl"
    pipeline_kind = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    encoders = list(_ENCODERS)[: len(identity.family.text_encoder_prefixes)]
    parts = [*_DENOISER_AND_VAE, *encoders] if wanted is None else wanted
    options: dict[str, Any] = {"config": str(config), "local_files_only": True}
    modules: dict[str, Any] = {}
    with _failures_named(identity.path):
        for part, kind in _DENOISER_AND_VAE.items():
            if part in parts:
                modules[part] = kind.from_single_file(
                    str(identity.path), subfolder=part, torch_dtype=dtypes[part], **options
                )
        # Tokenizers and scheduler are made elsewhere, so that the library need not look for them.
        given = dict.fromkeys(("unet", "vae", "tokenizer", "scheduler"))
        given |= dict.fromkeys(("tokenizer_2",) if is_xl else ("safety_checker",))
        given |= {part: None for part in encoders if part not in parts}
        if any(part in parts for part in encoders):
            pipeline = pipeline_kind.from_single_file(
                str(identity.path), torch_dtype=dtypes["text_encoder"], **options, **given
            )
            modules |= {part: getattr(pipeline, part) for part in encoders if part in parts}
    _check_filled(identity.path, modules)
    return modules


@contextmanager
def _failures_named(place: Path) -> Iterator[None]:
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


def _check_counts(path: Path, config: Path) -> None:
    """The file has as many tensors for UNet and VAE as the standard model."""
    names = read_header(path).tensors
    prefixes = {"unet": single_file.UNET, "vae": single_file.VAE}
    for part, kind in _DENOISER_AND_VAE.items():
        with torch.device("meta"):
            standard: Any = kind.from_config(read_json(config / part / "config.json"))
        expected = len(standard.state_dict())
        found = sum(name.startswith(prefixes[part]) and ".loss." not in name for name in names)
        if found != expected:
            raise UserError(
                f"{path} has {found} tensors for the {part}, the standard model {expected}.",
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


def _load_tokenizers(identity: BaseIdentity, encoders: list[TextEncoder]) -> list[CLIPTokenizer]:
    tokenizers: list[CLIPTokenizer] = []
    for place, encoder in zip(tokenizer_folders(identity), encoders, strict=True):
        have = {name for name in _TOKENIZER_FILES if (place / name).is_file()}
        if "tokenizer.json" not in have and have != {"vocab.json", "merges.txt"}:
            raise UserError(
                f"{place} has no vocabulary (vocab.json and merges.txt).",
                "Download the folder again.",
            )
        with _failures_named(place):
            tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
            limit = encoder.config.max_position_embeddings
            tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
        if len(tokenizer) > encoder.config.vocab_size:
            raise UserError(
                f"The tokenizer in {place} has {len(tokenizer)} entries, the text encoder "
                f"{encoder.config.vocab_size}.",
                "They do not belong together: download the folder again.",
            )
        tokenizers.append(tokenizer)
    return tokenizers


def tokenizer_folders(identity: BaseIdentity) -> list[Path]:
    """A folder with a vocabulary for each text encoder; a single file has none in it."""
    if identity.is_single_file:
        return [families.MODELS_FOLDER / name for name in identity.family.tokenizer_names]
    count = len(identity.family.tokenizer_names)
    return [identity.path / part for part in ("tokenizer", "tokenizer_2")[:count]]


def _noise_schedule(identity: BaseIdentity, source: Path) -> dict[str, Any]:
    stated = read_json(source / "scheduler" / "scheduler_config.json")
    schedule: dict[str, Any] = {
        key: stated[key] for key in _SCHEDULE_KEYS if stated.get(key) is not None
    }
    schedule["prediction_type"] = identity.prediction_type
    schedule["rescale_betas_zero_snr"] = identity.zero_terminal_snr
    return schedule


def native_latent_side(source: Path) -> int:
    """The UNet's sample_size; configurations from before diffusers 0.9 say 32 for 64."""
    config = read_json(source / "unet" / "config.json")
    size = config.get("sample_size")
    size = int(size[0] if isinstance(size, list) else size or 64)
    written_by = Version(str(config.get("_diffusers_version", "1")))
    return 64 if size < 64 and written_by < Version("0.9.0.dev0") else size


def _fingerprints(identity: BaseIdentity, parts: list[str]) -> tuple[str, str]:
    """Of the whole model, and of its VAE."""
    settings = f"{identity.prediction_type} {identity.zero_terminal_snr}"
    folder = identity.path
    if identity.is_single_file:
        digest = file_digest(folder)
        return combined_digest([], folder, digest, settings), combined_digest([], folder, digest)
    files = {
        part: [*part_files(folder, part).files, folder / part / "config.json"] for part in parts
    }
    everything = [*chain.from_iterable(files.values()), *_vocabularies(identity)]
    return combined_digest(everything, folder, settings), combined_digest(files["vae"], folder)


def _vocabularies(identity: BaseIdentity) -> list[Path]:
    return [
        place / name
        for place in tokenizer_folders(identity)
        for name in _TOKENIZER_FILES
        if (place / name).is_file()
    ]


def _text_files(identity: BaseIdentity, parts: Sequence[str]) -> list[Path]:
    weights = [
        file
        for part in parts
        for file in (
            *part_files(identity.path, part).files,
            identity.path / part / "config.json",
        )
    ]
    return [*weights, *_vocabularies(identity)]
