"""When which rows are preserved: pure functions, however a step is cut."""

from __future__ import annotations

import itertools

import pytest

from trainer.preservation.rows import Rhythm


@pytest.mark.parametrize(
    ("share", "total"), list(itertools.product((0.1, 0.25, 1.0, 2.5), (1, 3, 4, 16)))
)
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_every_row_of_a_step_is_taken_once(share: float, total: int, pieces: int) -> None:
    rhythm = Rhythm(share, 2, 16)
    slots = list(range(total))
    cuts = [
        slots[place * total // pieces : (place + 1) * total // pieces] for place in range(pieces)
    ]
    rows = [row for cut in cuts for row in rhythm.of_slots(cut, total)]
    assert sorted(rows) == list(range(max(1, round(share * total))))


def test_rows_of_successive_steps_are_numbered_on() -> None:
    rhythm = Rhythm(0.5, 3, 4)
    numbers = [rhythm.number(step, row) for step in (0, 3, 6) for row in range(rhythm.count(4))]
    assert numbers == [0, 1, 2, 3, 4, 5]
