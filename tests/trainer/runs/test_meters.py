"""The table of meters: what it says is measured, and every reader reads it there."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.runs.meters import METERS, Meter

GUIDE = Path(__file__).parents[3] / "docs" / "measuring.md"


@pytest.mark.parametrize("meter", METERS, ids=lambda meter: meter.name)
def test_the_guide_says_the_same(meter: Meter) -> None:
    row = f"| {meter.title} | {meter.meaning} | {meter.unit} | {meter.better} |"
    assert row in GUIDE.read_text(encoding="utf-8")


def test_every_meter_is_measured() -> None:
    from trainer.evaluation.meters import Meters

    assert all(hasattr(Meters, m.name) or m.name in Meters.__dataclass_fields__ for m in METERS)


def test_a_strong_effect_is_not_said_to_be_good() -> None:
    """A broken adapter has one too, and drift measures no direction."""
    (effect,) = (meter for meter in METERS if meter.name == "effect")
    assert "neither more nor less is better" in effect.explanation


@pytest.mark.parametrize(
    ("record", "shown"), [({"leak": 0.12345}, "0.123"), ({"leak": None}, None), ({}, None)]
)
def test_a_number_as_it_is_shown(record: dict[str, object], shown: str | None) -> None:
    (leak,) = (meter for meter in METERS if meter.name == "leak")
    assert leak.value(record) == shown
