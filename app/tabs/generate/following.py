"""Long work in a thread, followed by a handler that tells the page how far it is."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True)
class Told:
    """How far the work is: step of total (0: not known), and what is done."""

    step: int
    total: int
    message: str


@dataclass
class Following(Generic[Value]):
    """Work that has been started.

    Attributes:
        stop: set it to withdraw the work at its next step.
    """

    work: Callable[[Callable[[int, int, str], None], Callable[[], bool]], Value]
    stop: threading.Event = field(default_factory=threading.Event)
    _told: queue.Queue[Told | None] = field(default_factory=queue.Queue)
    _value: list[Value] = field(default_factory=list)
    _error: list[BaseException] = field(default_factory=list)

    def steps(self) -> Generator[Told, None, None]:
        """Runs the work and yields the newest of what it tells; stops it if nobody listens.

        Raises:
            BaseException: what the work raised.
        """
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            while (told := self._newest()) is not None:
                yield told
        except GeneratorExit:
            self.stop.set()
            raise
        thread.join()
        if self._error:
            raise self._error[0]

    @property
    def value(self) -> Value:
        """What the work gave, once `steps` has ended."""
        return self._value[0]

    def _run(self) -> None:
        try:
            tell = lambda *told: self._told.put(Told(*told))  # noqa: E731
            self._value.append(self.work(tell, self.stop.is_set))
        except BaseException as error:  # raised again in the handler's thread
            self._error.append(error)
        finally:
            self._told.put(None)

    def _newest(self) -> Told | None:
        """The newest of what was told; what the page could not show in time is skipped."""
        told = self._told.get()
        while told is not None:
            try:
                later = self._told.get_nowait()
            except queue.Empty:
                return told
            told = later
        return None


class Stops:
    """How each browser withdraws its own work, and no other's."""

    def __init__(self) -> None:
        self._events: dict[str, threading.Event] = {}

    def put(self, session: str | None, event: threading.Event) -> None:
        """Remember what a session is doing."""
        self._events[session or ""] = event

    def take(self, session: str | None) -> None:
        """It has ended."""
        self._events.pop(session or "", None)

    def stop(self, session: str | None) -> None:
        """Withdraw what the session is doing, if anything."""
        event = self._events.get(session or "")
        if event is not None:
            event.set()
