"""What the commands answer: dataclasses, which are lines for people and JSON for the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

from trainer.untyped import is_mapping, is_sequence


class Answer:
    """The base of a dataclass that a command gives; most have ``lines`` as well."""

    unsaid: ClassVar[tuple[str, ...]] = ()  # names of the fields that are not in its JSON
    # Names of the properties that its JSON has beside the fields.
    beside: ClassVar[tuple[str, ...]] = ()

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints and the page gets: each field by its name, as `plain` has it."""
        own: list[str] = [one.name for one in fields(self)] if is_dataclass(self) else []
        names = [name for name in (*own, *self.beside) if name not in self.unsaid]
        return {name: plain(getattr(self, name)) for name in names}

    def lines(self) -> Iterable[str]:
        """What is printed for people."""
        raise NotImplementedError


def plain(value: Any) -> Any:
    """A value as JSON has it: paths and what has words of its own are texts, NaN is null."""
    if isinstance(value, Answer):
        return value.as_dict()
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if is_mapping(value):
        return {str(key): plain(one) for key, one in value.items()}
    if type(value).__str__ is not object.__str__:
        return str(value)
    if is_sequence(value):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
