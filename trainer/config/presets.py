"""Named starting points: some fields of the configuration, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.config.fields import all_fields, get_value
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
        "Overnight: more rank, averaged at the end, and the last ten checkpoints kept.",
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
        "One person or animal: more captions are cut to trigger and class word, which carry it.",
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
        "several",
        "Several people or things in one adapter, each with a word of its own: more rank.",
        {"adapter.rank": 32},
    ),
    Preset(
        "loose",
        "The rest may move a little: it is held less, and on every second step, which saves time.",
        {"preservation.weight": 2.0, "preservation.every": 2},
    ),
    Preset(
        "firm",
        "The rest has to stay as it is, though the subject may then come later.",
        {"preservation.weight": 8.0},
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


@dataclass(frozen=True)
class Question:
    """A question that sets several fields.

    Attributes:
        title: how it is asked.
        answers: what each answer is called, by its preset; no preset's name: the defaults.
    """

    title: str
    answers: Mapping[str, str]

    @property
    def fields(self) -> list[str]:
        """What the presets of its answers set."""
        named = [PRESETS[name].values for name in self.answers if name in PRESETS]
        return list(dict.fromkeys(field for values in named for field in values))


QUESTIONS: Mapping[str, Question] = {
    "kind": Question(
        "What the pictures show",
        {
            "thing": "A thing",
            "subject": "A person or an animal",
            "style": "A style",
            "several": "Several of them",
        },
    ),
    "length": Question("How long", {"quick": "Quick", "normal": "Normal", "thorough": "Thorough"}),
    "hold": Question(
        "How firmly everything else stays the same",
        {"loose": "Loosely", "usual": "As usual", "firm": "Firmly"},
    ),
}
"""What Train asks first. The first answers of a new form: `FIRST_ANSWERS`."""

FIRST_ANSWERS: Mapping[str, str] = {"kind": "thing", "length": "normal", "hold": "usual"}


def answered(answers: Mapping[str, str | None]) -> dict[str, object]:
    """The values of all fields that the questions are about.

    Where two answers set a field, the one that differs from its default counts: a style that is
    trained normally has a style's rank.
    """
    fields = all_fields()
    names = dict.fromkeys(name for question in QUESTIONS.values() for name in question.fields)
    values: dict[str, object] = {name: fields[name].default for name in names}
    for answer in answers.values():
        preset = PRESETS.get(answer or "")
        for name, value in preset.values.items() if preset else ():
            if value != fields[name].default:
                values[name] = value
    return values


def answers_of(config: TrainingConfig) -> dict[str, str | None]:
    """The answers that a configuration amounts to; None where it is none of them."""
    found: dict[str, str | None] = {}
    for key, question in QUESTIONS.items():
        others = [name for k, other in QUESTIONS.items() if k != key for name in other.fields]
        own = [name for name in question.fields if name not in others]
        fitting = (
            answer
            for answer in question.answers
            if (values := answered({key: answer}))
            and all(get_value(config, name) == values[name] for name in own)
        )
        found[key] = next(fitting, None)
    if config.concepts:
        found["kind"] = "several"
    return found


def apply_preset(config: TrainingConfig, name: str) -> TrainingConfig:
    """A configuration with a preset's fields put in.

    Raises:
        UserError: there is no such preset, or it does not go with the rest of the configuration.
    """
    if name not in PRESETS:
        raise UserError(f'there is no preset "{name}"', f"The presets are: {', '.join(PRESETS)}.")
    return with_values(config, PRESETS[name].values, f"preset {name}")
