"""The bleed board: trigger, class word, neighbour and unrelated thing, at several strengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from trainer.data.captions import without_word
from trainer.evaluation.prompts import PromptSets
from trainer.generation.sampling import Drawing, draw
from trainer.lora.attach import set_strength
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.runs.atomic import replacing, write_json

COLUMNS = (("base model", 0.0), ("half strength", 0.5), ("full strength", 1.0))
REMOVED = "trigger removed"
_GAP, _LEFT, _LINE = 8, 190, 16
_SHOWN = 128  # pixels at least, so that the pictures of small models can be made out


@dataclass(frozen=True)
class BoardRow:
    """A prompt and what it is on the board for."""

    kind: str
    prompt: str


@dataclass(frozen=True)
class Cell:
    """What one cell shows; no pictures where there is nothing to show."""

    row: str
    column: str
    prompt: str
    strength: float
    seeds: tuple[int, ...]


def board_rows(prompts: PromptSets) -> list[BoardRow]:
    """The first prompt of each kind."""
    kinds = {
        "trigger": prompts.trigger,
        "class word": prompts.class_word,
        "neighbour": prompts.neighbours,
        "unrelated": prompts.unrelated,
    }
    return [BoardRow(kind, texts[0]) for kind, texts in kinds.items() if texts]


def draw_board(
    base: BaseModel,
    adapter: str,
    rows: Sequence[BoardRow],
    trigger: str,
    device: Device,
    path: Path,
    *,
    count: int,
    side: int,
    seed: int = 1,
    inference_steps: int = 15,
    guidance: float = 4.0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Path:
    """Draws the board into a PNG file, and what it shows into ``board.json`` beside it.

    The same seeds in every cell. The last column takes the trigger out of the trigger's prompt;
    the other prompts have none.

    Args:
        adapter: name of the adapter on the base; at full strength again afterwards.
        count: pictures in a cell.
        side: of a picture, in pixels.
    """
    seeds = tuple(seed + number for number in range(count))
    cells: list[Cell] = []
    pictures: dict[tuple[str, str], list[Image.Image]] = {}
    wanted = [(row, name, row.prompt, strength) for name, strength in COLUMNS for row in rows]
    wanted += [
        (row, REMOVED, without_word(row.prompt, trigger), 1.0)
        for row in rows
        if row.kind == "trigger"
    ]
    try:
        for done, (row, column, prompt, strength) in enumerate(wanted):
            progress(done, len(wanted))
            set_strength(base, adapter, strength)
            drawings = [
                Drawing(prompt, "", number, side, side, inference_steps, guidance)
                for number in seeds
            ]
            pictures[row.kind, column] = draw(base, drawings, device)
            cells.append(Cell(row.kind, column, prompt, strength, seeds))
    finally:
        set_strength(base, adapter, 1.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        _sheet(rows, pictures, count, side).save(temporary, format="PNG")
    write_json(path.with_suffix(".json"), {"cells": [asdict(cell) for cell in cells]})
    return path


def _sheet(
    rows: Sequence[BoardRow],
    pictures: dict[tuple[str, str], list[Image.Image]],
    count: int,
    side: int,
) -> Image.Image:
    scale = max(1, _SHOWN // side)
    tile = side * scale
    columns = [*(name for name, _ in COLUMNS), REMOVED]
    cell = count * (tile + 2) + _GAP
    size = (_LEFT + len(columns) * cell, 2 * _LINE + _GAP + len(rows) * (tile + _GAP))
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, name in enumerate(columns):
        pen.text((_LEFT + place * cell, _GAP), name, fill="black", font=font)
    for number, row in enumerate(rows):
        top = 2 * _LINE + number * (tile + _GAP)
        lines = [row.kind, *_wrapped(row.prompt or "(empty prompt)", 26)]
        for line, text in enumerate(lines[: tile // _LINE]):
            pen.text(
                (_GAP, top + line * _LINE), text, fill="black" if not line else "#555", font=font
            )
        for place, name in enumerate(columns):
            for nth, picture in enumerate(pictures.get((row.kind, name), [])):
                shown = picture.resize((tile, tile), Image.Resampling.NEAREST)
                sheet.paste(shown, (_LEFT + place * cell + nth * (tile + 2), top))
    return sheet


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many characters; a longer word is cut."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > width and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word[:width]}".strip()
    return lines
