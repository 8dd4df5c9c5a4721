"""Ctrl-C and SIGTERM finish the step, save, and exit with 130; ``resume`` goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import digest, make_images, small_config
from tests.trainer.training.test_processes import command
from trainer.config.file import write_config
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder
from trainer.runs.status import read_status

STEPS = 60


def start(tmp_path: Path, file: Path, run: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "RAREBIT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", "train", "--config", str(file), "--run", str(run)],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(run: RunFolder, process: subprocess.Popen[str]) -> None:
    """Until some steps are done."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if run.events.is_file() and run.events.read_text().count('"event": "step"') >= 2:
            return
        time.sleep(0.02)
    pytest.fail(f"no step was made: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_saves_and_resume_equals_never_stopped(
    tiny_base: TinyBase, tmp_path: Path, number: signal.Signals
) -> None:
    images = make_images(tmp_path / "images")
    file = tmp_path / "config.toml"
    write_config(file, small_config(tiny_base("sd1"), images, training__steps=STEPS))
    run = RunFolder(tmp_path / "run")
    process = start(tmp_path, file, run.path)
    wait_for_step(run, process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "resume" in output
    assert "Traceback" not in errors
    status = read_status(run)
    assert status is not None
    assert status.phase == "stopped"
    assert 2 <= status.step < STEPS
    assert run.checkpoint_steps() == [status.step]
    assert not run.adapter.exists()

    resumed = command(tmp_path, "resume", str(run.path))
    assert resumed.returncode == 0, resumed.stderr
    whole = command(tmp_path, "train", "--config", str(file), "--run", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    assert digest(run.adapter) == digest(tmp_path / "whole" / "adapter.safetensors")


def test_ctrl_c_before_the_first_step_leaves_nothing(tiny_base: TinyBase, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    file = tmp_path / "config.toml"
    write_config(file, small_config(tiny_base("sd1"), images))
    run = tmp_path / "run"
    process = start(tmp_path, file, run)
    deadline = time.monotonic() + 60
    while not (run / "status.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not run.exists()
