"""Settings that will do nothing beside the others, or hardly what they are meant for.

What a field needs stands in the field (``needs``). What depends on the pictures, such as masks that
no picture has, `trainer.data.report` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.config.concepts import triggers_of
from trainer.config.fields import ConfigField, all_fields, concept_fields, get_value, shown
from trainer.config.optimizers import OPTIMIZERS
from trainer.config.schema import TrainingConfig
from trainer.data.captions import contains_word, fill_words, literal_marks
from trainer.untyped import is_sequence

_RATES = ("optimizer.learning_rate", "optimizer.text_encoder_learning_rate")
_LEAST_MULTIPLIER = 0.1
_HIGHEST_RATE = 0.1
_HIGHEST_SCALE = 16


@dataclass(frozen=True)
class Idle:
    """A setting that does not do what whoever set it may expect, as ``fit --json`` has it."""

    field: str  # its dotted name
    message: str  # why, and the way out, without the field's name

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def idle_settings(config: TrainingConfig) -> list[Idle]:
    """The settings that differ from their defaults and have no effect under the others.

    Args:
        config: as it was given; once resolved, all rates are set.
    """
    found = (
        _without_effect,
        _same_layers,
        _lonely_share,
        _odd_rates,
        _marks_in_prompts,
        _unpreserved,
        _unguided,
        _odd_alpha,
    )
    return [idle for find in found for idle in find(config)]


def _without_effect(config: TrainingConfig) -> Iterator[Idle]:
    for field in all_fields().values():
        value = get_value(config, field.name)
        if value == field.default:
            continue
        if unmet := [text for text in _unmet(config, field) if text]:
            message = f"{shown(value)} has no effect, since {' and '.join(unmet)}."
            yield Idle(field.name, message)


def _unmet(config: TrainingConfig, field: ConfigField) -> Iterator[str]:
    for name, wanted in field.needs.items():
        if wanted is True:
            values = {one: get_value(config, one) for one in name.split(" or ")}
            if not any(values.values()):
                yield " and ".join(f"{one} is {shown(value)}" for one, value in values.items())
            continue
        present = get_value(config, name)
        if wanted is None:
            if present:
                yield f"{name} is given"
            continue
        allowed = wanted if is_sequence(wanted) else (wanted,)
        if present not in allowed:
            needed = " or ".join(map(shown, allowed))
            yield f"{name} is {shown(present)}, not {needed}"


def _same_layers(config: TrainingConfig) -> Iterator[Idle]:
    """Ranks and layers that are set, and are no others than without that."""
    adapter = config.adapter
    least, own = adapter.t_lora_min_rank, bool(adapter.ranks or adapter.start_from)
    if least and least >= adapter.rank and not own:
        message = f"{least} has no effect, since adapter.rank is {adapter.rank}. Set a lower one."
        yield Idle("adapter.t_lora_min_rank", message)
    if adapter.targets == "convolution" and not (adapter.unet or adapter.start_from):
        message = "Only the UNet has convolutions, and adapter.unet is off: as feed-forward."
        yield Idle("adapter.targets", message)


def _lonely_share(config: TrainingConfig) -> Iterator[Idle]:
    """What sets a concept off against others, beside no other."""
    for concept in config.concepts if len(config.concepts) == 1 else ():
        for name, field in concept_fields().items():
            value = getattr(concept, name)
            if name in ("repeats", "loss_weight") and value != field.default:
                message = f"{name} = {shown(value)} has no effect, since there is one concept only."
                yield Idle("concepts", message)


def _odd_rates(config: TrainingConfig) -> Iterator[Idle]:
    """Rates of another kind of optimizer."""
    name = config.optimizer.name
    finds = OPTIMIZERS[name].rate is None
    for field in _RATES:
        rate = get_value(config, field)
        if rate is None:
            continue
        if finds and rate < _LEAST_MULTIPLIER:
            yield Idle(
                field,
                f"{name} finds the rate by itself, and multiplies it by {shown(rate)}: next to "
                "nothing will be learned. Leave it empty, or set it to 1.",
            )
        elif not finds and rate > _HIGHEST_RATE:
            yield Idle(
                field,
                f"{shown(rate)} is far above any rate that {name} learns with, so the adapter will "
                "be noise. Leave it empty for what suits the base model.",
            )


def _unpreserved(config: TrainingConfig) -> Iterator[Idle]:
    every, steps = config.preservation.every, config.training.steps
    if every > steps and not any(_unmet(config, all_fields()["preservation.every"])):
        message = f"{every} is more than training.steps ({steps}), so that nothing is preserved."
        yield Idle("preservation.every", message)
    taught = [
        prompt
        for prompt in config.preservation.prompts
        if any(contains_word(prompt, word) for word in triggers_of(config))
    ]
    if taught:
        message = (
            f"{shown(taught[0])} has a trigger word, which can't be taught and preserved at once: "
            "it is left out."
        )
        yield Idle("preservation.prompts", message)


def _odd_alpha(config: TrainingConfig) -> Iterator[Idle]:
    adapter = config.adapter
    strength = (adapter.alpha or 0) / adapter.rank
    if strength > _HIGHEST_SCALE and not adapter.start_from:
        message = (
            f"{shown(adapter.alpha)} at rank {adapter.rank} multiplies what the adapter does by "
            f"{strength:g}, so it will be noise. Leave it empty for 1."
        )
        yield Idle("adapter.alpha", message)


def _unguided(config: TrainingConfig) -> Iterator[Idle]:
    previews = config.previews
    if previews.negative and previews.guidance <= 1:
        message = (
            f"It has no effect, since previews.guidance is {previews.guidance:g}, not above 1."
        )
        yield Idle("previews.negative", message)


def _marks_in_prompts(config: TrainingConfig) -> Iterator[Idle]:
    previews = config.previews
    prompts = [fill_words(one, "", "") for one in previews.prompts]
    for field, texts in (("prompts", prompts), ("negative", [previews.negative])):
        for message in dict.fromkeys(literal_marks(text) for text in texts):
            if message:
                yield Idle(f"previews.{field}", message)
