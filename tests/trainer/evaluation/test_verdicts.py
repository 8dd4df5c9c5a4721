"""What the meters say of adapters of the built-in model (docs/notes/measuring.md); what to use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainer.evaluation.meters import mean_meters, spread
from trainer.evaluation.verdicts import Candidate, best_candidate, findings, recommend
from trainer.events import GAPS, Meters

# effect, drifts of class, neighbours and others, likeness, without the trigger, on trained pictures
GOOD = Meters(0.0273, 0.0092, 0.0189, 0.0093, 0.55, 0.026, 0.602, held_out=3)
LEAKING = Meters(0.0637, 0.0583, 0.0547, 0.0194, 0.552, 0.583, 0.608, held_out=2)
BROKEN = Meters(0.3, 0.285, 0.27, 0.268, -0.842, -0.705, -1.183, held_out=2)
BY_HEART = Meters(0.08, 0.02, 0.03, 0.02, 0.3, 0.02, 0.8, held_out=3)
NO_PICTURES = Meters(0.03, 0.01, 0.02, 0.01)


def codes(meters: Meters, **more: object) -> list[str]:
    return [finding.code for finding in findings(meters, **more)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("meters", "expected"),
    [
        (GOOD, ["works", "keeps", "still"]),
        (LEAKING, ["works", "leaks", "still"]),
        (BROKEN, ["harmful", "leaks", "moves"]),
        (BY_HEART, ["works", "keeps", "still", "overtrained"]),
        (replace(BY_HEART, held_out=2), ["works", "keeps", "still", "few_held_out"]),
        (replace(GOOD, class_drift=0.025), ["works", "leaks", "still"]),  # by the class word alone
        (replace(GOOD, likeness_without=0.4), ["works", "leaks", "still"]),  # by the captions alone
        (NO_PICTURES, ["unmeasured", "keeps", "still"]),
        (Meters(0.03, 0.029, 0.02, 0.01), ["unmeasured", "leaks", "still"]),
        (Meters(0.03, 0.01, 0.04, 0.01), ["unmeasured", "neighbours", "still"]),
        (Meters(0.03, None, None, 0.01), ["unmeasured", "still"]),
        (Meters(0.001, 0.001, 0.001, 0.001, likeness=0.01), ["weak", "leaks", "moves"]),
        (Meters(0.0005, 0.001, 0.001, 0.001, likeness=0.01), ["weak"]),  # what changed is nothing
        (Meters(0.0, 0.0, 0.0, 0.0, likeness=0.0), ["dead"]),
    ],
)
def test_findings(meters: Meters, expected: list[str]) -> None:
    assert codes(meters) == expected


def test_all_is_well_with_a_good_one_only() -> None:
    assert all(finding.good for finding in findings(GOOD))
    for bad in (LEAKING, BROKEN, BY_HEART):
        assert not all(finding.good for finding in findings(bad))
    assert codes(GOOD, dead=True) == ["dead"]


@pytest.mark.parametrize(
    ("gaps", "says"),
    [((0.7, 0.4, 0.1), "details"), ((0.1, 0.2, 0.6), "whole picture"), ((None,) * 3, "")],
)
def test_where_it_learns_by_heart_is_said(gaps: tuple[float | None, ...], says: str) -> None:
    meters = replace(BY_HEART, **dict(zip(GAPS, gaps, strict=True)))
    [found] = [one.says for one in findings(meters) if one.code == "overtrained"]
    assert says in found and ("noise" in found) == bool(says)


def test_likeness_lost_since_an_earlier_step_is_overtraining() -> None:
    assert "overtrained" in codes(GOOD, earlier=[Meters(0.02, 0, 0, 0, likeness=0.65)])
    assert "overtrained" not in codes(GOOD, earlier=[Meters(0.02, 0, 0, 0, likeness=0.56)])


def test_one_or_two_held_out_pictures_decide_nothing() -> None:
    """The police car at step 600 draws better than at step 100, whatever one picture says."""
    few = replace(GOOD, held_out=2, likeness=0.3, likeness_trained=0.6)
    before = replace(few, likeness=0.6, likeness_trained=0.3)
    assert "overtrained" not in codes(few, earlier=[before])
    steps = [Candidate("a", 100, 1.0, before), Candidate("b", 600, 1.0, few)]
    assert best_candidate(steps).step == 600
    enough = [replace(one, meters=replace(one.meters, held_out=3)) for one in steps]
    assert best_candidate(enough).step == 100
    assert "overtrained" in codes(enough[1].meters, earlier=[enough[0].meters])


def test_shares_of_nothing() -> None:
    dead = Meters(0.0, 0.0, None, 0.0)
    assert (dead.leak, dead.collateral, dead.neighbour_leak) == (0.0, 0.0, None)
    assert Meters(0.0, 0.5, None, None).leak is None
    assert Meters(0.2, 0.1, 0.05, None).leak == pytest.approx(0.5)


def test_means_over_concepts() -> None:
    mean = mean_meters([GOOD, NO_PICTURES])
    assert mean.effect == pytest.approx((GOOD.effect + NO_PICTURES.effect) / 2)
    assert mean.likeness == GOOD.likeness
    assert mean.held_out == 3
    assert mean_meters([GOOD]) is GOOD
    with pytest.raises(ValueError, match="nothing"):
        mean_meters([])


@pytest.mark.parametrize(
    ("count", "most", "expected"), [(0, 3, []), (2, 3, [0, 1]), (9, 3, [0, 3, 6])]
)
def test_spread(count: int, most: int, expected: list[int]) -> None:
    assert spread(range(count), most) == expected


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
def test_the_best_candidate(rows: list[tuple[int, float | None, float]], expected: int) -> None:
    assert best_candidate([candidate(*row) for row in rows]).step == expected


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
        (candidate(5, None, 0.1), False, "no pictures"),
    ],
)
def test_where_there_is_little_to_say(one: Candidate, dead: bool, text: str) -> None:
    found = recommend([one], [one], dead=dead)
    assert found.candidate == (one if text == "no pictures" else None)
    assert text in found.why
