"""What a process knows that ``--processes`` has started: by whom, and whom it tells why it ends."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from trainer.errors import UserError

LAUNCHER = "RAREBIT_LAUNCHER"
"""The variable with the process id of the launcher, …"""
REFUSALS = "RAREBIT_REFUSALS"
"""… and the one with the folder where each process says why it ends, instead of printing it."""
GRACE_SECONDS = 120.0
"""How long a process has to save and end once its launcher is gone."""


def note_refusal(error: UserError) -> bool:
    """Leaves it to the launcher to say what is wrong, once for all; False where there is none."""
    folder = os.environ.get(REFUSALS)
    if folder is None:
        return False
    told = {"message": error.message, "hint": error.hint, "code": error.code, "at": time.time()}
    with suppress(OSError):
        (Path(folder) / f"{os.getpid()}.json").write_text(json.dumps(told), encoding="utf-8")
    return True


def first_refusal(folder: Path) -> UserError | None:
    """What was wrong first: that another has ended is what the others saw of it."""
    told: list[dict[str, Any]] = []
    for file in folder.iterdir():
        with suppress(ValueError):  # of a process that was killed while it wrote
            told.append(cast("dict[str, Any]", json.loads(file.read_bytes())))
    told.sort(key=lambda one: (one["code"] == "process_lost", one["at"]))
    return UserError(told[0]["message"], told[0]["hint"], told[0]["code"]) if told else None


def end_with_launcher(
    parent: Callable[[], int] = os.getppid, wait: Callable[[float], None] = time.sleep
) -> threading.Thread | None:
    """Where `launch` started this process: ends it, as Ctrl-C does, once the launcher is gone."""
    launcher = int(os.environ.get(LAUNCHER, "0"))
    if not launcher or os.name == "nt":
        return None

    def watch() -> None:
        while parent() == launcher:
            wait(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        wait(GRACE_SECONDS)
        os._exit(130)

    thread = threading.Thread(target=watch, name="launcher", daemon=True)
    thread.start()
    return thread
