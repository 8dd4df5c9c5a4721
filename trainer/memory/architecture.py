"""A base model's modules without their weights: everything on torch's meta device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig

from trainer.errors import UserError
from trainer.models.base import BaseModel, TextEncoder
from trainer.models.configs import read_json
from trainer.models.facts import read_facts
from trainer.models.identify import BaseFacts
from trainer.models.load import ENCODERS


@dataclass(frozen=True)
class Architecture:
    """A base model's configurations.

    Attributes:
        parts: the configuration of each module, by its name in diffusers, as JSON text.
    """

    facts: BaseFacts
    parts: tuple[tuple[str, str], ...]


def find_architecture(name: str) -> Architecture:
    """The layers of a base model as `read_facts` knows it; loads no weights.

    Raises:
        UserError: it cannot be found or recognised.
    """
    facts = read_facts(name)
    parts = {
        part: read_json(facts.config_folder / part / "config.json") for part in facts.family.parts
    }
    texts = {part: json.dumps(config, sort_keys=True) for part, config in parts.items()}
    return Architecture(facts, tuple(texts.items()))


def build(architecture: Architecture, dtype: torch.dtype) -> BaseModel:
    """The base model without weights: frozen, on the meta device, the VAE in float32.

    Args:
        dtype: number format of the UNet and the text encoders.

    Raises:
        UserError: the libraries cannot make a model of its configuration.
    """
    facts = architecture.facts
    parts = {name: json.loads(part) for name, part in architecture.parts}
    try:
        with _making(dtype):
            unet = cast(UNet2DConditionModel, UNet2DConditionModel.from_config(parts["unet"]))
            encoders: list[TextEncoder] = [
                kind._from_config(
                    CLIPTextConfig(**parts[name]), dtype=dtype, attn_implementation="sdpa"
                )
                for name, kind in ENCODERS.items()
                if name in parts
            ]
        with _making(torch.float32):
            vae = cast(AutoencoderKL, AutoencoderKL.from_config(parts["vae"]))
    except (TypeError, ValueError, KeyError) as problem:
        raise UserError(
            f"The configuration of this {facts.family.title} model cannot be used: {problem}"
        ) from problem
    for module in (unet, vae, *encoders):
        module.eval().requires_grad_(False)
    tokenizers: list[Any] = [
        _Blanks(encoder.config.max_position_embeddings) for encoder in encoders
    ]
    return BaseModel(
        name=facts.family.title,
        family=facts.family,
        prediction_type=facts.prediction_type,
        unet=unet,
        vae=vae,
        text_encoders=encoders,
        tokenizers=tokenizers,
        scheduler_config={},
        vae_scale_factor=facts.latent_factor,
        default_resolution=facts.resolution,
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
