"""A status is whole, and says whether its process still lives."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from trainer.config.file import read_config, write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import Phase
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder, create_run
from trainer.runs.status import (
    ENDED,
    Status,
    effective_status,
    is_alive,
    lengthen,
    own_status,
    read_status,
    write_status,
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, "run")


@pytest.mark.parametrize("phase", get_args(Phase))
def test_status_comes_back(phase: Phase, run: RunFolder) -> None:
    status = Status(phase, 3, 10, 12.5, os.getpid(), 1.25, "ü")
    write_status(run, status)
    assert read_status(run) == status


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"{}", b'{"phase": "dancing"}', b"\xff\xfe", b"[" * 9000]
)
def test_unreadable_status_is_none(content: bytes, run: RunFolder) -> None:
    assert read_status(run) is None
    run.status.write_bytes(content)
    assert read_status(run) is None
    assert effective_status(run) is None


@pytest.mark.parametrize("pid", ['"12"', "null", "[1]", "1e300", str(2**70), "{}"])
def test_a_pid_that_is_none_is_no_sign_of_life(pid: str, run: RunFolder) -> None:
    content = f'{{"phase": "training", "step": 4, "pid": {pid}, "process_started": 1.0}}'
    run.status.write_text(content)
    status = effective_status(run)
    assert status is None or status.phase == "stopped"


def test_fields_of_a_newer_version_are_passed_over(run: RunFolder) -> None:
    run.status.write_bytes(b'{"phase": "training", "step": 4, "mood": "good", "code": "sulking"}')
    status = read_status(run)
    assert status is not None and status.step == 4


def test_own_process_lives_and_a_reused_pid_does_not() -> None:
    status = own_status("training", 5, 10)
    assert is_alive(status)
    assert not is_alive(replace(status, process_started=status.process_started - 60))
    assert not is_alive(replace(status, pid=2**22 + 1))
    assert not is_alive(replace(status, pid=-1))


def test_a_run_is_lengthened_beyond_what_it_has_done(run: RunFolder) -> None:
    write_config(run.config, TrainingConfig())
    run.checkpoint(5).mkdir(parents=True)
    for steps in (4, 5):
        with pytest.raises(UserError, match="has done 5 steps already"):
            lengthen(run, steps)
    lengthen(run, 6)
    assert read_config(run.config).training.steps == 6
    write_status(run, own_status("training", 5, 6))
    with pytest.raises(UserError, match="is training now"):
        lengthen(run, 7)


def test_killed_run_is_shown_as_stopped(run: RunFolder) -> None:
    """FAULTS 37."""
    code = (
        "import os, sys, pathlib\n"
        "from trainer.runs.layout import RunFolder\n"
        "from trainer.runs.status import own_status, write_status\n"
        "write_status(RunFolder(pathlib.Path(sys.argv[1])), own_status('training', 7, 20))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", code, str(run.path)], env=environment)
    status = effective_status(run)
    assert status is not None and (status.phase, status.step) == ("stopped", 7)
    assert status.message == "stopped at step 7 (killed)"


def test_a_process_that_has_ended_but_is_not_waited_for_is_dead() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1
    ) as child:
        import psutil

        started = psutil.Process(child.pid).create_time()
        status = Status("training", pid=child.pid, process_started=started)
        assert is_alive(status)
        child.kill()
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        assert not is_alive(status)


@pytest.mark.parametrize("phase", sorted(ENDED))
def test_ended_runs_stay_as_they_are(phase: Phase, run: RunFolder) -> None:
    status = Status(phase, 3, 10, pid=2**22 + 1, message="as it was")
    write_status(run, status)
    assert effective_status(run) == status
