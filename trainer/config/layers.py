"""Settings of single layers: lines such as ``unet.up_blocks.* = 32``; the last that fits counts."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def number_by_pattern(line: str) -> tuple[str, float]:
    """The pattern and the number of a line.

    Raises:
        ValueError: it is not of this form.
    """
    pattern, equals, number = (part.strip() for part in line.rpartition("="))
    try:
        if pattern and equals:
            return pattern, float(number)
    except ValueError:
        pass
    raise ValueError(f"{line!r} is not PATTERN = NUMBER, such as unet.up_blocks.* = 2")


def number_for(layer: str, lines: Iterable[str], otherwise: float) -> float:
    """What the lines say of a layer, such as ``unet.mid_block.attentions.0.proj_in``."""
    fitting = [
        number for pattern, number in map(number_by_pattern, lines) if fnmatchcase(layer, pattern)
    ]
    return fitting[-1] if fitting else otherwise
