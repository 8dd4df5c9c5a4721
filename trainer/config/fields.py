"""The configuration's fields by dotted name: help, defaults, and what may stand there."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from trainer.config.schema import ConceptConfig, Section, TrainingConfig


class ConfigField(NamedTuple):
    """One field of the configuration, as the command line, the page and the docs show it."""

    name: str  # dotted, such as "adapter.rank"
    annotation: Any
    default: Any
    description: str

    @property
    def expected(self) -> str:
        """What may stand there, in words: ``a whole number from 1 to 1,024``."""
        return _expected(_schemas()[self.name])

    @property
    def optional(self) -> bool:
        """Whether it may be left empty (None)."""
        return "null" in self.types

    @property
    def types(self) -> frozenset[str]:
        """Its JSON types: ``string``, ``integer``, ``number``, ``boolean``, ``array``, ``null``."""
        schema = _schemas()[self.name]
        return frozenset(part["type"] for part in schema.get("anyOf", [schema]))

    @property
    def choices(self) -> tuple[str, ...]:
        """The only texts that may stand there; empty where it is free."""
        return tuple(_schemas()[self.name].get("enum", ()))


@lru_cache(maxsize=1)
def all_fields() -> dict[str, ConfigField]:
    """All fields by dotted name, in the order of the file."""
    return {field.name: field for field in iter_fields()}


@lru_cache(maxsize=1)
def sections() -> dict[str, type[Section]]:
    """The sections by name, in the order of the file; the list of concepts is none of them."""
    values = {name: getattr(_DEFAULTS, name) for name in TrainingConfig.model_fields}
    return {name: type(value) for name, value in values.items() if isinstance(value, Section)}


def iter_fields() -> Iterator[ConfigField]:
    """All fields in the order of the file."""
    for section_name, section in sections().items():
        for name, info in section.model_fields.items():
            # From the whole configuration, since a section may be given another default there.
            default = getattr(getattr(_DEFAULTS, section_name), name)
            description = info.description or ""
            yield ConfigField(f"{section_name}.{name}", info.annotation, default, description)


def concept_fields() -> dict[str, ConfigField]:
    """The fields of one concept by name; their dotted names begin with ``concepts.``."""
    return {
        name: ConfigField(
            f"concepts.{name}",
            info.annotation,
            None if info.is_required() else info.default,
            info.description or "",
        )
        for name, info in ConceptConfig.model_fields.items()
    }


def field_help(dotted: str) -> str:
    """A field's description, for ``--help`` and tooltips.

    Raises:
        KeyError: there is no such field (a mistake of the program, not the user's).
    """
    return all_fields()[dotted].description


def get_value(config: TrainingConfig, dotted: str) -> Any:
    """The value of a field by its dotted name."""
    section, _, name = dotted.partition(".")
    return getattr(getattr(config, section), name)


def nearest(dotted: str) -> list[str]:
    """The fields or the section that someone may have meant by a name that is not known."""
    last = dotted.rpartition(".")[2]
    if same := [name for name in all_fields() if name.endswith(f".{last}")]:
        return same
    if close := difflib.get_close_matches(dotted, all_fields(), n=1, cutoff=0.7):
        return close
    if "." not in dotted and (close := difflib.get_close_matches(dotted, sections(), n=1)):
        return [f"[{name}]" for name in close]
    by_last = {name.rpartition(".")[2]: name for name in all_fields()}
    return [by_last[key] for key in difflib.get_close_matches(last, by_last, n=1)]


# ------------------------------------------------------------------------------ the schema

_DEFAULTS = TrainingConfig()


@lru_cache(maxsize=1)
def _schemas() -> dict[str, dict[str, Any]]:
    models: dict[str, type[Section]] = {**sections(), "concepts": ConceptConfig}
    return {
        f"{section}.{name}": schema
        for section, model in models.items()
        for name, schema in model.model_json_schema()["properties"].items()
    }


def _expected(schema: Mapping[str, Any]) -> str:
    """The words for a JSON schema."""
    if "anyOf" in schema:
        return ", or ".join(_expected(part) for part in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(schema)
    if kind == "array":
        return 'a list of texts, such as ["one", "two"]'
    if kind == "string":
        return _expected_text(schema)
    return {"boolean": "true or false", "null": "nothing"}[str(kind)]


def _range(schema: Mapping[str, Any]) -> str:
    lower, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    upper, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    parts = [
        f"from {_number(lower)}" if lower is not None else "",
        f"above {_number(above)}" if above is not None else "",
        f"to {_number(upper)}" if upper is not None and above is None else "",
        f"up to {_number(upper)}" if upper is not None and above is not None else "",
        f"to below {_number(below)}" if below is not None else "",
        "upwards" if upper is None and below is None and lower is not None else "",
    ]
    return "".join(f" {part}" for part in parts if part)


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _expected_text(schema: Mapping[str, Any]) -> str:
    if schema.get("format") == "path":
        return "a path in quotes"
    if schema.get("pattern") == r"^#[0-9a-fA-F]{6}$":
        return 'a colour such as "#ffffff"'
    limit = (
        f" of at most {_number(schema['maxLength'])} characters" if "maxLength" in schema else ""
    )
    start = "a text that is not empty" if schema.get("minLength") else "a text in quotes"
    return start + limit
