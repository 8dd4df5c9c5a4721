"""A grid of pictures: adapters or checkpoints down, strengths across, a block for each prompt."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from app.files import disk_trouble
from app.tabs.generate.drawing import AdapterSetting, Settings
from trainer import places
from trainer.data.images import ImageProblem, load_rgb
from trainer.errors import UserError

MOST_PICTURES = 60
_SMALLEST, _LARGEST = 160, 384  # pixels of a cell's longer side
_GAP, _MARGIN, _TEXT = 8, 24, 16
_INK, _QUIET, _PAPER, _EMPTY = "#292524", "#78716c", "#ffffff", "#f5f5f4"


@dataclass(frozen=True)
class Cell:
    """One picture to draw; the base model alone has no adapter."""

    prompt: str
    adapter: str
    strength: float


@dataclass(frozen=True)
class Plan:
    """A grid that is to be drawn.

    Attributes:
        adapters: (title, id) of each row.
        strengths: of each column.
        prompts: one block for each.
    """

    adapters: tuple[tuple[str, str], ...]
    strengths: tuple[float, ...]
    prompts: tuple[str, ...]

    def cell(self, prompt: str, adapter: str, strength: float) -> Cell:
        """Strength 0 is the base model, whatever the adapter."""
        return Cell(prompt, adapter, strength) if strength else Cell(prompt, "", 0.0)

    def cells(self) -> list[Cell]:
        """What has to be drawn, each once; an adapter's pictures one after the other."""
        every = (
            self.cell(prompt, adapter, strength)
            for _, adapter in self.adapters
            for strength in self.strengths
            for prompt in self.prompts
        )
        return list(dict.fromkeys(every))

    def arithmetic(self) -> str:
        """How many pictures that makes, in one line."""
        counts = [
            (len(self.adapters), "adapter"),
            (len(self.strengths), "strength"),
            (len(self.prompts), "prompt"),
        ]
        total = math.prod(count for count, _ in counts)
        product = " × ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in counts)
        drawn = len(self.cells())
        fewer = (
            f", {drawn} of them different: at strength 0 every adapter is the base model"
            if drawn < total
            else ""
        )
        return f"{product} = {_pictures(total)}{fewer}"

    def check(self) -> None:
        """Raises a `UserError` where nothing, or too much, would be drawn."""
        if not (self.adapters and self.strengths and self.prompts):
            missing = "adapter" if not self.adapters else "prompt" if self.strengths else "strength"
            raise UserError(f"The grid has no {missing}.", f"Choose one {missing} or more.")
        if len(self.cells()) > MOST_PICTURES:
            raise UserError(
                f"{self.arithmetic()}. A grid has at most {MOST_PICTURES} different ones.",
                "Take out adapters, strengths or prompts.",
            )


def read_plan(chosen: list[str], titles: Mapping[str, str], strengths: str, prompts: str) -> Plan:
    """A plan from what the form shows: strengths in one line, prompts one a line.

    Raises:
        UserError: a strength is no number between -10 and 10.
    """
    rows = tuple((titles.get(adapter, adapter), adapter) for adapter in dict.fromkeys(chosen))
    lines = tuple(dict.fromkeys(line.strip() for line in prompts.splitlines() if line.strip()))
    return Plan(rows, read_strengths(strengths), lines)


def read_strengths(text: str) -> tuple[float, ...]:
    """The numbers of a line such as ``0, 0.5, 1``.

    Raises:
        UserError: one of them is none, or is beyond what an adapter can take.
    """
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


def settings_of(cell: Cell, form: Settings) -> Settings:
    """What the form says, with the cell's prompt and adapter alone, for one picture."""
    adapters = (AdapterSetting(cell.adapter, cell.strength),) if cell.adapter else ()
    values = {**form.__dict__, "prompt": cell.prompt, "adapters": adapters, "count": 1}
    return Settings(**values)


def save_sheet(plan: Plan, drawn: Mapping[Cell, Path], form: Settings) -> Path:
    """Put the pictures together on one sheet, with its labels and its settings; what was not
    drawn stays empty.

    Raises:
        UserError: it can't be written.
    """
    sheet = compose(plan, drawn)
    facts = {
        "prompt": plan.prompts[0],
        "negative": form.negative,
        "seed": form.seed,
        "inference_steps": form.steps,
        "guidance": form.guidance,
        "model": form.base,
        "grid": asdict(plan),
    }
    text = PngInfo()
    text.add_itxt("rarebit", json.dumps(facts, ensure_ascii=False))
    with disk_trouble():
        folder = places.PICTURES / time.strftime("%Y-%m-%d")
        folder.mkdir(parents=True, exist_ok=True)
        stem, number = f"grid-{time.strftime('%H%M%S')}", 1
        while (path := folder / f"{stem}{f'-{number}' if number > 1 else ''}.png").exists():
            number += 1
        sheet.save(path, "PNG", pnginfo=text)
    return path


def compose(plan: Plan, drawn: Mapping[Cell, Path]) -> Image.Image:
    """The sheet: RGB, white, labels above and beside."""
    pictures = {cell: _opened(path) for cell, path in drawn.items()}
    width, height = _cell_size([picture.size for picture in pictures.values() if picture])
    font, small = ImageFont.load_default(_TEXT), ImageFont.load_default(_TEXT - 2)
    beside = max(int(small.getlength(_cut(title))) for title, _ in plan.adapters) + 2 * _GAP
    across = len(plan.strengths) * (width + _GAP)
    titles = [_wrapped(prompt, font, beside + across) for prompt in plan.prompts]
    line = _TEXT + 6
    tall = [
        len(title) * line + line + len(plan.adapters) * (height + _GAP) + _MARGIN
        for title in titles
    ]
    sheet = Image.new("RGB", (2 * _MARGIN + beside + across, _MARGIN + sum(tall)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for prompt, title in zip(plan.prompts, titles, strict=True):
        for text in title:
            pen.text((_MARGIN, top), text, _INK, font)
            top += line
        for column, strength in enumerate(plan.strengths):
            left = _MARGIN + beside + column * (width + _GAP)
            label = f"strength {strength:g}" if strength else "base model"
            pen.text((left + width // 2, top), label, _QUIET, small, anchor="ma")
        top += line
        for name, adapter in plan.adapters:
            pen.text((_MARGIN, top + height // 2), _cut(name), _QUIET, small, anchor="lm")
            for column, strength in enumerate(plan.strengths):
                left = _MARGIN + beside + column * (width + _GAP)
                picture = pictures.get(plan.cell(prompt, adapter, strength))
                _place(sheet, pen, picture, (left, top, left + width, top + height))
            top += height + _GAP
        top += _MARGIN
    return sheet


def _place(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    picture: Image.Image | None,
    box: tuple[int, int, int, int],
) -> None:
    if picture is None:
        pen.rectangle(box, _EMPTY)
        return
    size = (box[2] - box[0], box[3] - box[1])
    sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), box[:2])


def _opened(path: Path) -> Image.Image | None:
    try:
        return load_rgb(path)
    except ImageProblem:
        return None


def _cell_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    width, height = max(sizes, key=max) if sizes else (_SMALLEST, _SMALLEST)
    scale = min(max(1.0, _SMALLEST / max(width, height)), _LARGEST / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _cut(text: str) -> str:
    return text if len(text) <= 32 else f"{text[:31]}…"


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


def _pictures(count: int) -> str:
    return f"{count} picture{'' if count == 1 else 's'}"
