"""Stopping in an orderly way on Ctrl-C, SIGTERM and a closed terminal."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


class StopRequest:
    """Turns the first of these signals into a wish that the training loop sees.

    Before the loop runs there is nothing to save, and the signal interrupts at once; `defer` is
    called when there is. A second Ctrl-C leaves at once: everything on disk is written
    atomically, so nothing is damaged.
    """

    def __init__(self) -> None:
        self.requested = False
        self.deferred = False

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._handle) for number in _signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From now on a first request waits for the end of the step."""
        self.deferred = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.deferred:
            raise KeyboardInterrupt
        if self.requested and number == signal.SIGINT:
            sys.stderr.write("\nLeaving at once; the last checkpoint is whole.\n")
            sys.stderr.flush()
            os._exit(130)
        self.requested = True


def _signals() -> list[signal.Signals]:
    wanted = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP"):  # not on Windows
        # A run under nohup ignores it: it is meant to outlive its terminal.
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        wanted += [] if ignored else [signal.SIGHUP]
    return wanted
