"""The bleed board: trigger, class word, neighbour and unrelated thing, at several strengths."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from trainer.data.captions import without_word
from trainer.evaluation.meters import MeterBench
from trainer.evaluation.pictorial import HOW
from trainer.evaluation.prompts import PromptSets
from trainer.events import Progress, no_progress
from trainer.generation.sampling import Drawing, draw
from trainer.lora.attach import set_strength
from trainer.runs.atomic import replacing, write_json

COLUMNS = (("base model", 0.0), ("half strength", 0.5), ("full strength", 1.0))
REMOVED = "trigger removed"
_GAP, _LEFT, _LINE = 8, 190, 16
_SHOWN = 128  # pixels at least, so that the pictures of small models can be made out


@dataclass(frozen=True)
class BoardCell:
    """What one cell of the board shows."""

    row: str
    column: str
    prompt: str
    strength: float = 1.0


def draw_board(
    bench: MeterBench, adapter: str, path: Path, count: int, side: int, progress: Progress
) -> None:
    """Draws the board into a PNG file, and what it shows into ``board.json`` beside it.

    One row for the first prompt of each kind, the same seeds in every cell. The last column takes
    the trigger out of the trigger's prompt; the other prompts have none.

    Args:
        adapter: name of the adapter on the base; at full strength again afterwards.
        count: pictures in a cell.
        side: of a picture, in pixels.
    """
    prompts = bench.prompts_by_trigger
    rows = board_rows(prompts)
    cells = [
        BoardCell(kind, name, prompt, strength)
        for name, strength in COLUMNS
        for kind, prompt in rows.items()
    ]
    for trigger in prompts:
        row = _row("trigger", trigger, prompts)
        cells.append(BoardCell(row, REMOVED, without_word(rows[row], trigger), 1.0))

    def put_on(cell: BoardCell) -> None:
        set_strength(bench.base, adapter, cell.strength)

    try:
        draw_cells(bench, cells, put_on, path, count, side, progress)
    finally:
        set_strength(bench.base, adapter, 1.0)


def board_rows(prompts: Mapping[str, PromptSets]) -> dict[str, str]:
    """The first prompt of each kind that there is, by the row's name.

    Args:
        prompts: of each concept, by its trigger word, which a row of several concepts names.
    """
    kinds: dict[str, Sequence[str]] = {}
    for trigger, one in prompts.items():
        kinds |= {_row("trigger", trigger, prompts): one.trigger}
        kinds |= {_row("class word", trigger, prompts): one.class_word}
    first = next(iter(prompts.values()))
    kinds |= {"neighbour": first.neighbours, "unrelated": first.unrelated}
    return {kind: texts[0] for kind, texts in kinds.items() if texts}


def _row(kind: str, trigger: str, prompts: Mapping[str, PromptSets]) -> str:
    return f"{kind}, {trigger}" if len(prompts) > 1 else kind


def draw_cells(
    bench: MeterBench,
    cells: Sequence[BoardCell],
    put_on: Callable[[BoardCell], None],
    path: Path,
    count: int,
    side: int,
    progress: Progress = no_progress,
) -> None:
    """Draws cells into a PNG file, and what they show into a JSON file beside it.

    Args:
        put_on: sets the adapters on the base for a cell.
        count: pictures in a cell, the same seeds in each.
        side: of a picture, in pixels.
    """
    pictures: list[list[Image.Image]] = []
    seeds = [*range(1, count + 1)]
    for cell in cells:
        progress(len(pictures), len(cells), "the bleed board")
        put_on(cell)
        drawings = [Drawing(cell.prompt, "", seed, side, side, *HOW) for seed in seeds]
        pictures.append(draw(bench.base, drawings, bench.device))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        _sheet(cells, pictures, side).save(temporary, format="PNG")
    shown = [{**asdict(cell), "seeds": seeds} for cell in cells]
    write_json(path.with_suffix(".json"), {"cells": shown})


def _sheet(
    cells: Sequence[BoardCell], pictures: Sequence[Sequence[Image.Image]], side: int
) -> Image.Image:
    tile = side * max(1, _SHOWN // side)
    columns = list(dict.fromkeys(cell.column for cell in cells))
    rows = {cell.row: cell.prompt for cell in reversed(cells)}
    rows = {cell.row: rows[cell.row] for cell in cells}
    width = len(pictures[0]) * (tile + 2) + _GAP
    lefts = {name: _LEFT + place * width for place, name in enumerate(columns)}
    tops = {kind: 2 * _LINE + place * (tile + _GAP) for place, kind in enumerate(rows)}
    size = (_LEFT + len(columns) * width, 2 * _LINE + _GAP + len(rows) * (tile + _GAP))
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for name, left in lefts.items():
        pen.text((left, _GAP), name, fill="black", font=font)
    for kind, prompt in rows.items():
        lines = [kind, *textwrap.wrap(prompt or "(empty prompt)", 26)]
        for number, line in enumerate(lines[: tile // _LINE]):
            place = (_GAP, tops[kind] + number * _LINE)
            pen.text(place, line, fill="#555" if number else "black", font=font)
    for cell, drawn in zip(cells, pictures, strict=True):
        for number, picture in enumerate(drawn):
            shown = picture.resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(shown, (lefts[cell.column] + number * (tile + 2), tops[cell.row]))
    return sheet
