"""A grid of pictures: adapters or checkpoints down, strengths across, a block for each prompt."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from app.files import disk_trouble
from app.render import counted, cut
from app.tabs.generate.drawing import AdapterSetting, Settings, checkpoint_choices, todays_folder
from trainer.data.decoder import load_rgb
from trainer.data.images import ImageProblem
from trainer.errors import UserError
from trainer.text import numbered

MOST_PICTURES = 60
_SMALLEST, _LARGEST = 160, 384  # pixels of a cell's longer side
_GAP, _MARGIN, _TEXT = 8, 24, 16
_LINE = _TEXT + 6
_INK, _QUIET, _PAPER, _EMPTY = "#292524", "#78716c", "#ffffff", "#f5f5f4"


class GridCell(NamedTuple):
    """One picture to draw; the base model alone has no adapter."""

    prompt: str
    adapter: str
    strength: float


@dataclass(frozen=True)
class GridPlan:
    """A grid that is to be drawn.

    Attributes:
        adapters: (title, id) of each row.
        strengths: of each column.
        prompts: one block for each.
    """

    adapters: tuple[tuple[str, str], ...]
    strengths: tuple[float, ...]
    prompts: tuple[str, ...]

    def cell(self, prompt: str, adapter: str, strength: float) -> GridCell:
        """Strength 0 is the base model, whatever the adapter."""
        return GridCell(prompt, adapter if strength else "", strength)

    def cells(self) -> list[GridCell]:
        """What has to be drawn, each once; an adapter's pictures one after the other."""
        every = itertools.product(self.adapters, self.strengths, self.prompts)
        cells = (self.cell(prompt, adapter, strength) for (_, adapter), strength, prompt in every)
        return list(dict.fromkeys(cells))

    def arithmetic(self) -> str:
        """How many pictures that makes, in one line."""
        counts = {
            "adapter": len(self.adapters),
            "strength": len(self.strengths),
            "prompt": len(self.prompts),
        }
        total, drawn = math.prod(counts.values()), len(self.cells())
        line = " × ".join(counted(n, word) for word, n in counts.items())
        line += f" = {counted(total, 'picture')}"
        if drawn < total:
            line += f", {drawn} of them different: at strength 0 every adapter is the base model"
        return line

    def check(self) -> None:
        """Raises a `UserError` where nothing, or too much, would be drawn."""
        parts = {
            "The grid has no adapter.": self.adapters,
            "The grid has no strength.": self.strengths,
            "The grid has no prompt.": self.prompts,
        }
        if missing := next((said for said, values in parts.items() if not values), ""):
            raise UserError(missing, "Choose or write one or more.")
        if len(self.cells()) > MOST_PICTURES:
            raise UserError(
                f"{self.arithmetic()}. A grid has at most {MOST_PICTURES} different ones.",
                "Take out adapters, strengths or prompts.",
            )


def read_plan(chosen: Sequence[str], strengths: str, prompts: str) -> GridPlan:
    """A plan from what the form shows: ids, strengths in one line, prompts one a line.

    Raises:
        UserError: a strength is no number between -10 and 10.
    """
    titles = {identity: title for title, identity in checkpoint_choices()}
    rows = tuple((titles.get(adapter, adapter), adapter) for adapter in dict.fromkeys(chosen))
    lines = (line.strip() for line in prompts.splitlines())
    return GridPlan(rows, read_strengths(strengths), tuple(dict.fromkeys(filter(None, lines))))


def read_strengths(text: str) -> tuple[float, ...]:
    """The numbers of a line such as ``0, 0.5, 1``.

    Raises:
        UserError: one of them is none, or is beyond what an adapter can take.
    """
    if unclear := re.search(r"\d,\d+", text):
        raise UserError(
            f"“{unclear[0][:20]}” may be one number or two.",
            "Write 0.5 for a half, and a space after the comma between two.",
        )
    found: list[float] = []
    for word in text.replace(";", " ").replace(",", " ").split():
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not -10 <= number <= 10:
            raise UserError(
                f"“{word[:20]}” is no strength.", "Write numbers such as 0, 0.5, 1, at most 10."
            )
        found.append(number)
    return tuple(dict.fromkeys(found))


def settings_of(cell: GridCell, form: Settings) -> Settings:
    """What the form says, with the cell's prompt and adapter alone, for one picture."""
    adapters = (AdapterSetting(cell.adapter, cell.strength),) if cell.adapter else ()
    return replace(form, prompt=cell.prompt, adapters=adapters, count=1)


# ------------------------------------------------------------------------------ the sheet


def save_sheet(plan: GridPlan, drawn: Mapping[GridCell, Path], form: Settings) -> Path:
    """Puts the pictures on one sheet, with labels and settings; gives its file.

    What was not drawn stays empty.

    Raises:
        UserError: it cannot be written.
    """
    shared = ("negative", "seed", "inference_steps", "guidance")
    facts = {"prompt": plan.prompts[0], **{name: getattr(form, name) for name in shared}}
    facts |= {"model": form.base, "grid": asdict(plan)}
    text = PngInfo()
    text.add_itxt("rarebit", json.dumps(facts, ensure_ascii=False))
    folder, stem = todays_folder(), f"grid-{time.strftime('%H%M%S')}"
    with disk_trouble():
        path = next(p for name in numbered(stem) if not (p := folder / f"{name}.png").exists())
        compose(plan, drawn).save(path, "PNG", pnginfo=text)
    return path


def compose(plan: GridPlan, drawn: Mapping[GridCell, Path]) -> Image.Image:
    """The sheet: RGB, white, labels above and beside."""
    pictures = {cell: picture for cell, path in drawn.items() if (picture := _opened(path))}
    width, height = _cell_size([picture.size for picture in pictures.values()])
    font, small = ImageFont.load_default(_TEXT), ImageFont.load_default(_TEXT - 2)
    names = [cut(title, 32) for title, _ in plan.adapters]
    titles_width = max(int(small.getlength(name)) for name in names) + 2 * _GAP
    across = titles_width + len(plan.strengths) * (width + _GAP)
    titles = [_wrapped(prompt, font, across) for prompt in plan.prompts]
    rows = _LINE + len(names) * (height + _GAP) + _MARGIN
    tall = _MARGIN + sum(len(title) * _LINE + rows for title in titles)
    sheet = Image.new("RGB", (2 * _MARGIN + across, tall), _PAPER)
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for prompt, title in zip(plan.prompts, titles, strict=True):
        for text in title:
            pen.text((_MARGIN, top), text, _INK, font)
            top += _LINE
        columns = [
            (_MARGIN + titles_width + n * (width + _GAP), s) for n, s in enumerate(plan.strengths)
        ]
        for left, strength in columns:
            label = f"strength {strength:g}" if strength else "base model"
            pen.text((left + width // 2, top), label, _QUIET, small, anchor="ma")
        top += _LINE
        for name, (_, adapter) in zip(names, plan.adapters, strict=True):
            pen.text((_MARGIN, top + height // 2), name, _QUIET, small, anchor="lm")
            for left, strength in columns:
                picture = pictures.get(plan.cell(prompt, adapter, strength))
                if picture is None:
                    pen.rectangle((left, top, left + width, top + height), _EMPTY)
                else:
                    size = (width, height)
                    sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, top))
            top += height + _GAP
        top += _MARGIN
    return sheet


def _opened(path: Path) -> Image.Image | None:
    try:
        return load_rgb(path)
    except ImageProblem:
        return None


def _cell_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    width, height = max(sizes, key=max) if sizes else (_SMALLEST, _SMALLEST)
    longest = max(width, height)
    scale = min(max(1.0, _SMALLEST / longest), _LARGEST / longest)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> list[str]:
    """At most three lines of at most ``room`` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines[:3] if len(lines) <= 3 else [*lines[:2], f"{lines[2]} …"]
