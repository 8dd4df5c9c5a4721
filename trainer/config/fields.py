"""The configuration's fields by dotted name, with all that is declared of each."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from trainer.config.schema import ConceptConfig, Section, TrainingConfig
from trainer.untyped import is_sequence

_DEFAULTS = TrainingConfig()
_CONCEPTS = "concepts"
_FACTS = ("resume", "private", "place", "memory", "needs")


@dataclass(frozen=True)
class ConfigField:
    """One field of the configuration, as the command line, the page and the docs show it."""

    name: str  # dotted, such as ``adapter.rank``
    default: Any  # None also where the field must be given
    description: str  # its help
    title: str  # its label on the page
    # flag, metavar: its option on the command line, such as ``--rank`` and ``R``; or empty.
    flag: str
    metavar: str
    # resume, private, place, memory, needs: see `trainer.config.section.field`.
    resume: bool
    private: bool
    place: bool
    memory: bool
    needs: Mapping[str, Any]
    schema: Mapping[str, Any]  # its JSON schema

    @property
    def section(self) -> str:
        """The name's part before the dot."""
        return self.name.partition(".")[0]

    @property
    def key(self) -> str:
        """The name's part after the dot."""
        return self.name.partition(".")[2]

    @property
    def expected(self) -> str:
        """What may stand there, in words: ``a whole number from 1 to 1,024``."""
        return _expected(self.schema)

    @property
    def optional(self) -> bool:
        """Whether it may be left empty (None)."""
        return "null" in self.types

    @property
    def types(self) -> frozenset[str]:
        """Its JSON types: ``string``, ``integer``, ``number``, ``boolean``, ``array``, ``null``."""
        return frozenset(part["type"] for part in self.schema.get("anyOf", [self.schema]))

    @property
    def choices(self) -> tuple[str, ...]:
        """The only texts that may stand there; empty where it is free."""
        return tuple(self.schema.get("enum", ()))


@lru_cache(maxsize=1)
def sections() -> dict[str, type[Section]]:
    """The sections by name, in the order of the file; the list of concepts is none of them."""
    values = {name: getattr(_DEFAULTS, name) for name in TrainingConfig.model_fields}
    return {name: type(value) for name, value in values.items() if isinstance(value, Section)}


@lru_cache(maxsize=1)
def all_fields() -> dict[str, ConfigField]:
    """The fields of all sections by dotted name, in the order of the file."""
    found = [field for name, model in sections().items() for field in _fields(name, model)]
    return {field.name: field for field in found}


@lru_cache(maxsize=1)
def concept_fields() -> dict[str, ConfigField]:
    """The fields of one concept by their names without ``concepts.``."""
    return {field.key: field for field in _fields(_CONCEPTS, ConceptConfig)}


def _fields(section: str, model: type[Section]) -> list[ConfigField]:
    schemas = model.model_json_schema()["properties"]
    found: list[ConfigField] = []
    for key, info in model.model_fields.items():
        schema = schemas[key]
        found.append(
            ConfigField(
                name=f"{section}.{key}",
                default=None if info.is_required() else info.default,
                description=" ".join((info.description or "").split()),
                title=info.title or key.replace("_", " ").capitalize(),
                flag=schema["flag"].partition(" ")[0],
                metavar=schema["flag"].partition(" ")[2],
                schema=schema,
                **{fact: schema[fact] for fact in _FACTS},
            )
        )
    return found


def field_help(dotted: str) -> str:
    """A field's description, for ``--help`` and tooltips.

    Raises:
        KeyError: there is no such field (a mistake of the program, not the user's).
    """
    return all_fields()[dotted].description


def get_value(config: TrainingConfig, dotted: str) -> Any:
    """The value of a field by its dotted name, or the list of concepts."""
    section, _, name = dotted.partition(".")
    return getattr(getattr(config, section), name) if name else getattr(config, section)


def public_values(config: TrainingConfig) -> dict[str, Any]:
    """The configuration as JSON values without its private fields.

    A section of private fields alone is left out whole.
    """
    values = config.model_dump(mode="json")
    for field in all_fields().values():
        if field.private:
            del values[field.section][field.key]
    for key, field in concept_fields().items():
        for concept in values[_CONCEPTS] if field.private else ():
            del concept[key]
    return {name: value for name, value in values.items() if value != {}}


def may_change_on_resume(dotted: str) -> bool:
    """Whether a field may be changed when a run goes on; of a concept as ``concepts.0.path``."""
    if dotted.startswith(f"{_CONCEPTS}."):
        return concept_fields()[dotted.rpartition(".")[2]].resume
    return all_fields()[dotted].resume


def free_settings() -> list[str]:
    """What may be changed when a run goes on: sections as ``[name]``, and single fields."""
    found: list[str] = []
    for section in sections():
        fields = [field for field in all_fields().values() if field.section == section]
        free = [field.name for field in fields if field.resume and not field.place]
        found += [f"[{section}]"] if len(free) == len(fields) else free
    return found


def nearest(dotted: str) -> list[str]:
    """The fields or the section that someone may have meant by a name that is not known."""
    last = dotted.rpartition(".")[2]
    if same := [field.name for field in all_fields().values() if field.key == last]:
        return same
    if close := difflib.get_close_matches(dotted, all_fields(), n=1, cutoff=0.7):
        return close
    if "." not in dotted and (close := difflib.get_close_matches(dotted, sections(), n=1)):
        return [f"[{name}]" for name in close]
    by_key = {field.key: field.name for field in all_fields().values()}
    return [by_key[key] for key in difflib.get_close_matches(last, by_key, n=1)]


# ------------------------------------------------------------------------------ in words


def shown(value: object) -> str:
    """A value in words: ``on``, ``empty``, a number without needless digits."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value in ("", ()):
        return "empty"
    if isinstance(value, float):
        return f"{value:g}"
    if is_sequence(value):
        return ", ".join(str(item) for item in value)
    return value.as_posix() if isinstance(value, PurePath) else str(value)


def _expected(schema: Mapping[str, Any]) -> str:
    """The words for a JSON schema."""
    if "anyOf" in schema:
        return ", or ".join(_expected(part) for part in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    kind = schema["type"]
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(schema)
    if kind == "array":
        if schema["items"]["type"] == "string":
            return 'a list of texts, such as ["one", "two"]'
        return f"a list of numbers, each {_expected(schema['items'])}"
    if kind == "string":
        return _expected_text(schema)
    return {"boolean": "true or false", "null": "nothing"}[kind]


def _range(schema: Mapping[str, Any]) -> str:
    """`` from 1 to 1,024``, `` above 0 up to 100``, `` from 0 to below 1``, `` from 1 upwards``."""
    above = "exclusiveMinimum" in schema
    words = {
        "minimum": "from {}",
        "exclusiveMinimum": "above {}",
        "maximum": "up to {}" if above else "to {}",
        "exclusiveMaximum": "to below {}",
    }
    parts = [text.format(_number(schema[key])) for key, text in words.items() if key in schema]
    if "minimum" in schema and len(parts) == 1:
        parts.append("upwards")
    if "multipleOf" in schema:
        parts.append(f"in steps of {_number(schema['multipleOf'])}")
    return "".join(f" {part}" for part in parts)


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _expected_text(schema: Mapping[str, Any]) -> str:
    if schema.get("format") == "path":
        return "a path in quotes"
    if "pattern" in schema:
        return 'a colour such as "#ffffff"'
    start = "a text that is not empty" if schema.get("minLength") else "a text in quotes"
    limit = schema.get("maxLength")
    return f"{start} of at most {_number(limit)} characters" if limit else start
