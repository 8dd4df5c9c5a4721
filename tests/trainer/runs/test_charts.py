"""Curves as SVG."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from trainer.runs.charts import Line, line_chart, smooth, thin, ticks

NAN = float("nan")


def coordinates(svg: str, kind: str) -> list[tuple[float, float]]:
    match = re.search(rf'<path class="{kind}" d="M([^"]*)"', svg)
    assert match is not None
    points = [part.split() for part in match.group(1).split("L")]
    return [(float(x), float(y)) for x, y in points]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (1, 400, [100, 200, 300, 400]),
        (0.012, 0.05, [0.02, 0.03, 0.04, 0.05]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 1e-4, [0, 2e-5, 4e-5, 6e-5, 8e-5, 1e-4]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_running_mean_is_unbiased_and_calm() -> None:
    level = smooth([(step, 3.0) for step in range(5)], 10)
    assert [y for _, y in level] == pytest.approx([3.0] * 5)
    noisy = [(float(step), 1.0 + (-1) ** step) for step in range(400)]
    assert all(abs(y - 1) < 0.1 for _, y in smooth(noisy, 30)[60:])
    assert smooth([(0, 1.0), (1, NAN), (2, math.inf), (3, 1.0)], 5) == [(0, 1.0), (3, 1.0)]


def test_thinning_keeps_peaks_and_order() -> None:
    points = [(float(step), math.sin(step / 50)) for step in range(10_000)]
    points[5_003] = (5003.0, 9.0)
    kept = thin(points, 500)
    assert len(kept) <= 500
    assert (5003.0, 9.0) in kept
    assert kept == sorted(kept)
    assert thin(points[:10]) == points[:10]


def test_higher_values_are_drawn_higher() -> None:
    svg = line_chart([Line("smooth", [(0, 1.0), (1, 3.0), (2, 2.0)])], "steps")
    ElementTree.fromstring(svg)
    (x0, y0), (x1, y1), (x2, y2) = coordinates(svg, "smooth")
    assert x0 < x1 < x2
    assert y1 < y2 < y0  # SVG counts downwards
    assert ">steps<" in svg


def test_one_spike_does_not_flatten_the_curve() -> None:
    raw = [(float(step), 0.1 + 0.05 * (step % 2)) for step in range(200)]
    raw[100] = (100.0, 1e6)
    ys = [y for _, y in coordinates(line_chart([Line("raw", raw)], "steps"), "raw")]
    assert max(ys) - sorted(ys)[1] > 100
    assert all(0 <= y <= 230 for y in ys)


@pytest.mark.parametrize("points", [[], [(1.0, NAN)], [(1.0, math.inf)]])
def test_nothing_to_draw(points: list[tuple[float, float]]) -> None:
    assert line_chart([Line("raw", points)], "steps") == ""


@pytest.mark.parametrize("value", [0.0, 1e-12, -5.0, 1e12])
def test_a_single_value_and_a_level_line(value: float) -> None:
    for points in ([(7.0, value)], [(7.0, value), (8.0, value)]):
        for from_zero in (True, False):
            svg = line_chart([Line("smooth", points)], "steps", from_zero=from_zero)
            ElementTree.fromstring(svg)
            assert "nan" not in svg and "inf" not in svg
