"""What differs between SD 1, SD 2 and SDXL, as data. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.places import PROJECT

FamilyName = Literal["sd1", "sd2", "sdxl"]
PredictionType = Literal["epsilon", "v_prediction"]

MODELS_FOLDER = PROJECT / "models"
"""The repository's ``models/``: built-in models, users' own, configs and tokenizers."""
CONFIGS_FOLDER = MODELS_FOLDER / "configs"


@dataclass(frozen=True, eq=False)
class Family:
    """One family of base models."""

    name: FamilyName  # the short name
    title: str  # as people write it
    text_encoder_prefixes: tuple[str, ...]  # prefix of kohya keys for each text encoder, in order
    base_model_version: str  # ``ss_base_model_version`` of adapters for it
    architectures: dict[PredictionType, str]  # see `architecture`, for each prediction type
    # Folder under ``models/configs``, for each prediction type.
    config_names: dict[PredictionType, str]
    tokenizer_names: tuple[str, ...]  # folder under ``models``, for each text encoder
    learning_rate: float = 1e-4  # recommended rate for the UNet's adapter
    text_encoder_learning_rate: float = 5e-5  # recommended rate for the text encoders' adapters

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of its modules in diffusers: unet, vae, text_encoder and perhaps text_encoder_2."""
        return ("unet", "vae", "text_encoder", "text_encoder_2")[: 2 + len(self.tokenizer_names)]

    def architecture(self, prediction: PredictionType) -> str:
        """``modelspec.architecture`` of an adapter (ModelSpec 1.0.1)."""
        return self.architectures[prediction]

    def config_folder(self, prediction: PredictionType) -> Path:
        """Folder of full-size component configs in diffusers' layout."""
        return CONFIGS_FOLDER / self.config_names[prediction]

    @property
    def tokenizer_folders(self) -> list[Path]:
        """The tokenizers that are shipped, for single files: one for each text encoder."""
        return [MODELS_FOLDER / name for name in self.tokenizer_names]


def _either(name: str) -> dict[PredictionType, str]:
    return {"epsilon": name, "v_prediction": name}


FAMILIES: dict[FamilyName, Family] = {
    "sd1": Family(
        name="sd1",
        title="Stable Diffusion 1.x",
        text_encoder_prefixes=("lora_te",),
        base_model_version="sd_v1",
        architectures=_either("stable-diffusion-v1/lora"),
        config_names=_either("sd1"),
        tokenizer_names=("clip-tokenizer",),
    ),
    "sd2": Family(
        name="sd2",
        title="Stable Diffusion 2.x",
        text_encoder_prefixes=("lora_te",),
        base_model_version="sd_v2",
        architectures={
            "epsilon": "stable-diffusion-v2-512/lora",
            "v_prediction": "stable-diffusion-v2-768-v/lora",
        },
        config_names={"epsilon": "sd2", "v_prediction": "sd2-v"},
        tokenizer_names=("clip-tokenizer-2",),
    ),
    "sdxl": Family(
        name="sdxl",
        title="Stable Diffusion XL",
        text_encoder_prefixes=("lora_te1", "lora_te2"),
        base_model_version="sdxl_base_v1-0",
        architectures=_either("stable-diffusion-xl-v1-base/lora"),
        config_names=_either("sdxl"),
        tokenizer_names=("clip-tokenizer", "clip-tokenizer-2"),
    ),
}
