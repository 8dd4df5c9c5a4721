"""Held-out pictures depend on seed and content alone."""

from __future__ import annotations

import pytest

from trainer.data.holding import FEWEST, MOST, held_out_count, held_out_ids

IDS = [f"{number:032x}" for number in range(24)]


@pytest.mark.parametrize(
    ("pictures", "share", "expected"),
    [
        (0, 0.125, 0),
        (FEWEST - 1, 0.5, 0),
        (FEWEST, 0.125, 1),
        (FEWEST, 0.01, 1),
        (12, 0.125, 2),
        (28, 0.125, 4),
        (28, 0.0, 0),
        (10_000, 0.5, MOST),
    ],
)
def test_count(pictures: int, share: float, expected: int) -> None:
    assert held_out_count(pictures, share) == expected


def test_order_and_copies_do_not_matter() -> None:
    chosen = held_out_ids(IDS, 0.25, seed=1)
    assert len(chosen) == 6
    assert chosen == held_out_ids([*reversed(IDS), *IDS], 0.25, seed=1)


def test_seeds_choose_differently() -> None:
    assert len({held_out_ids(IDS, 0.25, seed=seed) for seed in range(5)}) == 5


def test_one_more_picture_changes_little() -> None:
    """A set that grows keeps most of what was held out."""
    before, after = held_out_ids(IDS[:-1], 0.25, seed=0), held_out_ids(IDS, 0.25, seed=0)
    assert len(before - after) <= 1
