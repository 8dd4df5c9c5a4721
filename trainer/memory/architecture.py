"""Which layers a base model has, without its weights: everything on torch's meta device."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from trainer.errors import UserError
from trainer.models import hub
from trainer.models.base import BaseModel, TextEncoder
from trainer.models.diffusers_folder import read_json
from trainer.models.families import FAMILIES, Family, FamilyName, PredictionType
from trainer.models.identify import identify
from trainer.models.load import native_latent_side
from trainer.models.locate import built_in_models

NAMES: dict[str, tuple[FamilyName, PredictionType]] = {
    "sd15": ("sd1", "epsilon"),
    "sd2": ("sd2", "epsilon"),
    "sd2-v": ("sd2", "v_prediction"),
    "sdxl": ("sdxl", "epsilon"),
}
"""What stands for a whole family, so that one can ask before downloading anything."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_BY_HUB_NAME = (
    (re.compile(r"xl|pony|illustrious", re.I), "sdxl"),
    (re.compile(r"stable-diffusion-2(-1)?$|768|sd-?2-?1?-v", re.I), "sd2-v"),
    (re.compile(r"stable-diffusion-2|sd-?2", re.I), "sd2"),
    (re.compile(r"stable-diffusion-v?1|sd-?v?1|dreamshaper|v1-5", re.I), "sd15"),
)
_ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


@dataclass(frozen=True)
class Architecture:
    """A base model's configurations.

    Attributes:
        parts: the configuration of each module, by its name in diffusers, as JSON text.
        default_resolution: side in pixels of the squares that the UNet was trained on.
    """

    family_name: FamilyName
    prediction: PredictionType
    parts: tuple[tuple[str, str], ...]
    default_resolution: int
    vae_scale_factor: int

    @property
    def family(self) -> Family:
        """What is common to its kind."""
        return FAMILIES[self.family_name]

    @property
    def title(self) -> str:
        """For people, such as "Stable Diffusion XL"."""
        return self.family.title


def find_architecture(name: str) -> Architecture:
    """The layers of a base model given as for ``--base``, or by one of `NAMES`; loads no weights.

    A hub id that has not been downloaded is recognised by its name, as nothing is downloaded here.

    Raises:
        UserError: it cannot be found or recognised.
    """
    if name in NAMES and name not in built_in_models():
        return _of_family(NAMES[name])
    if _is_on_hub(name) and hub.cached_snapshot(name) is None:
        for pattern, short in _BY_HUB_NAME:
            if pattern.search(name):
                return _of_family(NAMES[short])
        raise UserError(
            f"{name} has not been downloaded, and its name does not say of which kind it is.",
            f"Ask for its family: --base {', '.join(NAMES)}.",
        )
    identity = identify(name)
    if identity.is_single_file:
        return _of_family((identity.family.name, identity.prediction_type))
    return _of_folder(identity.path, identity.family, identity.prediction_type)


def _is_on_hub(name: str) -> bool:
    return bool(_HUB_NAME.fullmatch(name)) and name not in built_in_models() and not _exists(name)


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


@lru_cache(maxsize=8)
def _of_family(kind: tuple[FamilyName, PredictionType]) -> Architecture:
    family = FAMILIES[kind[0]]
    return _of_folder(family.config_folder(kind[1]), family, kind[1])


def _of_folder(folder: Path, family: Family, prediction: PredictionType) -> Architecture:
    names = ["unet", "vae", *list(_ENCODERS)[: len(family.text_encoder_prefixes)]]
    parts = {name: read_json(folder / name / "config.json") for name in names}
    scale = 2 ** (len(parts["vae"]["block_out_channels"]) - 1)
    return Architecture(
        family_name=family.name,
        prediction=prediction,
        parts=tuple((name, json.dumps(part, sort_keys=True)) for name, part in parts.items()),
        default_resolution=scale * native_latent_side(folder),
        vae_scale_factor=scale,
    )


def build(architecture: Architecture, dtype: torch.dtype) -> BaseModel:
    """The base model without weights: frozen, on the meta device, the VAE in float32.

    Args:
        dtype: number format of the UNet and the text encoders.

    Raises:
        UserError: the libraries cannot make a model of its configuration.
    """
    parts = {name: json.loads(part) for name, part in architecture.parts}
    try:
        with _making(dtype):
            unet = cast(UNet2DConditionModel, UNet2DConditionModel.from_config(parts["unet"]))
            encoders: list[TextEncoder] = [
                kind._from_config(
                    CLIPTextConfig(**parts[name]), dtype=dtype, attn_implementation="sdpa"
                )
                for name, kind in _ENCODERS.items()
                if name in parts
            ]
        with _making(torch.float32):
            vae = cast(AutoencoderKL, AutoencoderKL.from_config(parts["vae"]))
    except (TypeError, ValueError, KeyError) as problem:
        raise UserError(
            f"The configuration of this {architecture.title} model cannot be used: {problem}"
        ) from problem
    for module in (unet, vae, *encoders):
        module.eval().requires_grad_(False)
    tokenizers: list[Any] = [
        _Blanks(encoder.config.max_position_embeddings) for encoder in encoders
    ]
    return BaseModel(
        name=architecture.title,
        family=architecture.family,
        prediction_type=architecture.prediction,
        unet=unet,
        vae=vae,
        text_encoders=encoders,
        tokenizers=tokenizers,
        scheduler_config={},
        vae_scale_factor=architecture.vae_scale_factor,
        default_resolution=architecture.default_resolution,
        zero_empty_prompt=True,
        fingerprint="",
        vae_fingerprint="",
    )


@contextmanager
def _making(dtype: torch.dtype) -> Iterator[None]:
    """New parameters are of this number format and have no memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(before)


class _Blanks:
    """In place of a tokenizer: no text has any tokens."""

    bos_token_id = eos_token_id = pad_token_id = 0

    def __init__(self, length: int) -> None:
        self.model_max_length = min(length, 77)

    def __call__(self, _text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": []}
