"""What becomes of another trainer's settings: taken, differing here, without a counterpart.

The tables beside this file (``kohya.tsv`` and the like) say for each setting what it is there
unless given, and what it is here: a field; a field behind ``!``, which means the opposite;
``done``, which is always so here or the machine's own affair; ``@rule`` and the fields that a rule
of `trainer.config.moving.rules` sets; or nothing, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from trainer.config.fields import ConfigField, all_fields, shown
from trainer.config.file import ConfigError, with_values
from trainer.config.mistakes import shown_value
from trainer.config.moving.theirs import NAMES, Theirs, TheirSet, is_on, number
from trainer.config.schema import TrainingConfig
from trainer.untyped import is_list, is_sequence

_SAME = {
    "no": "fp32", "float": "fp32", "float32": "fp32", "float_32": "fp32", "tfloat_32": "fp32",
    "float16": "fp16", "float_16": "fp16", "bfloat16": "bf16", "bfloat_16": "bf16",
}  # fmt: skip
"""Names of number formats."""
_UNKNOWN = "Not known here."


class TheirSetting(NamedTuple):
    """A line of a table; see above."""

    key: str
    unless_given: str
    field: str
    note: str


@lru_cache(maxsize=3)
def table(trainer: str) -> Mapping[str, TheirSetting]:
    """The settings of a trainer by name."""
    text = (Path(__file__).parent / f"{trainer}.tsv").read_text(encoding="utf-8")
    rows = [TheirSetting(*line.split("\t")) for line in text.splitlines()[1:]]
    return {row.key: row for row in rows}


@dataclass(frozen=True)
class Taken:
    """A setting that has a counterpart; not `given`: what the trainer does without it."""

    key: str
    theirs: Any
    field: str
    ours: Any
    note: str = ""
    given: bool = True

    def __str__(self) -> str:
        there = "" if self.given else " by default there"
        text = f"{self.key} = {shown_value(self.theirs)}{there}: {self.field} = {shown(self.ours)}."
        return f"{text} {self.note}".strip()


@dataclass(frozen=True)
class Lost:
    """A setting that has no counterpart, and why."""

    key: str
    theirs: Any
    reason: str

    @property
    def setting(self) -> str:
        """Name and value, where it has one."""
        return self.key if self.theirs is None else f"{self.key} = {shown_value(self.theirs)}"


class SetFacts(NamedTuple):
    """An image set on this machine, as the other trainer reads it."""

    pictures: int
    repeated: int  # pictures with their repeats
    folders: tuple[str, ...]  # their names
    left_out: tuple[str, ...] = ()  # names of the pictures that are trained here alone


Look = Callable[[Path, str], SetFacts | None]
"""What is known of a folder; by which pictures below it count, see `TheirSet.reads`."""


@dataclass
class Moving:
    """The settings while they are brought over; `rules` fill it."""

    theirs: Theirs
    look: Look
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    taken: list[Taken] = field(default_factory=list[Taken])
    lost: list[Lost] = field(default_factory=list[Lost])
    needless: list[str] = field(default_factory=list[str])
    facts: dict[str, tuple[str, Any, bool]] = field(
        default_factory=dict[str, tuple[str, Any, bool]]
    )

    def known(self, one: TheirSet) -> SetFacts | None:
        """What a folder of theirs holds, where it is on this machine."""
        return self.look(Path(one.path), one.reads)

    def take(
        self, key: str, theirs: Any, name: str, ours: Any, note: str = "", given: bool = True
    ) -> None:
        """Sets a field; a later one of the same field wins."""
        self.taken = [one for one in self.taken if one.field != name]
        self.values[name] = ours
        if given or ours != all_fields()[name].default:
            self.taken.append(Taken(key, theirs, name, ours, note, given))

    def lose(self, key: str, theirs: Any, reason: str) -> None:
        """Says that a setting has no counterpart."""
        self.lost.append(Lost(key, theirs, reason))

    def drop(self, *names: str) -> None:
        """Takes fields back; they are as they are here."""
        self.taken = [one for one in self.taken if one.field not in names]
        for name in names:
            self.values.pop(name, None)

    def settle(self, name: str, field: str, ours: Any, note: str = "") -> None:
        """Sets a field by what a rule's setting is."""
        key, theirs, given = self.facts[name]
        self.take(key, theirs, field, ours, note, given)

    def miss(self, name: str, reason: str) -> None:
        """Says that a rule's setting has no counterpart, where it is given."""
        if self.was_given(name):
            self.lose(*self.facts[name][:2], reason)

    def was_given(self, name: str) -> bool:
        """Whether a rule's setting stands in the file."""
        return name in self.facts and self.facts[name][2]

    def fact(self, name: str) -> Any:
        """What a rule's setting is; None where it is not given and has no value without."""
        return self.facts[name][1] if name in self.facts else None


@dataclass(frozen=True)
class Moved:
    """Another trainer's settings as a configuration, with what became of each."""

    trainer: str
    config: TrainingConfig
    taken: tuple[Taken, ...]
    lost: tuple[Lost, ...]
    needless: tuple[str, ...]  # settings that are always so here, or nothing of the training's

    def groups(self) -> list[tuple[str, list[str]]]:
        """Headings and sentences, for people."""
        name = NAMES[self.trainer]
        plain = [str(one) for one in self.taken if one.given and not one.note]
        noted = [str(one) for one in self.taken if one.given and one.note]
        assumed = [str(one) for one in self.taken if not one.given]
        needless = [f"{', '.join(self.needless)}."] if self.needless else []
        groups = [
            (f"Taken from settings of {name}", plain),
            ("Taken, and a little different here", noted),
            (f"Not in the file, and set as {name} does then", assumed),
            ("Without a counterpart here", self._losses()),
            ("Always so here, or not needed", needless),
        ]
        return [(heading, lines) for heading, lines in groups if lines]

    def _losses(self) -> list[str]:
        """One sentence for each reason, what is not known at the end."""
        by_reason: dict[str, list[Lost]] = {}
        for one in self.lost:
            by_reason.setdefault(one.reason, []).append(one)
        unknown = by_reason.pop(_UNKNOWN, [])
        lines = [", ".join(one.setting for one in same) for same in by_reason.values()]
        lines = [f"{line}: {why}" for line, why in zip(lines, by_reason, strict=True)]
        return [*lines, *([f"{', '.join(one.key for one in unknown)}: {_UNKNOWN}"] * bool(unknown))]

    def lines(self) -> list[str]:
        """The same for a terminal."""
        return [
            line
            for heading, lines in self.groups()
            for line in (f"{heading}:", *(f"  {line}" for line in lines))
        ]


def move(theirs: Theirs, look: Look = lambda path, reads: None) -> Moved:
    """Brings settings over.

    Args:
        look: what is known of an image set; None where it is not here.
    """
    from trainer.config.moving.rules import finish  # which needs this module's classes

    moving = Moving(theirs, look)
    for one in theirs.lost:
        moving.lose(*one)
    rows = table(theirs.trainer)
    for row in rows.values():
        _apply(moving, row)
    for key, value in theirs.values.items():
        if key not in rows and is_on(value):
            moving.lose(key, value, _UNKNOWN)
    finish(moving)
    return _validated(moving)


def _apply(moving: Moving, row: TheirSetting) -> None:
    value = moving.theirs.values.get(row.key)
    given = value is not None and value != "" and value != []
    if not given:
        if not row.unless_given or row.field in ("", "done"):
            return
        value = row.unless_given
    if row.field == "done":
        moving.needless.append(row.key)
    elif row.field.startswith("@"):
        rule = row.field[1:].partition(" ")[0]
        if given or rule not in moving.facts:
            moving.facts[rule] = (row.key, value, given)
    elif not row.field:
        if is_on(value) and not _alike(value, row.unless_given):
            moving.lose(row.key, value, row.note)
    else:
        name = row.field.lstrip("!")
        ours = fitting(all_fields()[name], value)
        if ours is None:
            if is_on(value):
                moving.lose(row.key, value, f"{name} takes {all_fields()[name].expected}.")
        else:
            ours = not ours if row.field.startswith("!") else ours
            # What is as it is here anyway needs no word.
            noted = ours != all_fields()[name].default and given != (name == "adapter.alpha")
            moving.take(row.key, value, name, ours, row.note if noted else "", given)


def _alike(value: Any, unless_given: str) -> bool:
    first, second = number(value), number(unless_given)
    if first is not None and second is not None:
        return first == second
    return str(value).casefold().replace(" ", "") == unless_given.casefold()


def fitting(field: ConfigField, value: Any) -> Any:
    """A value in the type of a field; None where it can't be that."""
    if "boolean" in field.types:
        return is_on(value)
    if field.choices:
        text = str(value).strip().casefold()
        text = _SAME.get(text, text)
        return text if text in field.choices else None
    if "integer" in field.types or "number" in field.types:
        given = number(value)
        if given is None or given != given:
            return None
        if "number" in field.types:
            return given
        return int(given) if abs(given) < 2**53 and given == int(given) else None
    if "array" in field.types:
        return list(value) if is_sequence(value) else [str(value)]
    return None if is_list(value) else str(value)


def _validated(moving: Moving) -> Moved:
    """The configuration; what it does not take has no counterpart."""
    base = TrainingConfig()
    for _ in range(3):
        try:
            config = with_values(base, moving.values)
            break
        except ConfigError as error:
            _take_back(moving, error)
    else:  # contradictions that no single field explains
        config = base
        for one in moving.taken:
            moving.lose(one.key, one.theirs, "It does not go with the other settings.")
        moving.taken.clear()
    return Moved(
        moving.theirs.trainer, config,
        tuple(moving.taken), tuple(moving.lost), tuple(dict.fromkeys(moving.needless)),
    )  # fmt: skip


def _take_back(moving: Moving, error: ConfigError) -> None:
    for mistake in error.mistakes:
        names = [name for name in mistake.fields or (mistake.field,) if name in moving.values]
        if mistake.field.startswith("concepts") and "concepts" in moving.values:
            names = ["concepts"]
        for name in names:
            for one in (one for one in moving.taken if one.field == name):
                moving.lose(one.key, one.theirs, f"{name}: {mistake.message}.")
        moving.drop(*names)


def files_named(paths: Iterable[str]) -> str:
    """Folders in a sentence."""
    return ", ".join(Path(path.replace("\\", "/")).name or path for path in paths)
