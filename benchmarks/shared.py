"""What several benchmarks do: processes of one thread, tables, bars, sheets of pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from trainer.places import PROJECT
from trainer.runs.atomic import write_text


def in_a_process(
    module: str,
    *arguments: str,
    through: Sequence[str] = (),
    timeout: float | None = None,
    **environment: str,
) -> dict[str, Any]:
    """Runs ``python -m MODULE ARGUMENTS`` on one thread; the JSON object of its last line.

    Args:
        through: a command that starts the process.
        timeout: seconds after which it is ended.
        environment: variables beside those of this process.
    """
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [*through, sys.executable, "-m", module, *arguments],
        env={**os.environ, **one_thread, **environment},
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=timeout,
    )
    return json.loads(done.stdout.splitlines()[-1])


def seconds_each(action: Callable[[], object], count: int) -> list[float]:
    """How long an action takes, each time."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return times


def resident_memory(*, peak: bool) -> int:
    """Bytes of this process, or the most so far; Linux only."""
    # Unlike `resource`'s, the peak is not that of the process that started this one.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = dict(line.split(":", 1) for line in lines)["VmHWM" if peak else "VmRSS"]
    return int(found.split()[0]) * 1024


# ----------------------------------------------------------------------------------- pages


def write_between_marks(page: Path, name: str, text: str) -> None:
    """Replaces what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    write_text(page, f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}")


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


# ------------------------------------------------------------------------------------ bars

Bar = tuple[str, Mapping[str, float]]
"""A label and its parts by their names in the legend."""
_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 940, 360, 60, 22, 44


def bars(groups: Mapping[str, Sequence[Bar]], colours: Mapping[str, str], unit: str) -> str:
    """Stacked bars with their sums, an SVG picture that reads on light and dark pages.

    Args:
        groups: bars by the title above them; each group has a scale of its own.
        colours: of the parts.
        unit: behind each sum.
    """

    def text(x: float, y: float, words: str, more: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y}" {more}>{escape(words)}</text>'

    def box(x: float, y: float, width: float, height: int, part: str) -> str:
        size = f'width="{width:.1f}" height="{height}"'
        return f'<rect x="{x:.1f}" y="{y}" {size} fill="{colours[part]}"/>'

    lines, left = [], 10.0
    for part in colours if len(colours) > 1 else ():
        lines += [box(left, 10, 12, 12, part), text(left + 17, 20, part)]
        left += 40 + 7 * len(part)
    y = _TOP if lines else 10
    for title, rows in groups.items():
        if title:
            lines.append(text(0, y + 14, title, 'font-weight="bold"'))
            y += 26
        most = max(sum(parts.values()) for _, parts in rows)
        for label, parts in rows:
            lines.append(text(_LEFT - 8, y + 14, label, 'text-anchor="end"'))
            left = float(_LEFT)
            for part, size in parts.items():
                width = (_WIDTH - _LEFT - _RIGHT) * size / most
                lines.append(box(left, y + 3, width, _ROW - 6, part))
                left += width
            lines.append(text(left + 5, y + 14, f"{sum(parts.values()):.3g}{unit}"))
            y += _ROW
        y += 14
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" '
    style = 'font-family="sans-serif" font-size="12" fill="#808890">'
    return "\n".join([head + style, *lines, "</svg>"]) + "\n"


# ---------------------------------------------------------------------- sheets of pictures


def sheet(
    titles: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    side: int,
    *,
    gap: int = 6,
    label: int = 18,
) -> Image.Image:
    """Pictures in rows, each with its label above it, columns with their titles.

    Args:
        titles: evenly over the width.
        side: of each picture, in pixels.
    """
    width = max(len(pictures) for _, pictures in rows) * (side + gap) - gap
    image = Image.new("RGB", (width, label + len(rows) * (side + label + gap)), "white")
    pen = ImageDraw.Draw(image)
    for number, title in enumerate(titles):
        pen.text((number * (width + gap) // len(titles), 2), title, fill="black")
    for number, (words, pictures) in enumerate(rows):
        top = label + number * (side + label + gap)
        for place, picture in enumerate(pictures):
            scaled = picture.resize((side, side), Image.Resampling.NEAREST)
            image.paste(scaled, (place * (side + gap), top))
        pen.text((0, top + side + 2), words, fill="black")
    return image


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; none where there is no file."""
    if path.exists():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())
