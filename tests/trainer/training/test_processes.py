"""Two processes with half of each batch train what one process with the whole batch trains."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, small_config, train_small
from trainer.config.file import write_config
from trainer.events import StepDone
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder, open_run
from trainer.runs.log import last_of, read_events


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """With caches of its own."""
    return {**os.environ, "RAREBIT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", **more}


def command(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m trainer …``."""
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        cwd=PROJECT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )


def losses(run: RunFolder) -> dict[int, tuple[float, float | None]]:
    return {
        step: (event.loss, event.preservation)
        for step, event in last_of(read_events(run), StepDone).items()
    }


@pytest.fixture
def alone(tiny_base: TinyBase, tmp_path: Path) -> tuple[Path, RunFolder]:
    """A configuration file, and what one process makes of it."""
    images = make_images(tmp_path / "images", count=5)
    changes = {"training__batch_size": 4, "images__flip": True}
    config = small_config(tiny_base("sd1"), images, **changes)
    write_config(tmp_path / "config.toml", config)
    train_small(config, tmp_path / "alone")
    return tmp_path / "config.toml", open_run(tmp_path / "alone")


def assert_same_losses(one: RunFolder, two: RunFolder) -> None:
    assert sorted(losses(one)) == sorted(losses(two)) == [1, 2, 3, 4]
    for step, (loss, preservation) in losses(one).items():
        assert losses(two)[step][0] == pytest.approx(loss, abs=1e-5)
        assert losses(two)[step][1] == pytest.approx(preservation, abs=1e-5)


def test_two_processes_train_what_one_does(alone: tuple[Path, RunFolder], tmp_path: Path) -> None:
    file, one = alone
    run = tmp_path / "two"
    done = command(tmp_path, "train", "--config", str(file), "--run", str(run), "--processes", "2")
    assert done.returncode == 0, done.stderr
    two = open_run(run)
    assert_same_losses(one, two)
    # One writer: each event and each file once.
    kinds = [event.kind for event in read_events(two)]
    assert kinds.count("start") == kinds.count("end") == 1
    assert two.adapter.is_file()


def test_processes_that_a_launcher_started_share_a_run(
    alone: tuple[Path, RunFolder], tmp_path: Path
) -> None:
    """As ``accelerate launch`` starts them, on one machine or several: by their environment."""
    file, one = alone
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    arguments = ["train", "--config", str(file), "--run", str(tmp_path / "run")]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "trainer", *arguments],
            cwd=PROJECT,
            env=environment(tmp_path, MASTER_PORT=port, RANK=rank, LOCAL_RANK=rank, **shared),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    outputs = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert "Adapter:" in outputs[0][0]
    assert outputs[1][0] == ""
    assert_same_losses(one, open_run(tmp_path / "run"))


def test_a_mistake_is_said_once(tiny_base: TinyBase, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    file = tmp_path / "config.toml"
    write_config(file, small_config(tiny_base("sd1"), images, images__resolution=33))
    done = command(
        tmp_path,
        "train", "--config", str(file), "--run", str(tmp_path / "run"), "--processes", "2",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("not a multiple of") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
