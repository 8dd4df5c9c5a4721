"""The event log of a run, ``events.jsonl``: flushed line by line, readable while it grows."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from trainer.events import Prepared, RolledBack, RunEvent, from_line, to_line
from trainer.runs.atomic import DiskError, writing
from trainer.runs.layout import RunFolder

Kind = TypeVar("Kind", bound=RunEvent)


class EventLog:
    """Appends events to a file that stays open.

    A line that a kill or a full disk has cut short is ended first, so that the next event stands on
    its own line.
    """

    def __init__(self, path: Path) -> None:
        with writing(f"the log {path}"):
            # Unbuffered: what a full disk refuses is known at once, and not tried again later.
            self._file = path.open("ab", buffering=0)
            self._torn = _ends_inside_a_line(path)

    def append(self, event: RunEvent) -> None:
        """Write one event, with the present time unless it has one.

        Raises:
            DiskError: the disk is full.
        """
        line = to_line(event if event.time else replace(event, time=round(time.time(), 3)))
        left = b"\n" * self._torn + line.encode("utf-8", "replace") + b"\n"
        with writing(f"the log {self._file.name}"):
            while left:
                self._torn = True
                left = left[self._file.write(left) :]
        self._torn = False

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Force everything to the disk and close the file."""
        try:
            with self._file, writing(f"the log {self._file.name}"):
                os.fsync(self._file.fileno())
        except DiskError:
            if kind is None:  # else that is what there is to say
                raise


class EventReader:
    """Follows a log that grows: every call of `read` gives what is new since the one before."""

    def __init__(self, run: RunFolder) -> None:
        self._path = run.events
        self._offset = 0

    def read(self) -> list[RunEvent]:
        """The new events; none if there is no log.

        Lines that are torn, as a kill leaves them, or of unknown kinds are left out; a line that
        is being written is left for the next call.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        events = (from_line(line) for line in complete.splitlines())
        return [event for event in events if event is not None]


def read_events(run: RunFolder) -> list[RunEvent]:
    """All events; see `EventReader.read`."""
    return EventReader(run).read()


def last_of(events: Sequence[RunEvent], kind: type[Kind]) -> dict[int, Kind]:
    """The events of a kind by their step, steps rising; where a run did steps again, the last.

    A start or a rollback takes back the steps after it.
    """
    found: dict[int, Kind] = {}
    for event in events:
        if isinstance(event, (Prepared, RolledBack)):
            found = {step: one for step, one in found.items() if step <= event.step}
        elif isinstance(event, kind):
            found[int(getattr(event, "step", 0))] = event
    return dict(sorted(found.items()))


def _ends_inside_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
