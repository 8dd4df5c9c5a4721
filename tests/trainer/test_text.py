"""Durations, exact and as a guess."""

from __future__ import annotations

import pytest

from trainer.text import duration, how_often


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0, "0 s", "5 s"),
        (42, "42 s", "40 s"),
        (59.6, "1 min 00 s", "1 min"),
        (320, "5 min 20 s", "5 min"),
        (3500, "58 min 20 s", "58 min"),
        (3600, "1 h 00 min", "1 h"),
        (7500, "2 h 05 min", "2 h"),
        (8000, "2 h 13 min", "2 h 10 min"),
    ],
)
def test_duration(seconds: float, exact: str, rough: str) -> None:
    assert duration(seconds) == exact
    assert duration(seconds, rough=True) == rough


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (0.04, "0.04 times"),
        (0.48, "0.5 times"),
        (1.2, "once"),
        (2, "2 times"),
        (1e4, "10,000 times"),
    ],
)
def test_how_often(times: float, said: str) -> None:
    assert how_often(times) == said
