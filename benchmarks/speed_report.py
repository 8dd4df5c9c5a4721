"""The tables and the plot of docs/notes/speed-and-memory.md, from measured processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, TypedDict

from trainer.places import PROJECT

PAGE = PROJECT / "docs" / "notes" / "speed-and-memory.md"
PLOT = PROJECT / "docs" / "images" / "speed.svg"

MODELS = {
    "full": "SD 1.5 at full size (860 M), random weights",
    "small": "SD 1.5's layout with a fifth of the channels (34 M), random weights",
    "tiny": "SD 1.5's blocks, as narrow as can be",
}
MIB = 2**20


class Measured(TypedDict):
    """One process.

    Attributes:
        round: processes with the same one took turns.
        warm_up: its first steps, which do not count.
        cpu, wall: seconds from its start to the end of each step.
        losses: of the steps; empty for a script that can't be asked.
        peak: the most resident memory, in bytes.
        file: of the adapter, in bytes.
    """

    contestant: str
    size: str
    resolution: int
    batch_size: int
    precision: str
    round: int
    warm_up: int
    cpu: list[float]
    wall: list[float]
    losses: list[float]
    peak: int
    file: int


def write_docs(speed: Sequence[Measured], scale: Sequence[Mapping[str, Any]]) -> None:
    """Puts the tables into the page, and the plot beside it.

    Args:
        scale: rows of `benchmarks.scale`.
    """
    page = PAGE.read_text(encoding="utf-8")
    for name, text in (("speed", tables(speed)), ("scale", scale_table(scale))):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
    PAGE.write_text(page, encoding="utf-8")
    PLOT.write_text(plot(speed), encoding="utf-8")


def scale_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line for each set and start."""
    lines = [
        "| pictures | start | reading and caching | at least | memory grows by | a step |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        least = f"{row['least']:.1f} s" if row["start"] == "first" else ""
        lines.append(
            f"| {row['pictures']:,} | {row['start']} | {row['reading'] + row['caching']:.1f} s "
            f"| {least} | {row['grown']:.0f} MiB | {row['step']:.3f} s |"
        )
    return "\n".join(lines)


def tables(rows: Sequence[Measured]) -> str:
    """A table for each model, resolution and batch size."""
    return "\n\n".join(f"**{title}**\n\n{table(group)}" for title, group in _groups(rows))


def table(rows: Sequence[Measured]) -> str:
    """One line a contestant and precision; ratios to the first one of diffusers' kind in fp32."""
    lines = [
        "| | CPU s a step | × | wall s a step | CPU s to the first step | again | peak GiB | × "
        "| adapter MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    mark = [
        row for row in rows if (row["contestant"], row["precision"]) == ("diffusers-like", "fp32")
    ]
    for name, same in _by_contestant(rows):
        peak = median(row["peak"] for row in same) / 2**30
        first = [row["cpu"][0] for row in same if not row["round"]]
        again = [row["cpu"][0] for row in same if row["round"]]
        cells = [
            name,
            f"{seconds(same, 'cpu'):.3g}",
            f"{seconds(same, 'cpu') / seconds(mark, 'cpu'):.2f}" if mark else "",
            f"{seconds(same, 'wall'):.3g}",
            f"{first[0]:.1f}" if first else "",
            f"{median(again):.1f}" if again else "",
            f"{peak:.2f}",
            f"{peak * 2**30 / median(row['peak'] for row in mark):.2f}" if mark else "",
            f"{same[0]['file'] / MIB:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def seconds(rows: Sequence[Measured], clock: str) -> float:
    """A step's seconds: the median over processes of each one's mean."""
    found = []
    for row in rows:
        moments: Any = row["cpu" if clock == "cpu" else "wall"]
        first = max(row["warm_up"], 1) - 1
        found.append((moments[-1] - moments[first]) / (len(moments) - 1 - first))
    return median(found)


def _groups(rows: Sequence[Measured]) -> Iterator[tuple[str, list[Measured]]]:
    keys = dict.fromkeys((row["size"], row["resolution"], row["batch_size"]) for row in rows)
    for size, resolution, batch in keys:
        title = f"{MODELS[size]}, {resolution} px, batch {batch}"
        same = (size, resolution, batch)
        yield (
            title,
            [row for row in rows if (row["size"], row["resolution"], row["batch_size"]) == same],
        )


def _by_contestant(rows: Sequence[Measured]) -> Iterator[tuple[str, list[Measured]]]:
    for key in dict.fromkeys((row["precision"], row["contestant"]) for row in rows):
        same = [row for row in rows if (row["precision"], row["contestant"]) == key]
        yield f"{key[1]}, {key[0]}", sorted(same, key=lambda row: row["round"])


# ------------------------------------------------------------------------------------ the plot

_WIDTH, _BAR, _LABEL = 800, 22, 290
_COLOURS = {"rarebit": "#2f6f4f", "other": "#9aa5b1"}


def plot(rows: Sequence[Measured]) -> str:
    """Bars of CPU seconds a step, an SVG picture that reads on light and dark pages."""
    parts: list[str] = []
    y = 10
    for title, group in _groups(rows):
        y += 18
        parts.append(_text(0, y, title, weight="bold"))
        y += 8
        bars = [(name, seconds(same, "cpu")) for name, same in _by_contestant(group)]
        longest = max(value for _, value in bars)
        for name, value in bars:
            colour = _COLOURS["rarebit" if name.startswith("rarebit") else "other"]
            length = (_WIDTH - _LABEL - 70) * value / longest
            parts.append(_text(_LABEL - 8, y + 15, name, anchor="end"))
            parts.append(
                f'<rect x="{_LABEL}" y="{y + 3}" width="{length:.1f}" height="{_BAR - 6}" '
                f'fill="{colour}"/>'
            )
            parts.append(_text(_LABEL + length + 6, y + 15, f"{value:.3g} s"))
            y += _BAR
        y += 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" '
        f'font-family="sans-serif" font-size="13" fill="#808890">{"".join(parts)}</svg>\n'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{text}</text>'
