"""The preview board of a run: prompts down, steps across, pictures as data URIs.

PNG files are taken byte for byte; no picture is opened.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.runs.layout import RunFolder
from trainer.untyped import is_list, is_table

_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_STEPS = 8
_MOST_BYTES = 24_000_000  # of pictures in one page


@dataclass(frozen=True)
class PreviewPicture:
    """One preview picture."""

    step: int  # after how many optimizer steps
    seed: int  # of its noise
    strength: float  # of the adapter; 0 is the base model alone
    uri: str  # ``data:image/png;base64,…``
    # width, height: in pixels.
    width: int
    height: int


@dataclass(frozen=True)
class Row:
    """All pictures of one prompt: one list for each step of the board, in the order of seeds."""

    prompt: str
    cells: tuple[tuple[PreviewPicture, ...], ...]


@dataclass(frozen=True)
class Board:
    """What the page shows of the previews."""

    steps: tuple[int, ...]  # the columns
    skipped: int  # how many steps with previews are left out to keep the page small
    rows: tuple[Row, ...]  # one for each prompt


def read_board(run: RunFolder) -> Board:
    """Reads the previews of a run; previews that cannot be read are left out."""
    every = [step for step in run.preview_steps() if preview_records(run, step)]
    steps = spread(every, _MOST_STEPS)
    while len(steps) > 2 and sum(_size(run, step) for step in steps) > _MOST_BYTES:
        steps = spread(steps, len(steps) - 1)
    found: dict[str, dict[int, list[PreviewPicture]]] = {}
    for step in steps:
        for record in preview_records(run, step):
            picture = _picture(run.preview(step), step, record)
            if picture is not None:
                found.setdefault(str(record["prompt"]), {}).setdefault(step, []).append(picture)
    rows = tuple(
        Row(prompt, tuple(tuple(cells.get(step, ())) for step in steps))
        for prompt, cells in found.items()
    )
    return Board(tuple(steps), len(every) - len(steps), rows)


def spread(steps: Sequence[int], most: int) -> list[int]:
    """At most `most` of the steps, evenly, the first and the last always among them."""
    if len(steps) <= most:
        return list(steps)
    last = len(steps) - 1
    return [steps[round(number * last / (most - 1))] for number in range(most)]


def preview_records(run: RunFolder, step: int) -> list[dict[str, Any]]:
    """What ``prompts.json`` says of each picture of one step; none if it cannot be read."""
    try:
        records = json.loads((run.preview(step) / "prompts.json").read_bytes())
    except (OSError, ValueError):
        return []
    if not is_list(records):
        return []
    return [item for item in records if is_table(item) and {"file", "prompt"} <= set(item)]


def _size(run: RunFolder, step: int) -> int:
    return sum(path.stat().st_size for path in run.preview(step).glob("*.png"))


def _picture(folder: Path, step: int, record: dict[str, Any]) -> PreviewPicture | None:
    data = read_png(folder / Path(str(record["file"])).name)  # never from another folder
    try:
        seed, strength = int(record.get("seed", 0)), float(record.get("strength", 1))
    except (ValueError, TypeError):
        return None
    if data is None:
        return None
    # Width and height lie at fixed places of every PNG's first chunk.
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return PreviewPicture(step, seed, strength, data_uri(data), width, height)


def read_png(path: Path, most: int = _MOST_BYTES) -> bytes | None:
    """A PNG file as it is; None where it is none, too large, or can't be read."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if data.startswith(_PNG) and 24 <= len(data) <= most else None


def data_uri(png: bytes) -> str:
    """A picture within a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
