"""What the page knows of a run: read once for all browsers, and only what is new.

Any number of pages ask for the same run several times a minute. Each run has one reader here,
which reads the new lines of its log at most once a second; everyone gets its last `RunView`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from app import jobs
from app.jobs import RunInfo
from trainer.config.file import read_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import Evaluated, Meters, Prepared, RolledBack, RunEvent, StepDone, Validated
from trainer.runs.charts import Point
from trainer.runs.layout import RunFolder
from trainer.runs.log import EventReader

_LOG_LENGTH = 300
_MOST_READERS = 64
_CURVES: tuple[tuple[str, type[RunEvent], str], ...] = (
    ("loss", StepDone, "loss"),
    ("preservation", StepDone, "preservation"),
    ("validation", Validated, "loss"),
    ("trained", Validated, "training_loss"),
)
"""Name of a curve, and the events and the field of theirs that it is made of."""


@dataclass(frozen=True)
class RunView:
    """One moment of a run, as the page shows it.

    Attributes:
        info: what it does now.
        config: its settings; None if they cannot be read.
        version: rises with every change of what follows.
        curves: (step, value) pairs by the curve's name, steps rising; see `_CURVES`.
        log: the newest events that are worth a line.
        meters: the newest ones; None if nothing was measured.
        preview_steps: steps that have previews, rising.
    """

    info: RunInfo
    config: TrainingConfig | None
    version: int
    curves: dict[str, list[Point]]
    log: list[RunEvent]
    meters: Meters | None
    preview_steps: tuple[int, ...]


class _Reader:
    """Follows one run."""

    def __init__(self, run: RunFolder, identity: int) -> None:
        self.identity = identity
        self._run = run
        self._events = EventReader(run)
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._values: dict[str, dict[int, float]] = {}
        self._log: deque[RunEvent] = deque(maxlen=_LOG_LENGTH)
        self._meters: Meters | None = None
        self._config: TrainingConfig | None = None
        self._config_changed = 0
        self._last: RunView | None = None

    def view(self) -> RunView:
        """The run as it is, or was a second ago."""
        with self._lock:
            now = time.monotonic()
            if self._last is None or now - self._read_at >= jobs.FRESH:
                self._last = self._read(self._last)
                self._read_at = now
            return self._last

    def _read(self, last: RunView | None) -> RunView:
        new = self._events.read()
        for event in new:
            self._take(event)
        previews = tuple(self._run.preview_steps())
        changed = self._read_config() or bool(new) or last is None or previews != last.preview_steps
        curves = last.curves if last else {}
        if new:
            curves = {
                name: [(float(step), values[step]) for step in sorted(values)]
                for name, values in self._values.items()
            }
        return RunView(
            jobs.info(self._run),
            self._config,
            (last.version if last else 0) + changed,
            curves,
            list(self._log),
            self._meters,
            previews,
        )

    def _take(self, event: RunEvent) -> None:
        if isinstance(event, (Prepared, RolledBack)):  # the steps after it are done again
            for name, values in self._values.items():
                kept = {step: value for step, value in values.items() if step <= event.step}
                self._values[name] = kept
        if isinstance(event, (StepDone, Validated)):
            for name, kind, field in _CURVES:
                if isinstance(event, kind) and (value := getattr(event, field)) is not None:
                    self._values.setdefault(name, {})[event.step] = value
        if isinstance(event, Evaluated):
            self._meters = event.meters
        if not isinstance(event, StepDone):
            self._log.append(event)

    def _read_config(self) -> bool:
        """Whether it has changed."""
        try:
            changed = self._run.config.stat().st_mtime_ns
            if changed == self._config_changed:
                return False
            self._config_changed = changed
            self._config = read_config(self._run.config, of_run=True)
        except (OSError, UserError):
            self._config = None
        return True


_readers: dict[str, _Reader] = {}
_readers_lock = threading.Lock()


def view(name: str) -> RunView:
    """The run of a name.

    Raises:
        UserError: there is no such run.
    """
    run = jobs.run_folder(name)
    identity = run.path.stat().st_ino  # a new run may have an old one's name
    with _readers_lock:
        reader = _readers.get(name)
        if reader is None or reader.identity != identity:
            reader = _readers[name] = _Reader(run, identity)
            for old in list(_readers)[:-_MOST_READERS]:
                del _readers[old]
    return reader.view()
