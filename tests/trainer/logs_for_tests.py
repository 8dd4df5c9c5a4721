"""Writing a run's log in a test, without torch."""

from __future__ import annotations

from trainer.events import RunEvent
from trainer.runs.layout import RunFolder
from trainer.runs.log import EventLog


def log_events(run: RunFolder, *events: RunEvent) -> None:
    """Append events to a run's log."""
    with EventLog(run.events) as log:
        for event in events:
            log.append(event)
