"""One writer for each run folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from trainer.errors import UserError
from trainer.runs.disk import writing
from trainer.runs.layout import RunFolder


@contextmanager
def run_lock(run: RunFolder) -> Generator[None]:
    """Holds the run for this process until the block ends.

    The lock is the operating system's and goes with the process, however that ends: it is never
    stale. The file stays; only holding it means something.

    Raises:
        UserError: another process has it; the message names its pid.
    """
    lock = filelock.FileLock(run.lock, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"{run.path} is in use by {_holder(run)}",
            "Wait until it has finished, or stop it with Ctrl-C, and try again.",
        ) from None
    try:
        with writing(f"the lock of {run.path}"):
            _holder_file(run).write_text(json.dumps({"pid": os.getpid(), "since": time.time()}))
        yield
    finally:
        with suppress(OSError):
            _holder_file(run).unlink()
        lock.release()


def _holder_file(run: RunFolder) -> Path:
    # Beside the lock, since Windows lets nobody else read a locked file.
    return run.lock.with_name(run.lock.name + ".holder")


def _holder(run: RunFolder) -> str:
    try:
        return f"process {json.loads(_holder_file(run).read_bytes())['pid']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
