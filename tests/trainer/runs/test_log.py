"""The event log is readable at every moment, and after every way to die."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.logs_for_tests import log_events
from trainer.events import Ended, Prepared, RolledBack, RunEvent, StepDone, Warned
from trainer.runs.layout import RunFolder, create_run
from trainer.runs.log import EventLog, EventReader, last_of, read_events


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, "run")


def test_events_come_back_in_order(run: RunFolder) -> None:
    assert read_events(run) == []
    events: list[RunEvent] = [Prepared(), StepDone(1, 0.5, None, 1e-4, 1.0, 0.25)]
    with EventLog(run.events) as log:
        for event in events:
            log.append(event)
        assert read_events(run) == events  # flushed: readable while the log is open
    log_events(run, Ended(reason="finished"))
    assert read_events(run) == [*events, Ended(reason="finished")]
    assert all(event.time > 1.7e9 for event in read_events(run))


def test_half_of_a_surrogate_pair_is_no_text(run: RunFolder) -> None:
    log_events(run, Warned("\ud800"))
    assert read_events(run) == [Warned("?")]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_torn_last_line_is_left_out_and_mended(cut: int, run: RunFolder) -> None:
    start, step = Prepared(), Warned("x")
    log_events(run, start, step)
    run.events.write_bytes(run.events.read_bytes()[:-cut])
    assert read_events(run) == [start]
    log_events(run, start, step)
    # Where only the line's end was torn off, the event itself is whole again.
    assert read_events(run) == [start, *([step] if cut == 1 else []), start, step]


def test_rubbish_in_the_middle_is_left_out(run: RunFolder) -> None:
    lines = [b'{"event": "start"}', b"\x00\xff", b"[1]", b"", b'{"no": 1}', b'{"event": "end"}']
    run.events.write_bytes(b"\n".join(lines) + b"\n")
    assert read_events(run) == [Prepared(), Ended()]


def test_reader_gives_each_event_once(run: RunFolder) -> None:
    reader = EventReader(run)
    assert reader.read() == []
    log_events(run, Prepared())
    assert reader.read() == [Prepared()]
    assert reader.read() == []
    with run.events.open("ab") as file:
        file.write(b'{"event": "start", ')
        file.flush()
        assert reader.read() == []
        file.write(b'"step": 2}\n{"event": "end"}\n')
    assert reader.read() == [Prepared(step=2), Ended()]


def test_steps_that_were_done_again_count_once() -> None:
    steps = [StepDone(number, float(number)) for number in range(1, 5)]
    again = StepDone(3, 9.0)
    found = last_of([*steps, Prepared(step=2), again], StepDone)
    assert found == {1: steps[0], 2: steps[1], 3: again}
    assert last_of([*steps, RolledBack(1)], StepDone) == {1: steps[0]}
