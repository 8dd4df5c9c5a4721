"""A run's log and status, written while it goes on: all that the page and scripts see of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trainer.errors import Code
from trainer.events import (
    CACHING,
    Ended,
    Phase,
    Reason,
    RolledBack,
    RunEvent,
    StepDone,
    Warned,
    Working,
)
from trainer.runs.disk import DiskError
from trainer.runs.layout import RunFolder
from trainer.runs.log import EventLog
from trainer.runs.report import write_report
from trainer.runs.status import Status, own_status, write_status

STATUS_INTERVAL = 1.0
"""Seconds between two writings of the status while its phase stays the same."""

Listener = Callable[[RunEvent], None]


class Recorder:
    """Writes what happens in a run, in the main process, and passes it on to a listener."""

    def __init__(
        self, run: RunFolder, log: EventLog, total_steps: int, listener: Listener, step: int = 0
    ) -> None:
        self.run, self.log, self.listener = run, log, listener
        self.status = own_status("preparing", step, total_steps)
        self._last_written = 0.0
        self._pace: float | None = None
        write_status(run, self.status)

    def phase(self, phase: Phase, **changes: Any) -> None:
        """Enter a phase, and write it at once."""
        self._write(replace(self.status, phase=phase, **changes), at_once=True)

    def warn(self, message: str) -> None:
        """Record something that the user should know."""
        self.record(Warned(message))

    def working(self, done: int, total: int, what: str) -> None:
        """Record the progress of slow work before training."""
        phase: Phase = "caching" if what == CACHING else "preparing"
        self.record(Working(what, done, total, phase))

    def record(self, event: RunEvent) -> None:
        """Record one event in the log and the status, and pass it on."""
        if isinstance(event, Warned):
            event = replace(event, step=self.status.step)
        if isinstance(event, Working):
            self._write(replace(self.status, phase=event.phase))
        else:
            self.log.append(event)
        if isinstance(event, StepDone):
            pace = self._pace or event.seconds
            self._pace = 0.9 * pace + 0.1 * event.seconds
            left = round((self.status.total_steps - event.step) * self._pace, 1)
            status = replace(self.status, phase="training", step=event.step, eta_seconds=left)
            self._write(status)
        elif isinstance(event, RolledBack):
            self.status = replace(self.status, step=event.step)
        self.listener(event)

    def end(self, reason: Reason, code: Code, message: str) -> None:
        """The last words of a run, each as far as the disk takes them if it has failed anyway."""
        step = self.status.step
        last_words: list[Callable[[], object]] = [
            lambda: self.record(Ended(step, reason, code, message)),
            lambda: self.phase(reason, eta_seconds=None, message=message, code=code),
        ]
        if step:
            last_words.append(lambda: write_report(self.run))
        for say in last_words:
            try:
                say()
            except (DiskError, OSError):
                if reason != "failed":
                    raise

    def _write(self, status: Status, at_once: bool = False) -> None:
        at_once = at_once or status.phase != self.status.phase
        self.status = status
        now = time.monotonic()
        if at_once or now - self._last_written >= STATUS_INTERVAL:
            write_status(self.run, status)
            self._last_written = now
