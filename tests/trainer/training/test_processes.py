"""Two processes with half of each batch train what one process with the whole batch trains."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, small_config
from trainer.config.file import write_config
from trainer.events import StepDone
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder, open_run
from trainer.runs.log import last_of, read_events

STEPS = 20


def command(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m trainer …`` with its caches kept apart."""
    environment = {
        **os.environ,
        "RAREBIT_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def losses(run: RunFolder) -> dict[int, tuple[float, float | None]]:
    return {
        step: (event.loss, event.preservation)
        for step, event in last_of(read_events(run), StepDone).items()
    }


def test_two_processes_train_what_one_does(tiny_base: TinyBase, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", count=5)
    config = small_config(
        tiny_base("sd1"), images, training__steps=STEPS, training__batch_size=4, images__flip=True
    )
    file = tmp_path / "config.toml"
    write_config(file, config)
    for name, processes in (("one", "1"), ("two", "2")):
        done = command(
            tmp_path,
            "train", "--config", str(file), "--run", str(tmp_path / name),
            "--processes", processes,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two = open_run(tmp_path / "one"), open_run(tmp_path / "two")
    assert sorted(losses(one)) == sorted(losses(two)) == list(range(1, STEPS + 1))
    for step, (loss, preservation) in losses(one).items():
        assert losses(two)[step][0] == pytest.approx(loss, abs=1e-5)
        assert losses(two)[step][1] == pytest.approx(preservation, abs=1e-5)
    # One writer: each event and each file once.
    kinds = [event.kind for event in read_events(two)]
    assert kinds.count("start") == kinds.count("end") == 1
    assert two.adapter.is_file()


def test_processes_that_a_launcher_started_share_a_run(tiny_base: TinyBase, tmp_path: Path) -> None:
    """As ``accelerate launch`` starts them, on one machine or several: by their environment."""
    images = make_images(tmp_path / "images", count=5)
    file = tmp_path / "config.toml"
    write_config(file, small_config(tiny_base("sd1"), images, training__batch_size=4))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    arguments = ["train", "--config", str(file), "--run", str(tmp_path / "run")]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "trainer", *arguments],
            cwd=PROJECT,
            env={
                **os.environ,
                **shared,
                "RAREBIT_CACHE": str(tmp_path / "cache"),
                "OMP_NUM_THREADS": "1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=200) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert "Adapter:" in outputs[0][0]
    assert outputs[1][0] == ""
    alone = command(tmp_path, "train", "--config", str(file), "--run", str(tmp_path / "alone"))
    assert alone.returncode == 0, alone.stderr
    together = losses(open_run(tmp_path / "run"))
    for step, (loss, _) in losses(open_run(tmp_path / "alone")).items():
        assert together[step][0] == pytest.approx(loss, abs=1e-5)


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
