"""Line charts as inline SVG: numbers in, markup out, nothing of the user's text inside.

Colours come from the page's style sheet by class name, so that a chart follows light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]

_WIDTH, _HEIGHT = 520.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 12.0, 10.0, 38.0
_MOST_POINTS = 900


@dataclass(frozen=True)
class Line:
    """One curve."""

    kind: str  # CSS class, such as "raw" or "smooth"
    points: Sequence[Point]  # (x, y) with rising x; points whose y is not finite are left out
    label: str = ""  # beside a single point; a word of ours


def line_chart(lines: Sequence[Line], x_label: str, *, from_zero: bool = False) -> str:
    """An SVG element, or an empty text if there is nothing to draw.

    The y axis spans the lines of a kind other than "raw", and the bulk of the raw ones: a single
    spike is cut off rather than flattening everything else.
    """
    finite = [Line(line.kind, _finite(line.points), line.label) for line in lines]
    xs = [x for line in finite for x, _ in line.points]
    if not xs:
        return ""
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_low, y_high = _span(finite, from_zero)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        """The drawing's coordinates; a y outside the axis lies on its end."""
        across, up = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
        up = min(max(up, 0.0), 1.0)
        return _LEFT + across * (right - _LEFT), bottom - up * (bottom - _TOP)

    parts: list[str] = []
    for value in ticks(y_low, y_high):
        _, y = place(x_low, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 8}" y="{y + 4:.1f}">{value:g}</text>')
    for value in ticks(x_low, x_high, about=6):
        x, _ = place(value, y_low)
        parts.append(f'<text class="x" x="{x:.1f}" y="{bottom + 18}">{value:.9g}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text class="label" x="{right}" y="{_HEIGHT - 2}">{x_label}</text>')
    for line in finite:
        shown = [place(x, y) for x, y in thin(line.points)]
        if len(shown) == 1:
            x, y = shown[0]
            parts.append(f'<circle class="{line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
            side = "y" if x > _WIDTH - 100 else "point"
            if line.label:
                place_of = f'x="{x + (-7 if side == "y" else 7):.1f}" y="{y + 4:.1f}"'
                parts.append(f'<text class="{side}" {place_of}>{line.label}</text>')
        elif shown:
            moves = "L".join(f"{x:.1f} {y:.1f}" for x, y in shown)
            parts.append(f'<path class="{line.kind}" d="M{moves}"/>')
    box = f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}"
    return f'<svg class="chart" viewBox="{box}" role="img">{"".join(parts)}</svg>'


def loss_lines(
    losses: Sequence[Point],
    preserved: Sequence[Point],
    validated: Sequence[Point],
    on_trained: Sequence[Point],
    held_out: bool,
) -> list[tuple[Line, str]]:
    """The curves of a run's losses that have points, with their labels; see `validated_on`."""
    span = smoothing_span(losses)
    drawn = [
        (Line("raw", losses), "each step"),
        (Line("smooth", smooth(losses, span)), f"running mean over {span} steps"),
        (
            Line("second", smooth(preserved, smoothing_span(preserved))),
            "preservation, running mean",
        ),
        (Line("third", validated), validated_on(held_out)),
        (Line("fourth", on_trained), "the same, on trained pictures"),
    ]
    return [(line, label) for line, label in drawn if line.points]


def validated_on(held_out: bool) -> str:
    """Small sets have no validation split: their loss is that of trained pictures."""
    return "pictures kept out of training" if held_out else "trained pictures, at fixed noise"


def smoothing_span(points: Sequence[Point]) -> int:
    """Over how many steps a loss curve is smoothed: the single steps are mostly chance."""
    return max(5, min(200, len(points) // 12))


def smooth(points: Sequence[Point], span: int) -> list[Point]:
    """The running mean with exponential weights over about `span` points, unbiased at the start.

    Points that are not finite are left out.
    """
    decay = 1 - 1 / max(span, 1)
    total = weight = 0.0
    result: list[Point] = []
    for x, y in _finite(points):
        total = decay * total + y
        weight = decay * weight + 1
        result.append((x, total / weight))
    return result


def thin(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most about `most` of the points, the lowest and the highest of each stretch among them."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(2 * len(points) / most)
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover a range: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _span(lines: Sequence[Line], from_zero: bool) -> tuple[float, float]:
    values = [y for line in lines if line.kind != "raw" for _, y in line.points]
    raw = sorted(y for line in lines if line.kind == "raw" for _, y in line.points)
    if raw:
        cut = len(raw) // 50
        values += raw[cut : len(raw) - cut]
    low, high = min(values), max(values)
    if from_zero:
        low = min(low, 0.0)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (low if from_zero and low == 0 else low - margin), high + margin
