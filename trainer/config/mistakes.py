"""What is wrong with a configuration: each mistake with its field, its value, what is expected."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomli
from pydantic import ValidationError

from trainer.config.fields import all_fields, concept_fields, nearest
from trainer.config.schema import Contradiction
from trainer.errors import UserError

HINT = "Every field is explained in docs/configuration.md."
_NO_TEXT = "this is not valid text: it has bytes that are no UTF-8"
MAX_SHOWN = 100  # mistakes; more of them mean that the file is something else


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with a configuration."""

    field: str  # dotted name; empty where the whole is meant
    message: str  # what was given and what is expected, without the field's name
    line: int | None = None  # where in the file, counted from 1; None if it came from elsewhere
    # Those that contradict each other; empty for a mistake of one field.
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return place + (f"{on_one_line(self.field)}: " if self.field else "") + self.message


class ConfigError(UserError):
    """All mistakes of one configuration; `mistakes` is for showing each beside its field."""

    def __init__(self, source: str, mistakes: Sequence[Mistake], hint: str = HINT) -> None:
        self.mistakes = tuple(mistakes)
        start = source or "the configuration"
        lines = [str(mistake) for mistake in self.mistakes[:MAX_SHOWN]]
        if len(self.mistakes) == 1:
            super().__init__(f"{start}: {lines[0]}", hint)
        else:
            count = f"{'more than ' * (len(self.mistakes) > MAX_SHOWN)}{len(lines)}"
            listed = "\n".join(f"  {line}" for line in lines)
            super().__init__(f"{start} has {count} mistakes:\n{listed}", hint)


_TOML_MISTAKES = (
    (
        re.compile(
            r'"(?:[^"\\]|\\[btnfr"\\])*\\(?:[^btnfr"\\uU]|u(?![\da-fA-F]{4})|U(?![\da-fA-F]{8}))'
        ),
        "a \\ in double quotes begins a sign such as \\n: write paths with / or in single quotes",
    ),
    (re.compile("[“”„‘’«»]"), 'curly quotes begin no text: write straight ones, "like this"'),
    (
        re.compile(r"=\s*(?:True|TRUE|False|FALSE|[Yy]es|[Nn]o|[Oo]n|[Oo]ff|None|null)\b"),
        "write true or false in small letters, and leave a line out for what has no value",
    ),
    (re.compile(r"^\s*\w+\s*:"), "write = in place of the colon"),
    (re.compile(r"=\s*[^\W\d]"), 'text needs quotes: key = "value"'),
)


def toml_reason(error: tomli.TOMLDecodeError) -> str:
    """What is wrong with a line of TOML, in plain words where it is a common mistake."""
    line = error.doc.split("\n")[error.lineno - 1]
    if reason := next((reason for mark, reason in _TOML_MISTAKES if mark.search(line)), ""):
        return reason
    ended = error.doc[error.pos : error.pos + 1] in ("", "\n")
    return "the line is not complete" if ended else error.msg


def explain(error: ValidationError, lines: Mapping[str, int]) -> list[Mistake]:
    """What pydantic found, in our words.

    Args:
        lines: line numbers of dotted names.
    """
    return [_mistake(item, lines) for item in error.errors()[: MAX_SHOWN + 1]]


def _mistake(error: Any, lines: Mapping[str, int]) -> Mistake:
    """Words one error of pydantic's."""
    parts = [str(part) for part in error["loc"]]
    dotted, expected = _place(parts)
    line = lines.get(dotted) or lines.get(parts[0] if parts else "")
    match error["type"]:
        case "value_error":
            found: ValueError = error["ctx"]["error"]  # of one field, or a contradiction of several
            fields = found.fields if isinstance(found, Contradiction) else ()
            line = line or next((lines[name] for name in fields if name in lines), None)
            return Mistake(dotted, str(found), line, fields)
        case "extra_forbidden":
            return Mistake(dotted, unknown_key(dotted), line)
        case "string_unicode":
            return Mistake(dotted, _NO_TEXT, line)
        case kind:
            given = "nothing" if kind == "missing" else shown_value(error["input"])
            return Mistake(dotted, f"{given} given, expected {expected}", line)


def _place(parts: Sequence[str]) -> tuple[str, str]:
    """What an error is about by name, and what is expected there; concepts are counted from 1."""
    if parts[:1] != ["concepts"]:
        field, dotted = all_fields().get(".".join(parts[:2])), ".".join(parts[:2])
        return dotted, field.expected if field else f"a section, [{dotted}]"
    if len(parts) == 1:
        return "concepts", "a list of [[concepts]] tables"
    place = f"concepts {int(parts[1]) + 1}"
    field = concept_fields().get("".join(parts[2:3]))
    dotted = ".".join([place, *parts[2:3]])
    return dotted, field.expected if field else "a [[concepts]] table"


def unknown_key(dotted: str) -> str:
    """The message about a name that no field has."""
    near = " or ".join(nearest(dotted))
    return "there is no such field" + (f"; did you mean {near}?" if near else "")


def shown_value(value: object) -> str:
    """A value as it stands in the file, on one line and cut."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return "a value of thousands of digits or brackets"
    text = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}.get(text, text)
    return on_one_line(text if len(text) <= 60 else text[:57] + "…")


def on_one_line(text: str) -> str:
    """A text with what is invisible or turns the writing round escaped."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
