"""What `benchmarks.fuzz` has found is read or refused today, and so is a little that it invents."""

from __future__ import annotations

import random

import pytest

from benchmarks.fuzz import DOORS, FOUND, damaged, outcome


def test_what_was_found_is_read_or_refused() -> None:
    for file in sorted(FOUND.iterdir()) if FOUND.is_dir() else ():
        door = file.name.partition("-")[0]
        result = outcome(door, file.read_bytes())
        assert result in ("read", "refused"), f"{file.name}: {result}"


@pytest.mark.parametrize("door", DOORS)
def test_good_files_are_read_and_damaged_ones_read_or_refused(door: str) -> None:
    chance = random.Random(door)
    files = DOORS[door][0]()
    assert {outcome(door, data) for data in files} == {"read"}
    for _ in range(15):
        result = outcome(door, damaged(chance.choice(files), files, chance))
        assert result in ("read", "refused"), result
