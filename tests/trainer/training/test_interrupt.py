"""A stop saves, at any time, and resume goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import digest, make_images, small_config, train_small
from trainer.config.file import write_config
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder
from trainer.runs.status import read_status
from trainer.training.interrupt import StopRequest

STEPS = 30
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_is_a_wish_once_there_is_something_to_save(number: signal.Signals) -> None:
    own = signal.signal(number, signal.SIG_DFL)  # whatever these tests were started under
    try:
        with StopRequest() as stop:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            assert not stop.requested
            stop.defer()
            signal.raise_signal(number)
            assert stop.requested
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, own)


def test_a_run_under_nohup_outlives_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def start(tmp_path: Path, file: Path, run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", "train", "--config", str(file), "--run", str(run)],
        cwd=PROJECT,
        env={**os.environ, "RAREBIT_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_stop_saves_and_resume_equals_never_stopped(tiny_base: TinyBase, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    file, run = tmp_path / "config.toml", RunFolder(tmp_path / "run")
    config = small_config(tiny_base("sd1"), images, training__steps=STEPS)
    write_config(file, config)
    process = start(tmp_path, file, run.path)
    while process.poll() is None:
        if run.events.is_file() and run.events.read_text().count('"event": "step"') >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "resume" in output
    assert "Traceback" not in errors
    status = read_status(run)
    assert status is not None
    assert (status.phase, status.code) == ("stopped", "user_stop")
    assert 2 <= status.step < STEPS
    assert run.checkpoint_steps() == [status.step]
    assert not run.adapter.exists()

    train_small(config, run.path, resume=True)
    whole, _ = train_small(config, tmp_path / "whole")
    assert digest(run.adapter) == digest(whole.run.adapter)


def test_ctrl_c_before_the_first_step_leaves_nothing(tiny_base: TinyBase, tmp_path: Path) -> None:
    file, run = tmp_path / "config.toml", tmp_path / "run"
    write_config(file, small_config(tiny_base("sd1"), make_images(tmp_path / "images")))
    process = start(tmp_path, file, run)
    while process.poll() is None and not (run / "status.json").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not run.exists()
