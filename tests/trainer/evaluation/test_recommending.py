"""Which checkpoint and strength: as like as the best, and calm."""

from __future__ import annotations

import pytest

from trainer.evaluation.recommending import Candidate, best_checkpoint, recommend
from trainer.events import Meters


def candidate(step: int, likeness: float | None, drift: float, strength: float = 1.0) -> Candidate:
    meters = Meters(0.05, drift, drift / 2, drift / 3, likeness=likeness)
    return Candidate(f"adapters/step-{step:06d}.safetensors", step, strength, meters)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(100, 0.5, 0.01)], 100),
        ([(100, 0.3, 0.01), (200, 0.5, 0.02)], 200),  # too unlike
        ([(100, 0.5, 0.01), (200, 0.5, 0.02)], 100),  # as like, and clearly calmer
        ([(100, 0.5, 0.019), (200, 0.5, 0.02)], 200),  # not clearly
        ([(100, 0.5, 0.01), (200, 0.5, 0.005), (300, 0.2, 0.001)], 200),
        ([(100, None, 0.01), (200, None, 0.02)], 200),  # nothing to compare with
        ([(100, -0.1, 0.01), (200, -0.5, 0.02)], 100),
    ],
)
def test_best_checkpoint(rows: list[tuple[int, float | None, float]], expected: int) -> None:
    assert best_checkpoint([candidate(*row) for row in rows]).step == expected


def test_the_reason_compares_with_the_last_at_full_strength() -> None:
    checkpoints = [candidate(100, 0.5, 0.01), candidate(200, 0.5, 0.02)]
    strengths = [candidate(100, 0.49, 0.005, strength=0.8), checkpoints[0]]
    found = recommend(checkpoints, strengths)
    assert found.candidate == strengths[0]
    assert found.why.startswith("98% of the best likeness found; the rest moves 75% less")


@pytest.mark.parametrize(
    ("one", "dead", "text"),
    [
        (candidate(1, 0.5, 0.1), True, "changes nothing"),
        (Candidate("a", 1, 1.0, Meters(0.0, 0.0, 0.0, 0.0)), False, "changes nothing"),
        (candidate(1, -0.2, 0.1), False, "base model alone"),
    ],
)
def test_nothing_to_recommend(one: Candidate, dead: bool, text: str) -> None:
    found = recommend([one], [one], dead=dead)
    assert found.candidate is None
    assert text in found.why


def test_without_pictures_the_result_stays() -> None:
    one = candidate(5, None, 0.1)
    found = recommend([one], [one])
    assert found.candidate == one
    assert "no pictures" in found.why
