"""Work in a thread: what it tells arrives, and it ends when nobody listens."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from app.tabs.generate.following import Following, Stops, Told

Tell = Callable[[int, int, str], None]


def test_the_newest_is_told_and_the_value_is_kept() -> None:
    def work(tell: Tell, stop: Callable[[], bool]) -> str:
        for step in range(1000):
            tell(step, 1000, "at work")
        return "done"

    following = Following(work)
    steps = [told.step for told in following.steps()]
    assert steps == sorted(steps)
    assert following.value == "done"


def test_what_the_work_raises_is_raised() -> None:
    def work(tell: Tell, stop: Callable[[], bool]) -> None:
        tell(1, 2, "so far")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(Following(work).steps())


def test_work_is_withdrawn_when_the_listener_goes() -> None:
    ended = threading.Event()
    noticed = threading.Event()

    def work(tell: Tell, stop: Callable[[], bool]) -> None:
        tell(0, 0, "begun")
        while not stop() and not ended.wait(0.01):
            pass
        noticed.set()

    steps = Following(work).steps()
    assert next(steps) == Told(0, 0, "begun")
    steps.close()
    assert noticed.wait(10)
    ended.set()


def test_each_browser_stops_its_own_work() -> None:
    stops = Stops()
    mine, yours = threading.Event(), threading.Event()
    stops.put("me", mine)
    stops.put("you", yours)
    stops.stop("me")
    stops.stop("nobody")
    assert (mine.is_set(), yours.is_set()) == (True, False)
    stops.take("you")
    stops.stop("you")
    assert not yours.is_set()
