"""Named starting points: some fields of the configuration, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli

from trainer.config.fields import all_fields, get_value
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.untyped import is_list


@dataclass(frozen=True)
class Preset:
    """A partial configuration."""

    name: str  # what the command line and the page call it
    reason: str  # when to take it, in one line
    values: Mapping[str, object]  # fields by dotted name; all others stay as they are


def _read_presets() -> Iterator[Preset]:
    """Those of ``presets.toml``, which has fields as a configuration file has them."""
    tables = tomli.loads(Path(__file__).with_name("presets.toml").read_text(encoding="utf-8"))
    for name, table in tables.items():
        reason = table.pop("reason")
        values = {
            f"{section}.{key}": tuple(value) if is_list(value) else value
            for section, fields in table.items()
            for key, value in fields.items()
        }
        yield Preset(name, reason, values)


PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _read_presets()}


@dataclass(frozen=True)
class Question:
    """A question that sets several fields."""

    title: str  # how it is asked
    # What each answer is called, by its preset; no preset's name: the defaults.
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
            "several": "Several things, each with its word",
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
