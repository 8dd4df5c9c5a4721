"""The configuration as a TOML file, and as dotted ``section.key`` values.

Every way in (file, ``--set``, presets, the page's form) ends in `validate`, which gives all
mistakes at once, each with its field, its value and what is expected instead.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli
import tomlkit
from pydantic import ValidationError
from tomlkit.exceptions import TOMLKitError

from trainer.config.fields import ConfigField, all_fields, concept_fields, sections
from trainer.config.mistakes import (
    HINT,
    ConfigError,
    Mistake,
    explain,
    shown_value,
    toml_reason,
    unknown_key,
)
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.plain_files import open_file
from trainer.runs.atomic import write_text
from trainer.untyped import as_table, is_list, is_mapping, is_table

MAX_FILE_BYTES = 200_000  # ten times the length of a file with every field explained
_TOML = "The file must be TOML: [section] lines, and key = value lines below them."


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
        if field := all_fields().get(dotted):
            tree[field.section][field.key] = value
        elif dotted == "concepts":
            tree["concepts"] = value
        else:
            unknown.append(Mistake(dotted, unknown_key(dotted)))
    return validate(tree, source, unknown=unknown)


def apply_overrides(config: TrainingConfig, overrides: Sequence[str]) -> TrainingConfig:
    """Applies ``section.key=value`` texts, as ``--set`` takes them.

    Values are TOML; what is not TOML is taken as text, so quotes are seldom needed. Nothing after
    the ``=`` empties an optional field.

    Raises:
        ConfigError: for unknown names and unfit values, all of them.
    """
    parts = [override.partition("=") for override in overrides]
    malformed = [text for text, equals, _ in parts if not equals]
    if malformed:
        message = "{} is not of the form section.key=value"
        mistakes = [Mistake("", message.format(shown_value(text))) for text in malformed]
        raise ConfigError("--set", mistakes)
    values = {
        dotted.strip(): _parse_value(dotted.strip(), text.strip()) for dotted, _, text in parts
    }
    return with_values(config, values, "--set")


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
    return text if types == frozenset({"string"}) and not isinstance(value, str) else value


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
    lines = lines or {}
    mistakes = [*unknown]
    try:
        config = TrainingConfig.model_validate(tree)
    except ValidationError as error:
        mistakes += explain(error, lines)
        mistakes += _contradictions(tree, error, lines)
    else:
        if not mistakes:
            return config
    raise ConfigError(source, sorted(mistakes, key=lambda mistake: mistake.line or 0))


def _contradictions(
    tree: Mapping[str, Any], error: ValidationError, lines: Mapping[str, int]
) -> list[Mistake]:
    """What is contradictory among the fields that are well by themselves.

    pydantic compares fields only when each of them is valid, so the others are left out here.
    """
    if any(item["type"] == "value_error" for item in error.errors()):
        return []
    locations = [[str(part) for part in item["loc"]] for item in error.errors()]
    # Section and key; the key is empty for what is no section.
    wrong = {(parts[0], parts[1] if len(parts) > 1 else "") for parts in locations}
    wrong |= {(section, "") for section, _ in wrong if section not in sections()}
    rest = {
        section: {key: value for key, value in fields.items() if (section, key) not in wrong}
        if is_mapping(fields)
        else fields
        for section, fields in tree.items()
        if (section, "") not in wrong
    }
    try:
        TrainingConfig.model_validate(rest)
    except ValidationError as second:
        return explain(second, lines)
    return []


# ------------------------------------------------------------------------------ writing


def write_config(path: Path, config: TrainingConfig) -> None:
    """Writes every field, with its description as a comment above it."""
    write_text(path, format_config(config))


def format_config(config: TrainingConfig) -> str:
    """The text of a complete configuration file; `parse_config` gives back an equal one."""
    tree = config.model_dump(mode="json")
    blocks = ["# Configuration of a Rarebit run. Lines without effect start with #."]
    for name, section in sections().items():
        fields = [field for field in all_fields().values() if field.section == name]
        title = _comment(" ".join((section.__doc__ or "").split("\n\n")[0].split()))
        blocks.append(f"{title}\n[{name}]\n{_lines(fields[0], tree[name])}")
        blocks += [_lines(field, tree[name]) for field in fields[1:]]
    for concept in tree["concepts"]:
        first, *rest = [_lines(field, concept) for field in concept_fields().values()]
        blocks += [f"[[concepts]]\n{first}", *rest]
    return "\n\n".join(blocks) + "\n"


def _lines(field: ConfigField, values: Mapping[str, Any]) -> str:
    value = values[field.key]
    line = f"# {field.key} = (empty)" if value is None else f"{field.key} = {_toml(value)}"
    return f"{_comment(field.description)}\n{line}"


def _toml(value: Any) -> str:
    """A TOML value; a list of several texts gets one line for each."""
    if is_list(value) and len(value) > 1:
        return "\n".join(["[", *(f"    {_toml(item)}," for item in value), "]"])
    return tomlkit.item(value).as_string()


def _comment(text: str) -> str:
    return textwrap.fill(
        text,
        98,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


# ------------------------------------------------------------------------------ reading


def read_config(path: Path, *, of_run: bool = False) -> TrainingConfig:
    """Reads a configuration file; fields that it leaves out take their defaults.

    Args:
        of_run: it is the file of a run folder, perhaps of an earlier version: what it leaves out
            did not exist, and `trainer.config.file` knows what was done instead.

    Raises:
        UserError: the file is missing or unreadable; a `ConfigError` for what is wrong inside it,
            all mistakes at once with their line numbers.
    """
    return parse_config(read_text(path), str(path), of_run=of_run)


def read_text(path: Path) -> str:
    """The text of a file of settings.

    Raises:
        UserError: it is missing, unreadable, too large or not UTF-8.
    """
    try:
        with open_file(path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}", HINT) from error
    if len(data) > MAX_FILE_BYTES:
        limit = f"{MAX_FILE_BYTES // 1000} KB"
        raise UserError(f"{path} is over {limit}, too large for a configuration", HINT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        mistake = Mistake("", "this is not UTF-8 text", line)
        raise ConfigError(str(path), [mistake], "Save the file as UTF-8.") from error


def parse_config(text: str, source: str = "", *, of_run: bool = False) -> TrainingConfig:
    """Reads the text of a configuration file; see `read_config`."""
    try:
        tree = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        mistake = _twice(text, error.lineno) or Mistake("", toml_reason(error), error.lineno)
        raise ConfigError(source, [mistake], _TOML) from error
    except ValueError as error:
        raise ConfigError(
            source, [Mistake("", "a number has thousands of digits")], _TOML
        ) from error
    except RecursionError:
        raise ConfigError(source, [Mistake("", "lists nested too deeply")], _TOML) from None
    tree = as_it_began(tree) if of_run else tree
    try:
        return validate(tree, source, dict(reversed(_key_lines(text))))
    except ConfigError as error:
        raise _of_another_trainer(tree, source) or error from None


def _of_another_trainer(tree: Mapping[str, Any], source: str) -> UserError | None:
    """What to do with settings that another trainer wrote; None where they are none."""
    from trainer.config.moving.theirs import NAMES, trainer_of  # which reads with this module

    if (trainer := trainer_of(tree)) is None:
        return None
    return UserError(
        f"{source} has settings of {NAMES[trainer]}.",
        f"Make ours of them: python launch.py import {source} --out FILE.toml",
    )


def _twice(text: str, wrong: int) -> Mistake | None:
    """That the name in a line stands in an earlier one too, where that is so."""
    first: dict[str, int] = {}
    for dotted, line in _key_lines(text):
        if line == wrong and dotted in first:
            return Mistake(dotted, f"given already in line {first[dotted]}", line)
        first.setdefault(dotted, line)
    return None


def _key_lines(text: str) -> list[tuple[str, int]]:
    """The sections and keys of a TOML text with their line numbers, from 1."""
    texts = re.compile(r'("""|\'\'\').*?\1', re.DOTALL)
    text = texts.sub(lambda match: '""' + "\n" * match.group().count("\n"), text)
    found: list[tuple[str, int]] = []
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        # Each pattern can match in one way only, or a line of spaces would take minutes.
        line = line.strip()
        if header := re.match(r"\[+([^\[\]#=]+)\]", line):
            section = _bare(header.group(1))
            found.append((section, number))
        elif key := re.match(r"([\w\-.\"' \t]+)=", line):
            found.append((".".join(filter(None, (section, _bare(key.group(1))))), number))
    return found


def _bare(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


# ------------------------------------------------------------------------ runs of earlier versions


def as_it_began(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration with all that its version did without naming it.

    Args:
        tree: {section: {key: value}} as the run has it.
    """
    filled = {name: dict(values) if is_mapping(values) else values for name, values in tree.items()}
    _leave_out_warmup(filled)
    for field in all_fields().values():
        section = filled.setdefault(field.section, {})
        if "before" in field.schema and is_table(section):
            section.setdefault(field.key, field.schema["before"])
    return filled


def changes_since(tree: Mapping[str, Any], step: int, *, is_velocity: bool) -> list[str]:
    """What a run that goes on does otherwise than its version did, in sentences.

    Args:
        tree: as the run's checkpoint has it.
        step: steps done.
        is_velocity: the base model predicts velocity.
    """
    changes: list[str] = []
    debiased = as_table(tree.get("objective")).get("weighting") == "debiased"
    if is_velocity and debiased and "vae" not in as_table(tree.get("base")):
        changes.append(
            "This run began with an earlier version, in which noisy timesteps of a v-prediction "
            "model counted less than others; they count more now (see objective.weighting)."
        )
    optimizer, training = as_table(tree.get("optimizer")), as_table(tree.get("training"))
    warmup = optimizer.get("warmup", 0.0) * training.get("steps", 0)
    heeded = optimizer.get("schedule") != "constant"
    if heeded and step < warmup and not _has_cycles(optimizer):
        changes.append(
            "This run began with an earlier version and is in its warm-up, whose rate is now "
            "one step ahead."
        )
    return changes


def _has_cycles(optimizer: Mapping[str, Any]) -> bool:
    """Whether a run's version had schedules with cycles, and a warm-up before each of them."""
    return "schedule_cycles" in optimizer


def _leave_out_warmup(tree: dict[str, Any]) -> None:
    """A constant schedule did not heed the warm-up."""
    optimizer = as_table(tree.get("optimizer"))
    if optimizer.get("schedule") == "constant" and not _has_cycles(optimizer):
        tree["optimizer"] = {**optimizer, "warmup": 0.0}
