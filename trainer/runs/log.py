"""The event log of a run: one JSON object a line, flushed, readable while it grows.

``{"time": …, "event": "start|step|validation|preview|checkpoint|rollback|warning|end", …}``. A
``step`` has step, loss, learning_rate and seconds; a ``rollback`` has the step that training goes on
from and message; an ``end`` has reason (finished, stopped or failed) and message.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from trainer.runs.disk import DiskError, writing
from trainer.runs.layout import RunFolder

Event = dict[str, Any]


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

    def append(self, event: str, **fields: object) -> None:
        """Writes one event and flushes it to the system.

        NaN and infinity, which are not JSON, become the texts ``"nan"``, ``"inf"`` and ``"-inf"``
        (`number` turns them back); paths become text; tuples become lists.

        Raises:
            DiskError: the disk is full.
        """
        record = {"time": round(time.time(), 3), "event": event, **fields}
        line = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False)
        left = b"\n" * self._torn + line.encode("utf-8", "replace") + b"\n"
        with writing(f"the log {self._file.name}"):
            while left:
                self._torn = True
                left = left[self._file.write(left) :]
        self._torn = False

    def close(self) -> None:
        """Forces everything to the disk and closes the file."""
        if not self._file.closed:
            try:
                with writing(f"the log {self._file.name}"):
                    os.fsync(self._file.fileno())
            finally:
                self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except DiskError:
            if error is None:  # else that is what there is to say
                raise


def append_event(run: RunFolder, event: str, **fields: object) -> None:
    """Appends a single event; a loop keeps an `EventLog` open instead."""
    with EventLog(run.events) as log:
        log.append(event, **fields)


class EventReader:
    """Follows a log that grows: every call of `read` gives what is new since the one before."""

    def __init__(self, run: RunFolder) -> None:
        self._path = run.events
        self._offset = 0

    def read(self) -> list[Event]:
        """The new events; none if there is no log.

        Torn lines, as a kill leaves them, are left out; one that is being written is left for the
        next call.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        events = (_parse(line) for line in complete.splitlines())
        return [event for event in events if event is not None]


def read_events(run: RunFolder, after: int = 0) -> list[Event]:
    """The events from number `after` on, counted from 0; see `EventReader.read`."""
    return EventReader(run).read()[after:]


def number(value: object) -> float | None:
    """A number of an event, NaN and infinity included; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    return float(value) if value in ("nan", "inf", "-inf") else None


def _ends_inside_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _parse(line: bytes) -> Event | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and "event" in value else None


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
