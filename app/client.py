"""Asking the service worker, which holds the models that the page must not.

One worker serves the whole page. It starts with the first call, and again after it has ended,
whether from idleness or because it crashed; a call that was under way is then told so.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app import jobs
from trainer.errors import UserError

OnProgress = Callable[[int, int, str], None]
ShouldStop = Callable[[], bool]

LOOK_SECONDS = 0.2
"""How often a waiting call looks whether it is to stop."""

GRACE_SECONDS = 20.0
"""How long the worker has to reach its next step after it was told to stop."""

LOADING_SECONDS = 240.0
"""What starting the worker and loading a base model may take more than the call's own time."""


class Stopped(UserError):
    """The call was withdrawn."""

    def __init__(self) -> None:
        super().__init__("Stopped.")


class _Ended(Exception):
    """The worker is gone."""


@dataclass
class _Worker:
    """A running process and the lines that it has said; None at their end."""

    process: jobs.ServiceProcess
    lines: queue.Queue[str | None]

    @classmethod
    def start(cls) -> _Worker:
        worker = cls(jobs.spawn_service(), queue.Queue())
        threading.Thread(target=worker._listen, daemon=True).start()
        return worker

    def _listen(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in self.process.stdout or ():
                self.lines.put(line)
        self.lines.put(None)

    def say(self, message: Mapping[str, object]) -> None:
        """Raises `_Ended` where nobody listens any more."""
        if self.process.stdin is None or self.process.poll() is not None:
            raise _Ended
        try:
            self.process.stdin.write(json.dumps(message, allow_nan=False) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise _Ended from None

    def end(self) -> None:
        """Ends the process, whatever it does."""
        with contextlib.suppress(OSError):
            self.process.kill()
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        self.process.wait()


class ServiceClient:
    """Calls to one worker: one at a time, the others wait for their turn."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._worker: _Worker | None = None
        self._numbers = itertools.count(1)

    def call(
        self,
        verb: str,
        arguments: Mapping[str, object],
        timeout: float,
        on_progress: OnProgress | None = None,
        should_stop: ShouldStop = lambda: False,
    ) -> Any:
        """Ask, and wait for the answer.

        Args:
            timeout: seconds without a sign of life, after which the worker is ended; loading the
                libraries and a base model does not count.
            on_progress: is told (step, total, what is done), in this thread.
            should_stop: asked several times a second; once it says so, the call ends at its next
                step.

        Returns:
            The verb's value, as JSON gives it: types end here.

        Raises:
            Stopped: as ``should_stop`` wished.
            UserError: the worker's own words, or that it did not answer or has ended.
        """
        while not self._turn.acquire(timeout=LOOK_SECONDS):
            if should_stop():
                raise Stopped
        try:
            return self._call(verb, arguments, timeout, on_progress or _nobody, should_stop)
        finally:
            self._turn.release()

    def close(self) -> None:
        """End the worker; the next call starts another one."""
        self._end()

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    def _call(
        self,
        verb: str,
        arguments: Mapping[str, object],
        timeout: float,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> Any:
        told = False

        def watched(step: int, total: int, message: str) -> None:
            nonlocal told
            told = True
            on_progress(step, total, message)

        was_there = self._worker is not None
        for may_be_stale in (True, False) if was_there else (False,):
            try:
                return self._ask(verb, arguments, timeout, watched, should_stop)
            except _Ended:
                self._end()
                # One that was idle may have ended at this very moment: not the request's fault.
                if may_be_stale and not told:
                    continue
                break
        raise UserError(
            "The worker that this page asks has ended unexpectedly.",
            "Try again: another one starts by itself. If it happens again, the memory may not "
            "suffice for this base model.",
        )

    def _ask(
        self,
        verb: str,
        arguments: Mapping[str, object],
        timeout: float,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> Any:
        number = next(self._numbers)
        request = {"id": number, "verb": verb, "arguments": dict(arguments)}
        if self._worker is None:
            self._worker = _Worker.start()
        worker = self._worker
        worker.say(request)
        deadline = time.monotonic() + timeout + LOADING_SECONDS
        stopping = False
        while True:
            if not stopping and should_stop():
                stopping = True
                worker.say({"verb": "cancel", "arguments": {"id": number}})
                deadline = time.monotonic() + GRACE_SECONDS
            try:
                line = worker.lines.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if time.monotonic() > deadline:
                    self._end()
                    raise (Stopped() if stopping else _silent(timeout)) from None
                continue
            if line is None:
                raise _Ended
            answer = json.loads(line)
            if answer.get("id") != number:
                continue
            if answer["event"] == "progress":
                if not stopping:
                    loading = 0.0 if answer["step"] else LOADING_SECONDS
                    deadline = time.monotonic() + timeout + loading
                    on_progress(answer["step"], answer["total"], answer["message"])
            elif answer["event"] == "result":
                return answer["value"]
            elif stopping:
                raise Stopped
            else:
                raise UserError(answer["message"], answer["hint"])


def _nobody(step: int, total: int, message: str) -> None:
    """Progress that nobody watches."""


def _silent(timeout: float) -> UserError:
    return UserError(
        f"There was no answer within {timeout:.0f} seconds, so this was ended.",
        "Try it again; where the machine is slow, ask for less at once.",
    )


_client = ServiceClient()
call = _client.call
close = _client.close
atexit.register(close)
