"""Loading base models: a diffusers folder or a single file to live, checked modules.

Digests of their files are remembered between runs by path, size and time of change.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTokenizer
from transformers.utils import logging as transformers_logging

from trainer.data.names import list_names
from trainer.errors import UserError
from trainer.models.base import ENCODERS, BaseModel, TextEncoder
from trainer.models.configs import read_json
from trainer.models.diffusers_folder import part_files
from trainer.models.families import Family
from trainer.models.identify import BaseIdentity, identify
from trainer.models.noise import Prediction, read_schedule
from trainer.models.single_file import load_single_file, load_vae_file
from trainer.models.text import longest_prompt
from trainer.places import cache_folder
from trainer.plain_files import digest_of
from trainer.runs.atomic import write_json

Dtypes = Mapping[str, torch.dtype]

_KINDS: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, **ENCODERS}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")


def load_base(
    name: str,
    *,
    prediction: Prediction = "auto",
    vae: str = "",
    clip_skip: int = 1,
    dtype: torch.dtype = torch.float32,
    vae_dtype: torch.dtype = torch.float32,
) -> BaseModel:
    """Loads a base model onto the CPU: frozen, in evaluation mode, every weight finite.

    Args:
        name: a built-in name, a diffusers folder, a .safetensors file or a hub id.
        prediction: what the UNet predicts, where it cannot be recognised rightly.
        vae: the file or folder of a VAE in place of its own; empty: its own.
        clip_skip: which layer of SD 1's text encoder is read, counted from the last.
        dtype: number format of the UNet and the text encoders.
        vae_dtype: number format of the VAE; SDXL's overflows in fp16.

    Raises:
        UserError: it cannot be found, recognised or loaded whole, or holds NaN or Inf.
    """
    identity = identify(name, prediction=prediction, vae=vae)
    parts = identity.family.parts
    modules = _load(identity, dict.fromkeys(parts, dtype) | {"vae": vae_dtype})
    encoders: list[TextEncoder] = [modules[part] for part in parts[2:]]
    index = identity.config_folder / "model_index.json"
    settings = read_json(index) if index.is_file() else {}
    everything = f"{identity.prediction_type} {identity.zero_terminal_snr}"
    layers = int(encoders[0].config.num_hidden_layers) if identity.family.name == "sd1" else 1
    if clip_skip > layers:
        raise UserError(
            f"base.clip_skip is {clip_skip}, and for {identity.name} it is {layers} at most.",
            "1 or 2 is usual for SD 1; the text encoders of others are read in one way only.",
        )
    if clip_skip > 1:
        everything += f" clip skip {clip_skip}"
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
        clip_skip=clip_skip,
    )


@dataclass(frozen=True)
class TextPart:
    """What a base model reads prompts with, without the parts that draw."""

    name: str
    family: Family
    text_encoders: list[TextEncoder]  # one, or two for SDXL, frozen, on the CPU
    tokenizers: list[CLIPTokenizer]  # one for each text encoder
    fingerprint: str  # SHA-256 over the text encoders and their vocabularies


def load_text_part(name: str) -> TextPart:
    """Loads only the text encoders and tokenizers of a base model, in fp32.

    Raises:
        UserError: as for `load_base`.
    """
    identity = identify(name, whole=False)
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
    apart = identity.vae if "vae" in dtypes else None
    own = {part: dtype for part, dtype in dtypes.items() if not (apart and part == "vae")}
    modules: dict[str, torch.nn.Module]
    if identity.is_single_file:
        with _failures_named(identity.path):
            modules = load_single_file(identity, own)
    else:
        modules = {part: _load_part(identity.path / part, part, own[part]) for part in own}
    if apart and apart.is_dir():
        modules["vae"] = _load_part(apart, "vae", dtypes["vae"])
    elif apart:
        with _failures_named(apart):
            modules["vae"] = load_vae_file(apart, identity.vae_config.parents[1], dtypes["vae"])
    for part, module in modules.items():
        module.eval().requires_grad_(False)
        empty = [name for name, value in module.named_parameters() if value.is_meta]
        place = apart if apart and part == "vae" else identity.path
        _check_complete(place, {"missing_keys": empty})
        _check_finite(identity.name, part, module)
    return modules


def _load_part(place: Path, part: str, dtype: torch.dtype) -> torch.nn.Module:
    """A part from its folder in diffusers' layout."""
    # Named outright, so that a configuration cannot ask for attention code from the hub.
    options = {"attn_implementation": "sdpa"} if part in ENCODERS else {}
    with _failures_named(place):
        module, info = _KINDS[part].from_pretrained(
            place,
            dtype=dtype,
            variant=part_files(place, part).variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    _check_complete(place, info)
    return module


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
            "Its weights do not belong to its configuration, or it is not built like the standard "
            "model: download it again, or take another one.",
        ) from problem


def _check_complete(place: Path, info: Mapping[str, Any]) -> None:
    listed: list[str] = []
    for kind in ("missing", "unexpected", "mismatched"):
        if keys := sorted(map(str, info.get(f"{kind}_keys") or ())):
            listed.append(f"{len(keys)} {kind} ({list_names(keys, 5)})")
    if listed:
        raise UserError(
            f"The weights in {place} do not fit their configuration: {'; '.join(listed)}.",
            "Download the whole model again.",
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
    if identity.vae and "vae" in parts:
        vae = identity.vae
        if vae.is_file():
            settings = (*settings, file_digest(vae))
        else:
            own = [*part_files(vae, "vae").files, vae / "config.json"]
            settings = (*settings, combined_digest(own, vae))
        parts = [part for part in parts if part != "vae"]
    if identity.is_single_file:
        digest = [file_digest(folder)] if parts else []  # of a VAE apart nothing else counts
        return combined_digest([], folder, *digest, *settings)
    files = [
        file
        for part in parts
        for file in (*part_files(folder / part, part).files, folder / part / "config.json")
    ]
    if any(part in ENCODERS for part in parts):
        vocabularies = [p / name for p in identity.tokenizer_folders for name in _TOKENIZER_FILES]
        files += [file for file in vocabularies if file.is_file()]
    return combined_digest(files, folder, *settings)


REMEMBER_FROM_BYTES = 32 * 2**20
"""Smaller files are hashed every time: it takes no longer than to look them up."""


def file_digest(path: Path) -> str:
    """SHA-256 hex of a file's bytes."""
    status = path.stat()
    if status.st_size < REMEMBER_FROM_BYTES:
        return _hash(path)
    memory = cache_folder() / "model-digests.json"
    known: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError):  # a place that cannot be read only costs time
        known = dict(json.loads(memory.read_bytes()))
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    if not isinstance(known.get(key), str):
        known[key] = _hash(path)
        with suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, known)
    return known[key]


def combined_digest(files: Iterable[Path], root: Path, *more: str) -> str:
    """SHA-256 hex over files, each with its path below `root`, and over further texts."""
    parts = [[file.relative_to(root).as_posix(), file_digest(file)] for file in sorted(files)]
    return hashlib.sha256(json.dumps([parts, *more]).encode()).hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return digest_of(file)
