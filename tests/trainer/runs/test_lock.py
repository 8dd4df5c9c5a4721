"""One writer a run; the lock goes with the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import UserError
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder, create_run
from trainer.runs.lock import run_lock

HOLDER = (
    "import sys, pathlib\n"
    "from trainer.runs.layout import RunFolder\n"
    "from trainer.runs.lock import run_lock\n"
    "with run_lock(RunFolder(pathlib.Path(sys.argv[1]))):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, "run")


def hold(run: RunFolder) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_second_is_told_who_has_it_and_a_kill_frees_it(run: RunFolder) -> None:
    with hold(run) as process:
        for _ in range(2):  # asking does not take it
            with pytest.raises(UserError, match=f"in use by process {process.pid}"), run_lock(run):
                pass
        process.kill()
        process.wait()
    with run_lock(run), pytest.raises(UserError, match=f"process {os.getpid()}"), run_lock(run):
        pass


def test_lock_is_freed_by_an_error(run: RunFolder) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(run):
        _ = 1 / 0
    with run_lock(run):
        pass
