"""What the page knows of a run: read once for all browsers, and only what is new.

Any number of pages ask for the same run several times a minute. Each run has one reader here,
which reads the new lines of its log at most once a second; everyone gets its last `RunView`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

from app import jobs
from app.jobs import RunInfo
from trainer.config.schema import TrainingConfig
from trainer.config.file import read_config
from trainer.errors import UserError
from trainer.runs.charts import Point
from trainer.events import Evaluated, Meters, Prepared, RolledBack, RunEvent, StepDone, Validated
from trainer.runs.log import EventReader
from trainer.runs.layout import RunFolder

FRESH = 1.0  # seconds for which a view is good enough for everyone
_LOG_LENGTH = 300
_MOST_READERS = 64
# Kind of event -> the fields of it that are curves.
_CURVES: dict[type[RunEvent], tuple[str, ...]] = {
    StepDone: ("loss", "preservation", "learning_rate"),
    Validated: ("loss", "training_loss"),
}


@dataclass(frozen=True)
class RunView:
    """One moment of a run, as the page shows it.

    Attributes:
        info: what it does now.
        config: its settings; None if they cannot be read.
        version: rises with every change of what follows.
        curves: (step, value) pairs by "event.field", such as "step.loss", steps rising.
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


@dataclass
class _Reader:
    """Follows one run."""

    run: RunFolder
    identity: int
    events: EventReader
    lock: threading.Lock = field(default_factory=threading.Lock)
    read_at: float = 0.0
    version: int = 0
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    log: deque[RunEvent] = field(default_factory=lambda: deque(maxlen=_LOG_LENGTH))
    meters: Meters | None = None
    previews: tuple[int, ...] = ()
    config: TrainingConfig | None = None
    config_changed: int = 0
    last: RunView | None = None

    def view(self) -> RunView:
        """The run as it is, or was a second ago."""
        with self.lock:
            now = time.monotonic()
            if self.last is None or now - self.read_at >= FRESH:
                self.last = self._read()
                self.read_at = now
            return self.last

    def _read(self) -> RunView:
        new = self.events.read()
        for event in new:
            self._take(event)
        previews = tuple(self.run.preview_steps())
        changed = (bool(new), previews != self.previews, self._read_config())
        self.previews = previews
        self.version += any(changed)
        curves = self.last.curves if self.last and not new else self._curves()
        return RunView(
            jobs.info(self.run),
            self.config,
            self.version,
            curves,
            list(self.log),
            self.meters,
            previews,
        )

    def _take(self, event: RunEvent) -> None:
        if isinstance(event, (Prepared, RolledBack)):  # the steps after it are done again
            for values in self.values.values():
                for step in [step for step in values if step > event.step]:
                    del values[step]
        if isinstance(event, (StepDone, Validated)):
            for name in _CURVES[type(event)]:
                if (value := getattr(event, name)) is not None:
                    self.values.setdefault(f"{event.kind}.{name}", {})[event.step] = value
        if isinstance(event, Evaluated):
            self.meters = event.meters
        if not isinstance(event, StepDone):
            self.log.append(event)

    def _curves(self) -> dict[str, list[Point]]:
        return {
            name: [(float(step), values[step]) for step in sorted(values)]
            for name, values in self.values.items()
        }

    def _read_config(self) -> bool:
        try:
            changed = self.run.config.stat().st_mtime_ns
            if changed != self.config_changed:
                self.config_changed = changed
                self.config = read_config(self.run.config)
                return True
        except (OSError, UserError):
            self.config = None
        return False


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
            reader = _readers[name] = _Reader(run, identity, EventReader(run))
            for old in list(_readers)[:-_MOST_READERS]:
                del _readers[old]
    return reader.view()


class _Overview:
    """The list of all runs, read once for everyone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._runs: list[RunInfo] = []

    def runs(self, *, now: bool = False) -> list[RunInfo]:
        """All runs, the newest first, as they are or were a second ago."""
        with self._lock:
            if now or time.monotonic() - self._read_at >= FRESH:
                self._runs = jobs.runs()
                self._read_at = time.monotonic()
            return self._runs

    def busy(self) -> RunInfo | None:
        """The run that a process works on, if any."""
        return next((run for run in self.runs() if run.alive), None)


overview = _Overview()
