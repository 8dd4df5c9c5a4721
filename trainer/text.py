"""How durations, numbers of things and what libraries say are written, everywhere."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence


def duration(seconds: float, *, rough: bool = False) -> str:
    """``48 s``, ``5 min 20 s`` or ``2 h 05 min``; rough: ``50 s``, ``5 min`` or ``2 h 10 min``.

    Args:
        rough: no more exact than a guess may be: to 5 s, to a minute, from an hour on to 10 min.
    """
    if rough:
        unit = 5 if seconds < 55 else 60 if seconds < 3570 else 600
        whole = max(5, round(seconds / unit) * unit)
    else:
        whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    large, small, names = whole // 60, whole % 60, ("min", "s")
    if whole >= 3600:
        large, small, names = whole // 3600, whole % 3600 // 60, ("h", "min")
    if rough and not small:
        return f"{large} {names[0]}"
    return f"{large} {names[0]} {small:02d} {names[1]}"


def counted(number: int, noun: str) -> str:
    """``1 picture``, ``1,200 pictures``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def aligned(rows: Sequence[Sequence[str]], *, right: bool = False) -> list[str]:
    """A table in columns as wide as their widest cell, which stands on the left or on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    put = str.rjust if right else str.ljust
    return ["  ".join(map(put, row, widths)).rstrip() for row in rows]


def first_line(error: Exception, most: int = 300) -> str:
    """What a library says of an error, in short."""
    return (str(error) or type(error).__name__).strip().splitlines()[0][:most]


def capital(text: str) -> str:
    """The same, as the beginning of a line."""
    return text[:1].upper() + text[1:]


def numbered(stem: str) -> Iterator[str]:
    """``cat``, ``cat-2``, ``cat-3`` …: names to try until one is free."""
    yield stem
    yield from (f"{stem}-{number}" for number in itertools.count(2))


def how_often(times: float) -> str:
    """``once``, ``240 times``, ``0.5 times``."""
    if times >= 1.5:
        return f"{times:,.0f} times"
    return "once" if times >= 0.75 else f"{times:.1g} times"


def name_subject(trigger: str, class_word: str) -> str:
    """Trigger word and class word, as a prompt calls the subject; a class word it has comes once.

    "ohwx" and "man" are "ohwx man", and so are "ohwx man" and "man".
    """
    whole = rf"(?<!\w){re.escape(class_word)}(?!\w)"
    if class_word and re.search(whole, trigger, re.IGNORECASE):
        return trigger
    return f"{trigger} {class_word}".strip()


_OBEYED = (
    *range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0),  # control characters but the newline
    *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x61C,  # what reorders text
    *range(0xD800, 0xE000),  # bytes that are no UTF-8, which cannot be printed
)  # fmt: skip
_SHOWN = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _OBEYED}


def printable(text: str) -> str:
    r"""A text with what a terminal would obey made visible, as ``\x1b``; lines and tabs stay."""
    return text.translate(_SHOWN)
