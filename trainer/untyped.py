"""Narrowing of values from JSON, TOML and headers, of which nothing is known yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard


def is_table(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether it is an object of JSON or a table of TOML; both have texts as keys."""
    return isinstance(value, dict)


def as_table(value: object) -> dict[str, Any]:
    """The value where it is a table, otherwise an empty one."""
    return value if is_table(value) else {}


def as_tables(value: object) -> list[dict[str, Any]]:
    """The items of a list, each as a table; none where it is no list."""
    return [as_table(one) for one in as_list(value)]


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Like `is_table`, for a mapping of any type."""
    return isinstance(value, Mapping)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether it is a list of JSON or TOML."""
    return isinstance(value, list)


def as_list(value: object) -> list[Any]:
    """The value where it is a list, otherwise an empty one."""
    return value if is_list(value) else []


def is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether it is a list, or the tuple that a list was before it was written."""
    return isinstance(value, (list, tuple))
