"""The configuration as a TOML file, and as dotted ``section.key`` values.

Every way in (file, ``--set``, presets, the page's form) ends in `validate`, which gives all
mistakes at once, each with its field, its value and what is expected instead.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import ValidationError
from tomlkit.exceptions import ParseError, TOMLKitError

from trainer.config.fields import all_fields, concept_fields, field_help, nearest, sections
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.runs.atomic import write_text

_HINT = "Every field is explained in docs/configuration.md."
_TOML = "The file must be TOML: [section] lines, and key = value lines below them."
_DEFAULTS = TrainingConfig()
MAX_FILE_BYTES = 200_000
"""Twenty times the length of a file with every field explained; the parser is slow beyond it."""
_MAX_SHOWN = 100  # mistakes; more of them mean that the file is something else
_MAX_DEPTH = 8  # of lists and tables; the deepest field takes three
_TOO_DEEP = "lists nested too deeply"
_NO_VALUE = "(empty)"


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with a configuration.

    Attributes:
        field: dotted name; empty where the whole is meant.
        message: what was given and what is expected, without the field's name.
        line: where in the file, counted from 1; None if it came from elsewhere.
    """

    field: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        start = f"{place}{_on_one_line(self.field)}: " if self.field else place
        return start + self.message


class ConfigError(UserError):
    """All mistakes of one configuration; `mistakes` is for showing each beside its field."""

    def __init__(self, source: str, mistakes: Sequence[Mistake], hint: str = _HINT) -> None:
        self.mistakes = tuple(mistakes)
        start = source or "the configuration"
        lines = [str(mistake) for mistake in self.mistakes[:_MAX_SHOWN]]
        if len(self.mistakes) == 1:
            super().__init__(f"{start}: {lines[0]}", hint)
        else:
            count = f"{'more than ' * (len(self.mistakes) > _MAX_SHOWN)}{len(lines)}"
            listed = "\n".join(f"  {line}" for line in lines)
            super().__init__(f"{start} has {count} mistakes:\n{listed}", hint)


# ------------------------------------------------------------------------------ values


def with_values(
    config: TrainingConfig, values: Mapping[str, object], source: str = ""
) -> TrainingConfig:
    """A configuration with some fields replaced, given by dotted name.

    ``concepts`` takes the whole list, each concept as a mapping.

    Raises:
        ConfigError: for unknown names and unfit values, all of them.
    """
    tree: dict[str, Any] = config.model_dump(mode="json")
    unknown: list[Mistake] = []
    for dotted, value in values.items():
        if dotted in all_fields():
            section, _, name = dotted.partition(".")
            tree[section][name] = value
        elif dotted == "concepts":
            tree["concepts"] = value
        else:
            unknown.append(Mistake(dotted, _unknown_key(dotted)))
    return validate(tree, source, unknown=unknown)


def apply_overrides(config: TrainingConfig, overrides: Sequence[str]) -> TrainingConfig:
    """Applies ``section.key=value`` texts, as ``--set`` takes them.

    Values are TOML; what is not TOML is taken as text, so quotes are seldom needed. Nothing after
    the ``=`` empties an optional field.

    Raises:
        ConfigError: for unknown names and unfit values, all of them.
    """
    values: dict[str, object] = {}
    malformed: list[Mistake] = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if equals:
            values[dotted.strip()] = _parse_value(dotted.strip(), text.strip())
        else:
            message = f"{_show(override)} is not of the form section.key=value"
            malformed.append(Mistake("", message))
    if malformed:
        raise ConfigError("--set", malformed)
    return with_values(config, values, "--set")


def validate(
    tree: Mapping[str, Any],
    source: str = "",
    lines: Mapping[str, int] | None = None,
    unknown: Sequence[Mistake] = (),
) -> TrainingConfig:
    """Makes a configuration from nested plain values (texts, numbers, lists, sections).

    Types are taken strictly: the text ``"4"`` is not a number. A whole number is fine where a
    fraction may stand.

    Args:
        tree: {section: {key: value}}; what is missing takes its default.
        source: what to call the origin in the message, such as the file's name.
        lines: line numbers of dotted names.
        unknown: mistakes found already, to be shown together with the others.

    Raises:
        ConfigError: with all mistakes.
    """
    try:
        tree = {name: _tamed(value, _MAX_DEPTH) for name, value in tree.items()}
    except RecursionError:
        raise ConfigError(source, [Mistake("", _TOO_DEEP)]) from None
    tree, stray = _without_stray_bytes(tree, lines or {})
    mistakes = [*unknown, *stray]
    try:
        config = _build(tree)
    except ValidationError as error:
        first = error.errors()[: _MAX_SHOWN + 1]
        mistakes += [_mistake(item, lines or {}) for item in first]
        mistakes += _contradictions(tree, error, lines or {})
    else:
        if not mistakes:
            return config
    raise ConfigError(source, sorted(mistakes, key=lambda mistake: mistake.line or 0))


# ------------------------------------------------------------------------------ the file


def write_config(path: Path, config: TrainingConfig) -> None:
    """Writes every field, with its description as a comment above it.

    Raises:
        UserError: the path of the images is not valid text (it has stray bytes).
    """
    try:
        write_text(path, format_config(config))
    except UnicodeEncodeError as error:
        raise UserError(
            f"the path {str(config.images.path)!r} is not valid text and cannot be kept in {path}",
            "Rename the folder of images.",
        ) from error


def format_config(config: TrainingConfig) -> str:
    """The text of a complete configuration file; `parse_config` gives back an equal one."""
    document = tomlkit.document()
    _comment(document, "Configuration of a Rarebit run. Lines without effect start with #.")
    tree = config.model_dump(mode="json")
    for section_name, section in sections().items():
        document.add(tomlkit.nl())
        _comment(document, (section.__doc__ or "").strip().splitlines()[0])
        table = tomlkit.table()
        for name in section.model_fields:
            _comment(table, field_help(f"{section_name}.{name}"))
            value = tree[section_name][name]
            if value is None:
                table.add(tomlkit.comment(f"{name} = {_NO_VALUE}"))
            else:
                table.add(name, _item(value))
            table.add(tomlkit.nl())
        document.add(section_name, table)
    if tree["concepts"]:
        document.add("concepts", _concept_tables(tree["concepts"]))
    text = tomlkit.dumps(document).replace("\n[[concepts]]", "\n\n[[concepts]]")
    text = re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"
    return re.sub(r"\n\n(?=\[[^\[])", "\n", text)  # a section's comment touches its header


def _concept_tables(concepts: Sequence[Mapping[str, object]]) -> Any:
    """The ``[[concepts]]`` tables."""
    tables = tomlkit.aot()
    for concept in concepts:
        table = tomlkit.table()
        for name, field in concept_fields().items():
            _comment(table, field.description)
            table.add(name, _item(concept[name]))
            table.add(tomlkit.nl())
        tables.append(table)
    return tables


def read_config(path: Path) -> TrainingConfig:
    """Reads a configuration file; fields that it leaves out take their defaults.

    Raises:
        UserError: the file is missing or unreadable; a `ConfigError` for what is wrong inside it,
            all mistakes at once with their line numbers.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}", _HINT) from error
    if len(data) > MAX_FILE_BYTES:
        limit = f"{MAX_FILE_BYTES // 1000} KB"
        raise UserError(f"{path} is over {limit}, too large for a configuration", _HINT)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        message = "this is not UTF-8 text"
        raise ConfigError(
            str(path), [Mistake("", message, line)], "Save the file as UTF-8."
        ) from error
    return parse_config(text, str(path))


def parse_config(text: str, source: str = "") -> TrainingConfig:
    """Reads the text of a configuration file; see `read_config`."""
    try:
        tree = tomlkit.parse(text).unwrap()
    except ParseError as error:
        mistakes = _twice(text, error) or [Mistake("", _parse_reason(error), error.line)]
        raise ConfigError(source, mistakes, _TOML) from error
    except (TOMLKitError, ValueError) as error:
        mistakes = _twice(text, error) or [Mistake("", str(error))]
        raise ConfigError(source, mistakes, _TOML) from error
    except RecursionError:
        raise ConfigError(source, [Mistake("", _TOO_DEEP)], _TOML) from None
    return validate(tree, source, dict(reversed(_key_lines(text))))


def _tamed(value: object, depth: int) -> Any:
    """The same value, where whole numbers of hundreds of digits, which JSON can't hold, are inf.

    Raises:
        RecursionError: lists and tables are nested deeper than that.
    """
    if isinstance(value, int) and value.bit_length() > 1000:
        return math.inf if value > 0 else -math.inf
    if not isinstance(value, (Mapping, list, tuple)):
        return value
    if not depth:
        raise RecursionError
    if isinstance(value, Mapping):
        return {name: _tamed(item, depth - 1) for name, item in value.items()}
    return [_tamed(item, depth - 1) for item in value]


def _without_stray_bytes(
    tree: Mapping[str, Any], lines: Mapping[str, int]
) -> tuple[dict[str, Any], list[Mistake]]:
    """The fields that are text, and a mistake for each that is not: neither TOML nor JSON takes
    what a command line or file name has in place of bytes that are no UTF-8."""
    kept, mistakes = dict(tree), []
    for section, fields in tree.items():
        if isinstance(fields, Mapping):
            wrong = {name for name, value in fields.items() if not _is_text(value)}
            kept[section] = {name: fields[name] for name in fields if name not in wrong}
        else:
            wrong = set() if _is_text(fields) else {""}
            kept = {name: value for name, value in kept.items() if name != section or not wrong}
        for name in sorted(wrong):
            dotted = f"{section}.{name}".rstrip(".")
            message = "this is not valid text: it has bytes that are no UTF-8"
            mistakes.append(Mistake(dotted, message, lines.get(dotted)))
    return kept, mistakes


def _is_text(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _build(tree: Mapping[str, Any]) -> TrainingConfig:
    """Fills in the defaults and has pydantic check everything, strictly."""
    complete: dict[str, Any] = _DEFAULTS.model_dump(mode="json")
    for section, fields in tree.items():
        known = section in complete and isinstance(fields, Mapping)
        complete[section] = {**complete[section], **fields} if known else fields
    # Through JSON, because pydantic's strict mode then still turns texts into paths and lists
    # into tuples. Dates, which only TOML has, become text that no field mistakes for a number.
    return TrainingConfig.model_validate_json(json.dumps(complete, default=str), strict=True)


# ------------------------------------------------------------------------------ mistakes


def _mistake(error: Any, lines: Mapping[str, int]) -> Mistake:
    """Words one error of pydantic's."""
    parts = [str(part) for part in error["loc"]]
    if parts[:1] == ["concepts"]:
        return _concept_mistake(error, parts, lines)
    dotted = ".".join(parts[:2])
    line = lines.get(dotted) or lines.get(".".join(parts[:1]))
    if error["type"] == "value_error":  # a validator of ours, which names its fields itself
        message = str(error["ctx"]["error"])
        named = [name for name in all_fields() if name in message]
        line = line or next((lines[name] for name in named if name in lines), None)
        return Mistake(dotted, message, line)
    if error["type"] == "extra_forbidden":
        return Mistake(dotted, _unknown_key(dotted), line)
    expected = all_fields()[dotted].expected if len(parts) > 1 else f"a section, [{dotted}]"
    return Mistake(dotted, f"{_show(error['input'])} given, expected {expected}", line)


def _concept_mistake(error: Any, parts: Sequence[str], lines: Mapping[str, int]) -> Mistake:
    """Words one error within the list of concepts, counted from 1."""
    line = lines.get("concepts")
    if len(parts) == 1:
        return Mistake("concepts", "expected a list of [[concepts]] tables", line)
    place = f"concepts {int(parts[1]) + 1}"
    if len(parts) == 2:
        return Mistake(place, "expected a [[concepts]] table", line)
    field = concept_fields().get(parts[2])
    if field is None:
        return Mistake(f"{place}.{parts[2]}", "there is no such field", line)
    given = "nothing" if error["type"] == "missing" else _show(error["input"])
    return Mistake(f"{place}.{parts[2]}", f"{given} given, expected {field.expected}", line)


def _contradictions(
    tree: Mapping[str, Any], error: ValidationError, lines: Mapping[str, int]
) -> list[Mistake]:
    """What is contradictory among the fields that are well by themselves.

    pydantic compares fields only when each of them is valid, so the others are left out here.
    """
    wrong = {tuple(str(part) for part in item["loc"][:2]) for item in error.errors()}
    if any(item["type"] == "value_error" for item in error.errors()):
        return []
    rest: dict[str, Any] = {
        section: {name: value for name, value in fields.items() if (section, name) not in wrong}
        for section, fields in tree.items()
        if (section,) not in wrong and isinstance(fields, Mapping)
    }
    if not any(place[0] == "concepts" for place in wrong):
        rest["concepts"] = tree.get("concepts", [])
    try:
        _build(rest)
    except ValidationError as second:
        return [_mistake(item, lines) for item in second.errors()]
    return []


def _unknown_key(dotted: str) -> str:
    near = " or ".join(nearest(dotted))
    return "there is no such field" + (f"; did you mean {near}?" if near else "")


def _show(value: object) -> str:
    """A value as it stands in the file, on one line and cut."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}.get(text, text)
    return _on_one_line(text if len(text) <= 60 else text[:57] + "…")


def _on_one_line(text: str) -> str:
    """A text with what is invisible or turns the writing round escaped."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _parse_reason(error: ParseError) -> str:
    reason = re.sub(r" at (line \d+ col \d+|end of file)", "", str(error))
    unfinished = ("end of file", r"character: '\n'", r"character: '\x00'")
    return "the line is not complete" if reason.endswith(unfinished) else reason


def _twice(text: str, error: Exception) -> list[Mistake]:
    """The names that occur twice, with both lines, if that is what the parser complains about."""
    first: dict[str, int] = {}
    mistakes: list[Mistake] = []
    for dotted, line in _key_lines(text) if "already exists" in str(error) else ():
        if dotted in first:
            mistakes.append(Mistake(dotted, f"given already in line {first[dotted]}", line))
        first.setdefault(dotted, line)
    return mistakes


def _key_lines(text: str) -> list[tuple[str, int]]:
    """The sections and keys of a TOML text with their line numbers, from 1."""
    blank = re.compile(r'("""|\'\'\').*?\1', re.DOTALL)
    text = blank.sub(lambda match: '""' + "\n" * match.group().count("\n"), text)
    found: list[tuple[str, int]] = []
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        # Each pattern can match in one way only, or a line of spaces would take minutes.
        line = line.strip()
        if header := re.match(r"\[+([^\[\]#=]+)\]", line):
            section = _bare(header.group(1))
            found.append((section, number))
        elif key := re.match(r"([\w\-.\"' \t]+)=", line):
            dotted = _bare(key.group(1))
            found.append((f"{section}.{dotted}" if section else dotted, number))
    return found


def _bare(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _parse_value(dotted: str, text: str) -> object:
    """A value of ``--set``: TOML if the field could hold that, otherwise the text as it is."""
    types = all_fields()[dotted].types if dotted in all_fields() else frozenset[str]()
    if not text:
        return None if "null" in types else ""
    try:
        value = tomlkit.value(text).unwrap()
    except (TOMLKitError, ValueError, RecursionError):
        return text
    # A trigger word such as 1984 or true is a text all the same.
    return text if types == {"string"} and not isinstance(value, str) else value


def _item(value: object) -> Any:
    """A TOML value; a list of several texts gets one line for each."""
    if isinstance(value, list):
        array = tomlkit.array()
        array.extend(value)
        return array.multiline(len(value) > 1)
    return value


def _comment(container: Any, text: str) -> None:
    for line in textwrap.wrap(text, 96, break_long_words=False, break_on_hyphens=False):
        container.add(tomlkit.comment(line))
