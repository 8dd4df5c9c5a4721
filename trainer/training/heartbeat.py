"""Notices that another process of a run no longer answers, as when a cable is pulled.

A connection that nobody has closed stays open: what waits for the other side would wait for half an
hour. So each process says regularly that it lives, and hears of the others what they say; all of
them may be at work for minutes without meeting, such as while the main one draws.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import cast

import torch
from torch import Tensor

from trainer.errors import UserError

EVERY_SECONDS = 5.0
PATIENCE_SECONDS = float(os.environ.get("RAREBIT_PATIENCE", "120"))
_LOOK_SECONDS = 0.001


class Heartbeat:
    """Says in a thread that this process lives.

    Args:
        rank, world: this process, and how many there are.
    """

    def __init__(self, rank: int, world: int) -> None:
        self._own, others = f"rarebit/{rank}", [n for n in range(world) if n != rank]
        # Of each other: what it has said last, and when.
        self._heard = {f"rarebit/{one}": (b"", time.monotonic()) for one in others}
        threading.Thread(target=self._say, name="heartbeat", daemon=True).start()

    @property
    def alone(self) -> bool:
        """Whether one of the others has said nothing for too long."""
        longest = time.monotonic() - min(when for _, when in self._heard.values())
        return longest > PATIENCE_SECONDS

    def _say(self) -> None:
        place, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        patience = timedelta(seconds=PATIENCE_SECONDS)
        store: torch.distributed.Store | None = None
        for beat in range(sys.maxsize):
            with suppress(RuntimeError):  # where it cannot be reached the others are not heard
                store = store or torch.distributed.TCPStore(
                    place, port, timeout=patience, wait_for_workers=False
                )
                store.set(self._own, str(beat))
                for name, (said, _) in self._heard.items():
                    now = store.get(name) if store.check([name]) else said
                    if now != said:
                        self._heard[name] = (now, time.monotonic())
            time.sleep(EVERY_SECONDS)


_heartbeat: list[Heartbeat] = []


def begin(rank: int, world: int) -> None:
    """From now on this process says that it lives, where there are several."""
    if world > 1 and not _heartbeat:
        _heartbeat.append(Heartbeat(rank, world))


def add_up(flat: Tensor) -> None:
    """Sums a tensor over all processes, in place.

    Raises:
        UserError: one of them no longer answers.
        RuntimeError: one of them has ended.
    """
    work = cast(torch.distributed.Work, torch.distributed.all_reduce(flat, async_op=True))
    while _heartbeat and not work.is_completed():
        if _heartbeat[0].alone:
            atexit.register(_leave)  # torch would wait for the answer before it lets go
            raise UserError(
                f"One of this run's machines has not answered for {PATIENCE_SECONDS:.0f} seconds.",
                "What was learned until then is saved: go on with resume.",
                "process_lost",
            )
        time.sleep(_LOOK_SECONDS)
    work.wait()


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)
