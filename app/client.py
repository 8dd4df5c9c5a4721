"""Asking the service worker, which holds the models that the page must not.

One worker serves the whole page. It starts with the first call, and again after it has ended,
whether from idleness or because it crashed; a call that was under way then raises.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from app import jobs
from app.allowed import check_base
from trainer.errors import UserError
from trainer.events import Progress

ShouldStop = Callable[[], bool]
Value = TypeVar("Value")

POLL_SECONDS = 0.2
"""How often a waiting call asks whether it is to stop."""

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


class _Worker:
    """A running process, and the lines that it has written; None at their end."""

    def __init__(self) -> None:
        self.process = jobs.spawn_service()
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in self.process.stdout or ():
                self.lines.put(line)
        self.lines.put(None)

    def send(self, message: Mapping[str, object]) -> None:
        """Raises `_Ended` where nobody listens any more."""
        if self.process.stdin is None or self.process.poll() is not None:
            raise _Ended
        try:
            self.process.stdin.write(json.dumps(message, allow_nan=False) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise _Ended from None

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.process.kill()
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        self.process.wait()


@dataclass
class _Call:
    """One request, as `ServiceClient.call` was given it; `answered`: it has shown progress."""

    verb: str
    arguments: Mapping[str, object]
    timeout: float
    on_progress: Progress | None
    should_stop: ShouldStop
    answered: bool = False


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
        on_progress: Progress | None = None,
        should_stop: ShouldStop = lambda: False,
    ) -> Any:
        """Asks the worker, and waits for its answer.

        Args:
            timeout: seconds without a sign of life, after which the worker is ended; loading the
                libraries and a base model does not count.
            on_progress: is called in this thread.
            should_stop: asked several times a second; once it says so, the call ends at its next
                step.

        Returns:
            The verb's value, as JSON gives it.

        Raises:
            Stopped: as ``should_stop`` wished.
            UserError: the worker's own words, that it did not answer or has ended, or that the base
                model is another file of this machine.
        """
        if isinstance(base := arguments.get("base"), str):
            check_base(base)
        while not self._turn.acquire(timeout=POLL_SECONDS):
            if should_stop():
                raise Stopped
        try:
            call = _Call(verb, arguments, timeout, on_progress, should_stop)
            # A worker that was idle may end at this very moment: then a second one is asked.
            for _ in range(2 if self._worker is not None else 1):
                try:
                    return self._ask(call)
                except _Ended:
                    self.close()
                    if call.answered:
                        break
            raise UserError(
                "The process that works for this page has ended unexpectedly.",
                "Try again: another one starts by itself. If it happens again, the machine may "
                "have too little memory for this base model.",
            )
        finally:
            self._turn.release()

    def close(self) -> None:
        """Ends the worker; the next call starts another one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    def _ask(self, call: _Call) -> Any:
        number = next(self._numbers)
        if self._worker is None:
            self._worker = _Worker()
        worker = self._worker
        worker.send({"id": number, "verb": call.verb, "arguments": dict(call.arguments)})
        deadline = time.monotonic() + call.timeout + LOADING_SECONDS
        stopping = False
        while True:
            if not stopping and call.should_stop():
                stopping = True
                worker.send({"verb": "cancel", "arguments": {"id": number}})
                deadline = time.monotonic() + GRACE_SECONDS
            try:
                line = worker.lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if time.monotonic() > deadline:
                    self.close()
                    if stopping:
                        raise Stopped from None
                    said = f"There was no answer within {call.timeout:.0f} seconds: it was ended."
                    hint = "Try again; if the machine is slow, ask for less at once."
                    raise UserError(said, hint) from None
                continue
            if line is None:
                raise _Ended
            answer = json.loads(line)
            if answer.get("id") != number:
                continue
            if answer["event"] == "result":
                return answer["value"]
            if answer["event"] == "error":
                error = UserError(answer["message"], answer["hint"], answer.get("code", "defect"))
                raise Stopped if stopping else error
            if not stopping:
                loading = 0.0 if answer["step"] else LOADING_SECONDS
                deadline = time.monotonic() + call.timeout + loading
                call.answered = True
                if call.on_progress:
                    call.on_progress(answer["step"], answer["total"], answer["message"])


_client = ServiceClient()
"""The page's own."""
call, close = _client.call, _client.close
atexit.register(close)


class ProgressUpdate(NamedTuple):
    """How far work is: step of total (0: not known), and what is done."""

    step: int
    total: int
    message: str


def follow(
    work: Callable[[Progress, ShouldStop], Value], stop: threading.Event
) -> Generator[ProgressUpdate, None, Value]:
    """Does long work in a thread and yields the newest of its progress, for a handler of the page.

    Progress that the page could not show in time is left out. The work is asked to stop when
    nobody listens any more.

    Args:
        work: gets a function to tell its progress to, and one that says whether to stop.
        stop: may be set to stop the work.

    Returns:
        What the work gives.

    Raises:
        BaseException: what the work raises.
    """
    news: queue.SimpleQueue[ProgressUpdate | None] = queue.SimpleQueue()
    done: Future[Value] = Future()

    def run() -> None:
        try:
            done.set_result(work(lambda *update: news.put(ProgressUpdate(*update)), stop.is_set))
        except BaseException as error:  # raised again in the handler's thread
            done.set_exception(error)
        finally:
            news.put(None)

    threading.Thread(target=run, daemon=True).start()
    try:
        while (newest := news.get()) is not None:
            while not news.empty():
                later = news.get()
                if later is None:
                    return done.result()
                newest = later
            yield newest
    except GeneratorExit:
        stop.set()
        raise
    return done.result()
