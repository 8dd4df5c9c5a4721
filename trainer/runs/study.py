"""Pages about several runs beside each other: tables, a trade-off, and what they draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from trainer.runs.atomic import write_text
from trainer.runs.board import PreviewPicture, read_board
from trainer.runs.charts import Line, line_chart
from trainer.runs.layout import RunFolder
from trainer.runs.report import page_templates


@dataclass(frozen=True)
class Strip:
    """What one run draws, beside the others: its last previews."""

    name: str
    pictures: tuple[PreviewPicture, ...]


@dataclass(frozen=True)
class Part:
    """A part of the page; what is empty is left out.

    Attributes:
        rows: of the table, the head first; the first cell is the run's name.
        best: the name that stands out.
        chart: SVG of our own (`Markup`).
        prompts: of the pictures, in the order of each strip.
        images: whole pictures: their names and data URIs.
    """

    title: str
    note: str = ""
    rows: Sequence[Sequence[str]] = ()
    best: str = ""
    chart: str = ""
    prompts: Sequence[str] = ()
    strips: Sequence[Strip] = ()
    images: Sequence[tuple[str, str]] = ()


def write_study(
    path: Path, title: str, says: Sequence[str], parts: Sequence[Part], command: str = ""
) -> None:
    """Writes a self-contained page that asks nothing of the network.

    Args:
        says: what has come out, in paragraphs.
        command: that trains with what is recommended.
    """
    page = page_templates().get_template("study.html")
    write_text(path, page.render(title=title, says=says, parts=parts, command=command))


def pictures_of(name: str, runs: Sequence[tuple[str, RunFolder]]) -> Part:
    """What runs draw at the same prompts with the same seeds: the base model, then each of them."""
    strips: list[Strip] = []
    prompts: list[str] = []
    for label, run in runs:
        board = read_board(run)
        if not board.rows:
            continue
        if not strips:
            prompts = [row.prompt for row in board.rows]
            first = tuple(row.cells[0][0] for row in board.rows if row.cells[0])
            strips.append(Strip("base model", first))
        last = tuple(row.cells[-1][0] for row in board.rows if row.cells[-1])
        strips.append(Strip(label, last))
    note = "The same seeds in every line."
    return Part(name, note, prompts=prompts, strips=strips)


def trade_off(points: Sequence[tuple[str, float, float, bool]], x_label: str) -> Markup:
    """A chart of runs as points.

    Args:
        points: name, x in percent, y, and whether it stands out.
    """
    lines = [Line("smooth" if best else "second", [(x, y)], name) for name, x, y, best in points]
    return Markup(line_chart(lines, x_label))
