"""Options of the command line that stand for a field of the configuration."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from trainer.config.fields import ConfigField, all_fields


def train_fields() -> list[ConfigField]:
    """The fields that have an option of their own."""
    return [field for field in all_fields().values() if field.flag]


def fit_fields() -> list[ConfigField]:
    """Those of them that memory depends on."""
    return [field for field in train_fields() if field.memory]


def add_flags(parser: argparse.ArgumentParser, fields: Iterable[ConfigField]) -> None:
    """Adds the option of each field; what is given is found by `given_values`."""
    for field in fields:
        help_text = field.description.replace("%", "%%")
        if "boolean" in field.types:
            action = argparse.BooleanOptionalAction
            parser.add_argument(field.flag, dest=field.name, action=action, help=help_text)
            continue
        kind = int if "integer" in field.types else str
        parser.add_argument(
            field.flag, dest=field.name, type=kind, metavar=field.metavar, help=help_text
        )


def given_values(options: argparse.Namespace, fields: Iterable[ConfigField]) -> dict[str, object]:
    """The fields that were given as options, by dotted name."""
    values = {field.name: getattr(options, field.name) for field in fields}
    return {name: value for name, value in values.items() if value is not None}
