"""Fields that were left to the base model get their values."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import TrainingConfig
from trainer.models.base import BaseModel
from trainer.tiling import wants_tiles


@dataclass(frozen=True)
class Rates:
    """Peak learning rates of the adapter with AdamW."""

    unet: float
    text_encoder: float


# Small models take larger steps than their families: measured on the example sets.
BUILT_IN_RATES = {"tiny-emoji": Rates(unet=6e-3, text_encoder=2e-3)}
# Prodigy finds the rate itself and takes 1 as its multiplier (arXiv 2306.06101, section 5).
PRODIGY_RATES = Rates(unet=1.0, text_encoder=1.0)


def resolve(config: TrainingConfig, base: BaseModel) -> TrainingConfig:
    """The configuration with every ``None`` replaced by what suits the base model."""
    optimizer, family = config.optimizer, base.family
    rates = BUILT_IN_RATES.get(
        base.name, Rates(family.learning_rate, family.text_encoder_learning_rate)
    )
    if optimizer.name == "prodigy":
        rates = PRODIGY_RATES
    resolution = config.images.resolution or base.default_resolution
    values = {
        "memory": {"vae_tiling": "on" if wants_tiles(config, resolution) else "off"},
        "images": {"resolution": resolution},
        "adapter": {"alpha": config.adapter.alpha or float(config.adapter.rank)},
        "optimizer": {
            "learning_rate": optimizer.learning_rate or rates.unet,
            "text_encoder_learning_rate": optimizer.text_encoder_learning_rate
            or rates.text_encoder,
        },
    }
    sections = {
        name: getattr(config, name).model_copy(update=changes) for name, changes in values.items()
    }
    return config.model_copy(update=sections)
