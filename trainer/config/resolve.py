"""Fields that were left to the base model get their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.config.optimizers import NEW_TOKENS_RATE, OPTIMIZERS, SCHEDULE_RATES, kind_rate
from trainer.config.schema import TrainingConfig

if TYPE_CHECKING:
    from trainer.models.base import BaseModel

_LARGEST_WHOLE = 1024  # px: the VAE takes larger pictures in tiles


# Peak rates with AdamW, of the UNet's adapter and of the text encoder's. Small models take larger
# steps than their families: measured on the example sets, with alpha 16.
BUILT_IN_RATES = {"tiny-emoji": (4e-3, 6e-3)}
BUILT_IN_ALPHA = 16.0
"""Above it their rates fall as it rises, since an adapter moves by rate times alpha: with alpha and
rank 32 at the full rates, training on the style set ended in noise."""


def wants_tiles(config: TrainingConfig, resolution: int) -> bool:
    """What ``memory.vae_tiling`` comes to.

    auto: yes for pictures of more than 1024 px, and beside weights in few bits, where the VAE would
    need more memory than training.
    """
    if config.memory.vae_tiling != "auto":
        return config.memory.vae_tiling == "on"
    return resolution > _LARGEST_WHOLE or config.memory.base_weights in ("8bit", "4bit")


def resolve(config: TrainingConfig, base: BaseModel) -> TrainingConfig:
    """The configuration with every ``None`` replaced by what suits the base model."""
    optimizer, family = config.optimizer, base.family
    alpha = config.adapter.alpha or float(config.adapter.rank)
    rates = (family.learning_rate, family.text_encoder_learning_rate)
    if built_in := BUILT_IN_RATES.get(base.name):
        rates = tuple(min(1.0, BUILT_IN_ALPHA / alpha) * rate for rate in built_in)
    facts, kind = OPTIMIZERS[optimizer.name], kind_rate(config.adapter.kind, config.adapter.rank)
    share = facts.rate
    if share and not facts.averages:
        share *= SCHEDULE_RATES.get(optimizer.schedule, 1.0)
    unet, text = (1.0 if share is None else share * kind * rate for rate in rates)
    new_tokens = None
    if config.adapter.new_tokens:
        new_tokens = 1.0 if share is None else share * NEW_TOKENS_RATE * rates[1]
    resolution = next(iter(config.images.sides), base.default_resolution)
    tiles = wants_tiles(config, max(config.images.sides, default=resolution))
    return config.changed(
        memory={"vae_tiling": "on" if tiles else "off"},
        images={"resolution": resolution},
        adapter={"alpha": alpha},
        optimizer={
            "learning_rate": optimizer.learning_rate or unet,
            "text_encoder_learning_rate": optimizer.text_encoder_learning_rate or text,
            "new_tokens_learning_rate": optimizer.new_tokens_learning_rate or new_tokens,
        },
    )
