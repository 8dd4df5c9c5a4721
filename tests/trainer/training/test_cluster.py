"""Runs on a real Ray cluster of two nodes on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, small_config
from tests.trainer.tuning.imagined import Imagined
from trainer.commands.cli import main
from trainer.config.file import with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.events import Ended, Phase, StepDone
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder, create_run, run_lock
from trainer.runs.log import read_events
from trainer.runs.status import at_work, own_status, read_status, write_status
from trainer.training.cluster import _train, reach_on_cluster

LONG = 300  # seconds: for everything here that is waited for


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes with a processor each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    memory: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster: Any = Cluster(
        initialize_head=True, head_node_args={**memory, "include_dashboard": False}
    )
    cluster.add_node(**memory)
    try:
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def until(true: Callable[[], Any]) -> Any:
    """Waits for it."""
    end = time.monotonic() + LONG
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def steps_of(run: RunFolder) -> list[int]:
    if not run.events.is_file():
        return []
    return [event.step for event in read_events(run) if isinstance(event, StepDone)]


def start(run: RunFolder, address: str, *more: str) -> subprocess.Popen[bytes]:
    """As the page starts a run."""
    log = (run.path / "worker.log").open("ab")
    command = [sys.executable, "-m", "trainer", "worker", str(run.path), "--ray", address, *more]
    return subprocess.Popen(command, stdout=log, stderr=log, cwd=PROJECT)


def training_in(run: RunFolder) -> psutil.Process:
    """The process of the cluster that trains a run: it holds the run's lock."""
    holder = run.lock.with_name(run.lock.name + ".holder")
    return psutil.Process(int(holder.read_text().partition('"pid": ')[2].partition(",")[0]))


@pytest.mark.slow
def test_runs_are_handed_to_a_cluster(address: str, tiny_base: TinyBase, tmp_path: Path) -> None:
    """Four at once on two nodes; a process is killed: nothing is lost, and nothing done twice. A
    fifth without pictures is refused there, and says so here."""
    base, images = tiny_base("sd1"), make_images(tmp_path / "images")
    changes = {"training__steps": 12, "checkpoints__every": 1, "previews__every": 0}
    runs: list[RunFolder] = []
    for number in range(4):
        runs.append(create_run(tmp_path, f"run{number}"))
        config = small_config(base, images, **changes, training__seed=number)
        write_config(runs[-1].config, config)
    empty = create_run(tmp_path, "empty")
    write_config(empty.config, small_config(base, tmp_path / "nothing", **changes))
    started = [start(run, address) for run in runs]
    refused = start(empty, address)
    first = until(lambda: next((run for run in runs if len(steps_of(run)) > 1), None))
    status = at_work(first)
    assert status and status.pid in {process.pid for process in started}
    training_in(first).kill()
    killed_after = max(steps_of(first))
    for run, process in zip(runs, started, strict=True):
        assert process.wait(LONG) == 0, (run.path / "worker.log").read_text()
        done = steps_of(run)
        assert sorted(set(done)) == list(range(1, 13))
        assert len(done) <= 12 + (2 if run is first else 0)  # at most what no checkpoint had yet
        ends = [event for event in read_events(run) if isinstance(event, Ended)]
        assert [end.reason for end in ends] == ["finished"] and run.adapter.is_file()
        assert (status := read_status(run)) and status.phase == "finished"
    assert killed_after < 12
    assert refused.wait(LONG) == 2
    assert (status := read_status(empty)) and status.phase == "failed"
    assert "nothing" in status.message
    assert (empty.path / "worker.log").read_text().count("error: ") == 1


@pytest.mark.slow
def test_a_run_there_is_stopped_and_resumed(
    address: str, tiny_base: TinyBase, tmp_path: Path
) -> None:
    base, images = tiny_base("sd1"), make_images(tmp_path / "images")
    run = create_run(tmp_path, "run")
    changes = {"training__steps": 5000, "checkpoints__every": 0, "previews__every": 0}
    write_config(run.config, small_config(base, images, **changes))
    process = start(run, address)
    until(lambda: steps_of(run))
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(LONG) == 130
    (step,) = run.checkpoint_steps()
    assert (status := read_status(run)) and (status.phase, status.step) == ("stopped", step)
    assert main(["resume", str(run.path), "--steps", str(step + 1)]) == 0  # here, without Ray
    assert steps_of(run)[-1] == step + 1


@pytest.mark.slow
def test_runs_of_a_search_are_trained_there(address: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "trial-1")
    trial = Imagined("trial-1", run, with_values(TrainingConfig(), {"training.steps": 8}), {})
    reach_on_cluster(address, [(trial, 4)])
    seen = trial.seen(4)
    assert seen and seen.drawn == trial.drawn(trial.config, 4)


@pytest.mark.parametrize(("phase", "finished"), [("finished", True), ("stopped", False)])
def test_what_a_lost_process_trains_on_is_not_begun_again(
    phase: Phase, finished: bool, tmp_path: Path
) -> None:
    """A node that its cluster has lost may be at work: the task in place of its own waits."""
    run = create_run(tmp_path, "run")
    write_config(run.config, small_config(tmp_path, tmp_path))  # which could not be trained
    found: list[bool] = []
    thread = Thread(target=lambda: found.append(_train(run, False)))
    with run_lock(run):
        thread.start()
        write_status(run, own_status(phase))
        assert not found
    thread.join(LONG)
    assert found == [finished]


def test_without_ray_the_way_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.training.cluster.find_spec", lambda _: None)
    run = create_run(tmp_path, "run")
    write_config(run.config, small_config(tmp_path, tmp_path))
    assert main(["worker", str(run.path), "--ray", "127.0.0.1:6379"]) == 2
    said = capsys.readouterr().err
    assert "package ray" in said and "pip install -r" in said
    pinned = (PROJECT / "trainer" / "training" / "ray.txt").read_text().strip()
    assert (PROJECT / "tests" / "requirements.txt").read_text().count(pinned) == 1


def test_a_run_on_several_cards_is_none_for_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--processes", "2", "--ray", "127.0.0.1:6379"]) == 2
    assert "Leave out one of them" in capsys.readouterr().err
