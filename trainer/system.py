"""The process and its operating system. Nothing else asks which one it runs on for these."""

from __future__ import annotations

import atexit
import gc
import os
import time
from pathlib import Path

import psutil

IS_WINDOWS = os.name == "nt"
ON_BEHALF = "RAREBIT_ON_BEHALF"
"""Variable of a process that works for one on another machine: that one's id and start time."""
_PATIENCE_SECONDS = 2.0
# For a process that neither Ctrl-C nor the end of whoever starts it reaches: a session of its own,
# or on Windows a group of its own without a window (subprocess has these names there alone).
NEW_SESSION = not IS_WINDOWS
CREATION_FLAGS = 0x200 | 0x08000000 if IS_WINDOWS else 0


def collect_garbage_rarely() -> None:
    """Lets a process that loads large libraries start and end sooner; for its first line.

    Importing torch, transformers and diffusers makes half a million objects that stay. Python goes
    through all of them again and again while there come more, and once more at the end: 5.4 s of
    processor time for ``import trainer.training.loop`` instead of 3.5. What has just been made is
    collected as often as before: after a training with previews and measurements no tensor was left
    to a whole collection.
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 1000)
    atexit.register(gc.freeze)


def ask_to_stop(pid: int, request: Path) -> None:
    """Asks a run's process to finish its step, save and end.

    Windows has no signal that another process's handler could answer: there a file says it.

    Args:
        request: the file that the process looks for.
    """
    if IS_WINDOWS:
        request.touch()
    else:
        psutil.Process(pid).terminate()


def was_asked_to_stop(request: Path) -> bool:
    """Whether `ask_to_stop` has left its file, or the process that this one works for."""
    return (IS_WINDOWS or ON_BEHALF in os.environ) and request.exists()


def replace_file(source: Path, target: Path) -> None:
    """Renames a file over another.

    Windows refuses while somebody reads the other, such as the page a run's status: it waits.

    Raises:
        OSError: from the file system.
    """
    until = time.monotonic() + (_PATIENCE_SECONDS if IS_WINDOWS else 0)
    while True:
        try:
            source.replace(target)
            return
        except PermissionError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.01)
