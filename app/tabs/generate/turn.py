"""Drawing on a device where something trains: between two steps, or after the training."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from app import jobs
from app.client import POLL_SECONDS, ShouldStop, Stopped
from trainer.errors import UserError
from trainer.events import Progress
from trainer.runs.layout import RunFolder
from trainer.runs.wishes import is_wished, take_back, wish_for_room

_RENEW_SECONDS = 10.0
_BEFORE = ("preparing", "caching")
"""Phases of a run that has begun; it forgets there what was wished of the one before."""

Value = TypeVar("Value")


def take_turn(
    work: Callable[[ShouldStop], Value], tell: Progress | None, should_stop: ShouldStop
) -> Value:
    """Does what needs the device: at once, or while the run that trains waits after its step.

    Where the memory does not suffice for both, it is done when the run has ended. What waits in
    the queue starts then, and makes room in its turn.

    Args:
        work: is given what says whether to stop, and asks it several times a second.
        tell: is told what is waited for.

    Raises:
        Stopped: as ``should_stop`` wished.
        UserError: what the work raises, or the run makes no room.
    """
    while busy := jobs.busy():
        run = jobs.run_folder(busy.name)
        try:
            if not _wait_for_room(run, tell, should_stop):
                continue  # it has ended
            return work(_asking_again(run, should_stop))
        except UserError as error:
            if error.code != "out_of_memory":
                raise
        finally:
            with suppress(OSError):
                take_back(run, "room")
        text = (
            f"There is no memory for a drawing beside {run.name}: it is drawn when that has ended"
        )
        _wait(lambda name=run.name: _is_alive(name), text, tell, should_stop)
    try:
        return work(should_stop)
    except UserError as error:
        if error.code != "device_busy" or not jobs.busy():
            raise
    return take_turn(work, tell, should_stop)  # a training has begun meanwhile


def _wait_for_room(run: RunFolder, tell: Progress | None, should_stop: ShouldStop) -> bool:
    """Whether the run waits now; False: it has ended.

    Raises:
        UserError: it makes no room, as a training of several processes does not.
    """
    wish_for_room(run)
    ask = _asking_again(run, should_stop)
    refused = False

    def goes_on() -> bool:
        nonlocal refused
        info = jobs.info(run)
        if not info.alive or info.phase == "paused":
            return False
        if not is_wished(run, "room"):
            refused = info.phase not in _BEFORE
            wish_for_room(run)
        return not refused

    text = f"Waits until {run.name} has finished its step"
    if jobs.info(run).phase == "measuring":
        text = f"Waits until {run.name} is measured"
    _wait(goes_on, text, tell, ask)
    if refused and _is_alive(run.name):
        raise UserError(
            f"{run.name} trains, and can't be made to wait.",
            "Draw when it has finished, or stop it in Runs; it can go on later.",
        )
    return _is_alive(run.name)


def _wait(
    goes_on: Callable[[], bool], text: str, tell: Progress | None, should_stop: ShouldStop
) -> None:
    if tell is not None:
        tell(0, 0, text)
    while goes_on():
        if should_stop():
            raise Stopped
        time.sleep(POLL_SECONDS)


def _is_alive(name: str) -> bool:
    try:
        return jobs.info(jobs.run_folder(name)).alive
    except UserError:  # it was deleted
        return False


def _asking_again(run: RunFolder, should_stop: ShouldStop) -> ShouldStop:
    """What says whether to stop, and keeps the run waiting as long as it is asked."""
    last = time.monotonic()

    def ask() -> bool:
        nonlocal last
        if time.monotonic() - last > _RENEW_SECONDS:
            last = time.monotonic()
            wish_for_room(run)
        return should_stop()

    return ask
