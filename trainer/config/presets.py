"""Named starting points: some fields of the configuration, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError


@dataclass(frozen=True)
class Preset:
    """A partial configuration.

    Attributes:
        name: what the command line and the page call it.
        reason: when to take it, in one line.
        values: fields by dotted name; all others stay as they are.
    """

    name: str
    reason: str
    values: Mapping[str, object]


_ALL = (
    Preset(
        "quick",
        "A first look within minutes: do the pictures and the trigger word work at all?",
        {
            "training.steps": 300,
            "previews.every": 100,
            "previews.count": 1,
            "previews.inference_steps": 15,
            "checkpoints.every": 0,
        },
    ),
    Preset(
        "normal",
        "Ten to thirty pictures of one thing: what to try first.",
        {
            "training.steps": 1000,
            "adapter.rank": 16,
            "previews.every": 200,
            "checkpoints.every": 200,
        },
    ),
    Preset(
        "thorough",
        "Overnight: more rank, averaged at the end, and many checkpoints to choose from.",
        {
            "training.steps": 3000,
            "training.ema_decay": 0.99,
            "adapter.rank": 32,
            "previews.every": 300,
            "previews.count": 4,
            "checkpoints.every": 300,
            "checkpoints.keep": 10,
        },
    ),
    Preset(
        "subject",
        "One person, animal or object: the text encoder learns too, the class word is preserved.",
        {"adapter.rank": 16, "adapter.text_encoder": True, "captions.dropout": 0.1},
    ),
    Preset(
        "style",
        "A way of drawing: more rank, mirrored pictures; the text encoder learns the trigger word.",
        {
            "adapter.rank": 32,
            "adapter.text_encoder": True,
            "captions.dropout": 0.0,
            "images.flip": True,
        },
    ),
    Preset(
        "sd1-6gb",
        "Stable Diffusion 1.5 on a card with 6 GB: checkpointing, the batch collected in fours.",
        {
            "base.name": "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "images.resolution": 512,
            "training.batch_size": 1,
            "training.accumulation": 4,
            "training.gradient_checkpointing": True,
            "training.steps": 1200,
        },
    ),
    Preset(
        "sdxl-11gb",
        "SDXL at 1024 pixels on a card with 11 GB: UNet only, checkpointing, batches of one.",
        {
            "base.name": "stabilityai/stable-diffusion-xl-base-1.0",
            "images.resolution": 1024,
            "adapter.rank": 16,
            "adapter.text_encoder": False,
            "training.batch_size": 1,
            "training.accumulation": 4,
            "training.gradient_checkpointing": True,
            "training.steps": 1500,
            "previews.every": 250,
            "checkpoints.every": 250,
        },
    ),
    Preset(
        "b-lora-style",
        "The style of one picture, for SDXL: the block that decides how things are drawn (B-LoRA).",
        {
            "base.name": "stabilityai/stable-diffusion-xl-base-1.0",
            "adapter.only": ("unet.up_blocks.0.attentions.1.*",),
            "adapter.targets": "attention",
            "adapter.text_encoder": False,
            "adapter.rank": 64,
        },
    ),
    Preset(
        "b-lora-content",
        "The thing of one picture, for SDXL: the block that decides what is drawn (B-LoRA).",
        {
            "base.name": "stabilityai/stable-diffusion-xl-base-1.0",
            "adapter.only": ("unet.up_blocks.0.attentions.0.*",),
            "adapter.targets": "attention",
            "adapter.text_encoder": False,
            "adapter.rank": 64,
        },
    ),
    Preset(
        "prodigy",
        "Prodigy finds the learning rate by itself: for pictures on which the usual rate fails.",
        {
            "optimizer.name": "prodigy",
            "optimizer.learning_rate": 1.0,
            "optimizer.text_encoder_learning_rate": 1.0,
            "optimizer.schedule": "cosine",
            "optimizer.warmup": 0.0,
        },
    ),
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ALL}


def apply_preset(config: TrainingConfig, name: str) -> TrainingConfig:
    """A configuration with a preset's fields put in.

    Raises:
        UserError: there is no such preset, or it does not go with the rest of the configuration.
    """
    if name not in PRESETS:
        raise UserError(f'there is no preset "{name}"', f"The presets are: {', '.join(PRESETS)}.")
    return with_values(config, PRESETS[name].values, f"preset {name}")
