"""Two processes with half of each batch train what one process with the whole batch trains."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import digest, make_images, small_config, train_small
from trainer.commands.cli import main
from trainer.config.file import read_config, with_values, write_config
from trainer.errors import UserError
from trainer.events import StepDone
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder, open_run
from trainer.runs.log import last_of, read_events
from trainer.runs.status import read_status
from trainer.training import processes
from trainer.training.processes import StopRequest


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


@pytest.fixture(scope="module")
def alone(tiny_base: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunFolder]:
    """A configuration file, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("alone")
    images = make_images(folder / "images", count=5)
    changes: dict[str, Any] = {"training__batch_size": 4, "images__flip": True}
    # So that longer runs begin with the same steps.
    changes["optimizer__schedule"] = "constant"
    config = small_config(tiny_base("sd1"), images, **changes)
    write_config(folder / "config.toml", config)
    train_small(config, folder / "alone")
    return folder / "config.toml", open_run(folder / "alone")


def assert_same_losses(one: RunFolder, two: RunFolder, steps: int = 4) -> None:
    """In the first steps, which are all that one has."""
    assert sorted(losses(one)) == [1, 2, 3, 4]
    for step in range(1, steps + 1):
        loss, preservation = losses(one)[step]
        assert losses(two)[step][0] == pytest.approx(loss, abs=1e-5)
        assert losses(two)[step][1] == pytest.approx(preservation, abs=1e-5)


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
    run = open_run(tmp_path / "run")
    assert_same_losses(one, run)
    # One writer: each event and each file once.
    kinds = [event.kind for event in read_events(run)]
    assert kinds.count("start") == kinds.count("end") == 1 and kinds.count("step") == 4
    assert run.adapter.is_file()


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


class Training:
    """A training of two processes, whose parts can be killed."""

    def __init__(self, tmp_path: Path, run: RunFolder, *arguments: str) -> None:
        self.run, self._before = run, max(losses(run), default=0) if run.events.exists() else 0
        self.launcher = subprocess.Popen(
            [sys.executable, "-m", "trainer", *arguments, "--processes", "2"],
            cwd=PROJECT,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def workers(self) -> list[psutil.Process]:
        """The two, the main one first; returns when both train."""
        while not self.run.events.exists() or max(losses(self.run), default=0) < self._before + 2:
            assert self.launcher.poll() is None, self.launcher.communicate()
            time.sleep(0.1)
        children = psutil.Process(self.launcher.pid).children()
        found = [one for one in children if "RANK" in one.environ()]
        return sorted(found, key=lambda one: int(one.environ()["RANK"]))


def end_of(process: psutil.Process) -> None:
    """Waits until another's process has ended."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.1)


@pytest.mark.slow
def test_whatever_process_is_killed_what_was_learned_is_saved(
    alone: tuple[Path, RunFolder], tmp_path: Path
) -> None:
    """First one that only trains, then the main one, then the launcher; each time it is resumed.

    What was trained until then is what one process trains.
    """
    run, file = RunFolder(tmp_path / "run"), tmp_path / "config.toml"
    write_config(file, with_values(read_config(alone[0]), {"training.steps": 5000}))
    saved = 0
    for victim in (1, 0):
        how = ["resume", str(run.path)]
        how = how if saved else ["train", "--config", str(file), "--run", str(run.path)]
        training = Training(tmp_path, run, *how)
        training.workers()[victim].kill()
        _, said = training.launcher.communicate()
        assert training.launcher.returncode == 2
        assert said.count("error: ") == 1 and "has ended unexpectedly" in said
        assert "Traceback" not in said
        assert run.checkpoint_steps()[-1] >= saved + 2
        saved = run.checkpoint_steps()[-1]
    assert_same_losses(alone[1], run, steps=2)
    training = Training(tmp_path, run, "resume", str(run.path))
    workers = training.workers()
    training.launcher.kill()
    for worker in workers:
        end_of(worker)
    training.launcher.communicate()
    assert run.checkpoint_steps()[-1] >= saved + 2


@pytest.mark.slow
def test_a_process_that_no_longer_answers_is_noticed(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections stay open, as those of a machine whose cable is pulled."""
    monkeypatch.setenv("RAREBIT_PATIENCE", "12")
    run, file = RunFolder(tmp_path / "run"), tmp_path / "config.toml"
    images = make_images(tmp_path / "images", count=4)
    changes = {"training__steps": 5000, "checkpoints__every": 0, "previews__every": 0}
    write_config(file, small_config(tiny_base("sd1"), images, **changes))
    training = Training(tmp_path, run, "train", "--config", str(file), "--run", str(run.path))
    main_one, silent = training.workers()
    silent.suspend()
    end_of(main_one)
    silent.kill()
    _, said = training.launcher.communicate()
    assert training.launcher.returncode == 2
    assert said.count("error: ") == 1 and "has not answered for 12 seconds" in said
    assert run.checkpoint_steps()[-1] >= 2


def test_the_launcher_says_what_was_wrong_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is why one refused, not that the others have seen it end."""
    lost = UserError("One has ended.", "Resume.", "process_lost")
    assert not processes.note_refusal(lost)
    monkeypatch.setenv(processes.REFUSALS, str(tmp_path))
    assert processes.first_refusal(tmp_path) is None
    (tmp_path / "half.json").write_text('{"mess')
    for pid, error in enumerate(
        (lost, UserError("Too small.", "Larger."), UserError("Later."), lost)
    ):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        assert processes.note_refusal(error)
    first = processes.first_refusal(tmp_path)
    assert first is not None and (first.message, first.hint) == ("Too small.", "Larger.")


def test_a_process_ends_after_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-C; at once where that takes too long."""
    done: list[object] = []
    monkeypatch.setattr(os, "kill", lambda _, number: done.append(number))
    monkeypatch.setattr(os, "_exit", done.append)
    parents = iter((7, 7, 1))
    assert processes.end_with_launcher() is None
    monkeypatch.setenv(processes.LAUNCHER, "7")
    thread = processes.end_with_launcher(
        lambda: next(parents), lambda seconds: done.append(seconds)
    )
    assert thread is not None
    thread.join()
    assert done == [0.5, 0.5, signal.SIGTERM, processes.GRACE_SECONDS, 130]


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


class Machines:
    """Two machines: network namespaces joined by a cable where that is allowed, else this one."""

    def __init__(self) -> None:
        self.prefixes: list[list[str]] = [[], []]
        self.address = "127.0.0.1"
        self._names = [f"rarebit{os.getpid()}{end}" for end in "ab"]
        one, two = self._names
        cable = [
            *(["netns", "add", name] for name in self._names),
            ["-n", one, "link", "add", "up0", "type", "veth", "peer", "name", "up1", "netns", two],
        ]
        for number, name in enumerate(self._names):
            cable += [
                ["-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", f"up{number}"],
                ["-n", name, "link", "set", f"up{number}", "up"],
                ["-n", name, "link", "set", "lo", "up"],
            ]
        if shutil.which("ip") and all(self._ip(*command) for command in cable):
            self.prefixes = [["ip", "netns", "exec", name] for name in self._names]
            self.address = "10.77.0.1"

    @property
    def are_two(self) -> bool:
        return bool(self.prefixes[0])

    def close(self) -> None:
        for name in self._names:
            self._ip("netns", "del", name)

    @staticmethod
    def _ip(*arguments: str) -> bool:
        return not subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode

    def start(self, tmp_path: Path, *arguments: str) -> list[subprocess.Popen[str]]:
        """The same command on both, each with folders of its own."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return [
            subprocess.Popen(
                [
                    *(*prefix, sys.executable, "-m", "trainer", *arguments, "--nodes", "2"),
                    *("--run", str(tmp_path / f"run{rank}"), "--node-rank", str(rank)),
                    *("--main", f"{self.address}:{port}"),
                ],
                cwd=PROJECT,
                env=environment(tmp_path / str(rank)),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, prefix in enumerate(self.prefixes)
        ]


@pytest.fixture
def machines() -> Iterator[Machines]:
    found = Machines()
    yield found
    found.close()


@pytest.mark.slow
def test_two_machines_train_what_one_does(
    alone: tuple[Path, RunFolder], machines: Machines, tmp_path: Path
) -> None:
    """The main one alone writes the run."""
    file, one = alone
    started = machines.start(tmp_path, "train", "--config", str(file))
    said = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert_same_losses(one, open_run(tmp_path / "run0"))
    assert (tmp_path / "run0" / "adapter.safetensors").is_file()
    assert not (tmp_path / "run1").exists()
    assert "on the main machine" in said[1][0]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_machine_ends_the_run_with_its_checkpoint(
    lost: int, tiny_base: TinyBase, machines: Machines, tmp_path: Path
) -> None:
    """Where the main one is lost, the other saves, and its folder goes on."""
    file, run = tmp_path / "config.toml", RunFolder(tmp_path / "run0")
    images = make_images(tmp_path / "images", count=4)
    changes = {"training__steps": 5000, "checkpoints__every": 0, "previews__every": 0}
    write_config(file, small_config(tiny_base("sd1"), images, **changes))
    started = machines.start(tmp_path, "train", "--config", str(file))
    while not run.events.exists() or max(losses(run), default=0) < 3:
        assert [process.poll() for process in started] == [None, None]
        time.sleep(0.1)
    launcher = psutil.Process(started[lost].pid)
    for process in (*launcher.children(recursive=True), launcher):
        process.kill()
    _, said = started[1 - lost].communicate()
    assert started[1 - lost].returncode == 2
    assert said.count("error: ") == 1 and "has ended unexpectedly" in said
    kept = RunFolder(tmp_path / f"run{1 - lost}")
    assert kept.checkpoint_steps()[-1] >= 3
    step = kept.checkpoint_steps()[-1]
    assert main(["resume", str(kept.path), "--steps", str(step + 1)]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nodes", "2"], "--main"),
        (["--node-rank", "1"], "--nodes"),
        (["--nodes", "2", "--node-rank", "2", "--main", "a"], "0 to 1"),
        (["--processes", "0"], "1 or more"),
        (["--nodes", "2", "--main", "a:port"], "ADDRESS:PORT"),
    ],
)
def test_what_is_no_group_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "place"),
    [
        ("10.0.0.1", ("10.0.0.1", 29500)),
        ("10.0.0.1:7000", ("10.0.0.1", 7000)),
        ("gpu-box", ("gpu-box", 29500)),
        ("[fe80::1]:7000", ("fe80::1", 7000)),
        ("fe80::1", ("fe80::1", 29500)),
    ],
)
def test_where_machines_meet(main: str, place: tuple[str, int]) -> None:
    assert processes.Group(nodes=2, main=main).endpoint == place


@pytest.mark.parametrize(
    ("variables", "launcher"),
    [
        ({"MASTER_ADDR": "10.0.0.1", "ACCELERATE_MIXED_PRECISION": "no"}, "accelerate launch"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun"),
    ],
)
def test_processes_that_do_not_see_each_other_are_refused(
    variables: dict[str, str], launcher: str
) -> None:
    """accelerate launch --cpu --num_machines 2 trained the whole run on each machine."""
    with pytest.raises(UserError, match=f"{launcher} has started several"):
        processes.check_launcher(variables)
    processes.check_launcher({**variables, "WORLD_SIZE": "2"})
    processes.check_launcher({"MASTER_ADDR": "10.0.0.1"})
    processes.check_launcher({"SLURM_STEP_NUM_TASKS": "1"})


@pytest.mark.slow
def test_accelerate_launch_of_two_machines_is_refused(
    alone: tuple[Path, RunFolder], tmp_path: Path
) -> None:
    """Its environment, as accelerate itself makes it."""
    arguments = ["--cpu", "--num_machines", "2", "--num_processes", "2", "--machine_rank", "0"]
    arguments += ["--main_process_ip", "127.0.0.1", "--main_process_port", "29999", "-m", "trainer"]
    run = ["train", "--config", str(alone[0]), "--run", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *arguments, *run],
        cwd=PROJECT, env=environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "do not see each other" in done.stderr
    assert not (tmp_path / "run").exists()
