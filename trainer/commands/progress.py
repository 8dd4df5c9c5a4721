"""A run's events on the terminal: what ``train`` and ``resume`` print while they go on."""

from __future__ import annotations

import sys
import time

from trainer import events
from trainer.commands.command import say
from trainer.runs.meters import METERS
from trainer.runs.status import running_mean
from trainer.text import capital, duration

LOG_INTERVAL = 5.0
LOSS_WEIGHT = 0.05


class ProgressPrinter:
    """Prints a run's events: one living line on a terminal, a line every few seconds in a log."""

    def __init__(self) -> None:
        self.living = sys.stdout.isatty()
        self.total = 0
        self.loss: float | None = None
        self.pace: float | None = None
        self.last_printed = 0.0
        self.unfinished = False

    def __call__(self, event: events.RunEvent) -> None:
        if isinstance(event, events.Prepared):
            self.total = event.total_steps
            self._say(capital(event.summary))
            self._say(event.arithmetic)
            if event.step:
                self._say(f"Going on after step {event.step}.")
        elif isinstance(event, events.ImagesRead):
            self._say(f"Images: {event.summary}")
        elif isinstance(event, events.Working) and event.total:
            self._show(
                f"{capital(event.what)} {event.done}/{event.total}", event.done == event.total
            )
        elif isinstance(event, events.StepDone):
            self._step(event)
        elif isinstance(event, (events.Warned, events.RolledBack)):
            self._say(f"Note: {event.message}")
        elif isinstance(event, events.PreviewSaved):
            self._say(f"Previews of step {event.step} are in {event.folder}")
        elif isinstance(event, events.Evaluated):
            self._say(measured(event))
        elif isinstance(event, events.CheckpointSaved):
            self._say(f"Saved a checkpoint at step {event.step}")
        elif isinstance(event, events.Ended):
            self.close()

    def close(self) -> None:
        """End the living line."""
        if self.unfinished:
            say("")
            self.unfinished = False

    def _step(self, event: events.StepDone) -> None:
        self.loss = running_mean(self.loss, event.loss, LOSS_WEIGHT)
        self.pace = running_mean(self.pace, event.seconds)
        left = (self.total - event.step) * self.pace
        self._show(
            f"step {event.step}/{self.total}  loss {self.loss:.4f}  "
            f"rate {event.learning_rate:.2e}  {self.pace:.2f} s/step  {duration(left)} left",
            event.step == self.total,
        )

    def _show(self, line: str, last: bool) -> None:
        """A line that the next one of its kind replaces; in a log, one every few seconds."""
        now = time.monotonic()
        if self.living:
            say(line, end="", before="\r\x1b[K")
            self.unfinished = True
        elif last or now - self.last_printed >= LOG_INTERVAL:
            self.last_printed = now
            say(line)

    def _say(self, line: str) -> None:
        self.close()
        say(line)


def measured(event: events.Evaluated) -> str:
    """The meters in one line."""
    values = {meter.title: getattr(event.meters, meter.name) for meter in METERS}
    shown = [f"{title} {value:.3f}" for title, value in values.items() if value is not None]
    return f"Measured at step {event.step}: {', '.join(shown)}"
