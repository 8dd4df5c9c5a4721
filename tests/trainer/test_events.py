"""Events as lines of JSON: what is written comes back; what others wrote is read or left out."""

from __future__ import annotations

import json
import math

import pytest

from trainer.events import (
    LOGGED,
    CheckpointSaved,
    Ended,
    Evaluated,
    ImagesRead,
    MemoryUsed,
    Meters,
    Prepared,
    PreviewSaved,
    RolledBack,
    RunEvent,
    SearchProgress,
    StepDone,
    Validated,
    Warned,
    from_line,
    to_line,
)

EVENTS: list[RunEvent] = [
    ImagesRead("12 pictures, 12 captions"),
    Prepared("trains", "3 pictures", 0, 10, "0.2.0", time=5.0),
    StepDone(1, 0.5, None, 1e-4, 2.0, 0.25),
    Validated(2, 0.5, 0.25, 3),
    Evaluated(3, Meters(0.5, 0.25, None, 0.125, likeness=0.5, held_out=2), 1.5),
    PreviewSaved(4, "previews/step-000004"),
    CheckpointSaved(5, "checkpoints/step-000005"),
    MemoryUsed(6, 1.5, "cuda", "full", 4, True),
    Warned("two captions are empty", 7),
    SearchProgress("trial-1: to step 25 of 100"),
    RolledBack(8, 9, "Going back."),
    Ended(9, "failed", "non_finite", "The loss is not a number."),
]


def test_the_table_has_every_kind() -> None:
    assert {event.kind for event in EVENTS} == set(LOGGED)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_there_and_back(event: RunEvent) -> None:
    line = to_line(event)
    record = json.loads(line)
    assert list(record)[:2] == ["time", "event"] and record["event"] == event.kind
    back = from_line(line)
    assert back is not None and back == event and back.time == event.time


def test_the_meters_lie_beside_the_step_with_what_follows_from_them() -> None:
    record = json.loads(to_line(EVENTS[4]))
    assert "meters" not in record
    expected = {"step": 3, "effect": 0.5, "class_drift": 0.25, "leak": 0.5, "collateral": 0.25}
    assert record.items() >= {**expected, "gap": None, "held_out": 2, "seconds": 1.5}.items()


@pytest.mark.parametrize("value", ["a\nb", 'quote"', "\u2028", "<script>", "\x00", "x" * 100_000])
def test_any_text_takes_one_line(value: str) -> None:
    line = to_line(Warned(value))
    assert "\n" not in line and from_line(line) == Warned(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_not(value: float) -> None:
    line = to_line(StepDone(1, value))
    assert json.loads(line)["loss"] == str(value)
    back = from_line(line)
    assert isinstance(back, StepDone) and str(back.loss) == str(value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # of earlier versions, and with fields of later ones
        ('{"event": "start", "step": 3, "more": 1}', Prepared(step=3)),
        ('{"event": "end", "reason": "stopped", "message": "x"}', Ended(0, "stopped", "", "x")),
        ('{"event": "evaluation", "step": 1, "leak": 2}', Evaluated(1, Meters())),
        # of nobody
        ('{"event": "step"}', None),
        ('{"event": "step", "step": "x"}', None),
        ('{"event": "step", "step": "nan"}', None),
        ('{"event": "step", "step": 1, "loss": "<b>"}', None),
        ('{"event": "end", "reason": "<b>"}', None),
        ('{"event": "unheard"}', None),
        ('{"event": ["step"]}', None),
        ('{"event": "st', None),
        ("[1]", None),
        ("7", None),
        ("[" * 100_000, None),
        (b"\x00\xff", None),
    ],
)
def test_lines_of_others(line: str | bytes, expected: RunEvent | None) -> None:
    assert from_line(line) == expected
