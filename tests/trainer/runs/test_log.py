"""The event log is readable at every moment, and after every way to die."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from trainer.runs.log import EventLog, EventReader, append_event, number, read_events
from trainer.runs.layout import RunFolder, create_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, "run")


def kinds(run: RunFolder) -> list[str]:
    return [event["event"] for event in read_events(run)]


def test_events_come_back_in_order(run: RunFolder) -> None:
    assert read_events(run) == []
    with EventLog(run.events) as log:
        log.append("start", step=0)
        log.append("step", step=1, loss=0.5, learning_rate=1e-4, seconds=0.25)
        assert kinds(run) == ["start", "step"]  # flushed: readable while the log is open
    append_event(run, "end", reason="finished", message="done")
    events = read_events(run)
    assert [event["event"] for event in events] == ["start", "step", "end"]
    assert events[1].items() >= {"step": 1, "loss": 0.5, "learning_rate": 1e-4}.items()
    assert all(event["time"] > 1.7e9 for event in events)
    assert read_events(run, after=2) == events[2:]
    assert read_events(run, after=9) == []


@pytest.mark.parametrize(
    "value",
    [
        "a\nb",
        'quote"',
        "\u2028",
        "\ud800",
        "<script>",
        "ü🐇",
        "\x00",
        "x" * 100_000,
        [],
        {"a": None},
    ],
)
def test_any_value_takes_one_line(value: object, run: RunFolder) -> None:
    append_event(run, "warning", message=value)
    append_event(run, "end")
    assert run.events.read_bytes().count(b"\n") == 2
    expected = "?" if value == "\ud800" else value
    assert read_events(run)[0]["message"] == expected


def test_numbers_that_json_has_not(run: RunFolder) -> None:
    values = [float("nan"), math.inf, -math.inf, 1.5]
    append_event(run, "step", loss=values[0], rates=values, nested={"a": math.inf}, path=Path("x"))
    line = run.events.read_text()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    event = json.loads(line, parse_constant=refuse)
    assert [number(value) for value in event["rates"]][1:] == values[1:]
    back = number(event["loss"])
    assert back is not None and math.isnan(back)
    assert event["nested"] == {"a": "inf"}
    assert event["path"] == "x"


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 1.0), ("3", None), (True, None), (None, None), ([], None)]
)
def test_number_of_what_is_none(value: object, expected: float | None) -> None:
    assert number(value) == expected


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_torn_last_line_is_left_out_and_mended(cut: int, run: RunFolder) -> None:
    append_event(run, "start")
    append_event(run, "step", step=1)
    run.events.write_bytes(run.events.read_bytes()[:-cut])
    assert kinds(run) == ["start"]
    append_event(run, "start", step=0)
    append_event(run, "step", step=1)
    # Where only the line's end was torn off, the event itself is whole again.
    assert kinds(run) == ["start", *(["step"] if cut == 1 else []), "start", "step"]


def test_rubbish_in_the_middle_is_left_out(run: RunFolder) -> None:
    lines = [b'{"event": "start"}', b"\x00\xff", b"[1]", b"", b'{"no": 1}', b'{"event": "end"}']
    run.events.write_bytes(b"\n".join(lines) + b"\n")
    assert kinds(run) == ["start", "end"]


def test_reader_gives_each_event_once(run: RunFolder) -> None:
    reader = EventReader(run)
    assert reader.read() == []
    append_event(run, "start")
    assert [event["event"] for event in reader.read()] == ["start"]
    assert reader.read() == []
    with run.events.open("ab") as file:
        file.write(b'{"event": "st')
        file.flush()
        assert reader.read() == []
        file.write(b'ep"}\n{"event": "end"}\n')
    assert [event["event"] for event in reader.read()] == ["step", "end"]
