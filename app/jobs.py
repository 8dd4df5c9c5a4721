"""Worker processes: started, stopped and found again. The only place that starts processes.

A training runs in a process of its own, in a session of its own, and writes its run folder; it
outlives the server. What runs and what waits is read from the run folders and from
``runs/.queue.json``, so a second server, or this one after a restart, sees the same.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import psutil

from app.allowed import check_places, is_image_set
from trainer import places
from trainer.config.concepts import check_essentials, run_name
from trainer.config.file import write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import Code, UserError
from trainer.runs.atomic import temporary_name, write_json
from trainer.runs.layout import RunFolder, create_run, list_runs
from trainer.runs.status import (
    ENDED,
    Status,
    at_work,
    effective_status,
    lengthen,
    read_status,
    write_status,
)
from trainer.system import CREATION_FLAGS, NEW_SESSION, ask_to_stop
from trainer.text import counted
from trainer.tuning.space import searched

ServiceProcess = subprocess.Popen[str]

QUEUED, UNSTARTED = "queued", "unstarted"
FRESH = 1.0  # seconds for which what was read of the runs is good enough for everyone
_LOG = "worker.log"  # what the worker prints, in the run's folder
_stopping: set[tuple[str, int]] = set()  # (run, pid) that were asked to stop
_children: list[subprocess.Popen[bytes]] = []


_OF_STATUS = ("phase", "step", "total_steps", "eta_seconds", "message", "code")


@dataclass(frozen=True)
class RunInfo:
    """A run at a glance.

    Attributes:
        name: the run folder's name.
        phase, step, total_steps, eta_seconds, message, code: as in `trainer.runs.status.Status`;
            of the phases there are "queued" and "unstarted" as well.
        alive: whether a process works on it.
        stopping: whether that process was asked to stop.
        place: place in the queue from 1, 0 for none.
        begun: when it was set up, in seconds since 1970; 0 while not known.
    """

    name: str
    phase: str
    step: int = 0
    total_steps: int = 0
    eta_seconds: float | None = None
    message: str = ""
    alive: bool = False
    stopping: bool = False
    place: int = 0
    code: Code = ""
    begun: float = 0.0


# ------------------------------------------------------------------------------ looking


def run_folder(name: str) -> RunFolder:
    """The run of a name that came from a browser; a path is never taken for one.

    Raises:
        UserError: there is no such run.
    """
    run = RunFolder(places.RUNS / name)
    single = bool(name) and name == Path(name).name and name[0] not in "._"
    if not single or run.path.is_symlink() or not run.config.is_file():
        raise UserError("There is no such run any more.", "Choose one from the list.")
    return run


def info(run: RunFolder, waiting: list[str] | None = None) -> RunInfo:
    """What a run does now."""
    waiting = waiting_runs() if waiting is None else waiting
    begun = run.config.stat().st_mtime
    if run.name in waiting:
        return RunInfo(run.name, QUEUED, place=waiting.index(run.name) + 1, begun=begun)
    status = effective_status(run)
    if status is None:
        return RunInfo(run.name, UNSTARTED, message="never started", begun=begun)
    if status.code == "killed" and (run.name, status.pid) in _stopping:
        # Stopped before it could listen: it loads its libraries for seconds first.
        status = replace(status, message=f"stopped at step {status.step}", code="user_stop")
        write_status(run, status)
    alive = status.phase not in ENDED
    same: dict[str, Any] = {name: getattr(status, name) for name in _OF_STATUS}
    stopping = alive and (run.name, status.pid) in _stopping
    return RunInfo(run.name, alive=alive, stopping=stopping, begun=begun, **same)


def runs() -> list[RunInfo]:
    """All runs, the newest first."""
    waiting = waiting_runs()
    found: list[RunInfo] = []
    for run in list_runs(places.RUNS):
        with suppress(FileNotFoundError):  # removed since the folder was read
            found.append(info(run, waiting))
    return found


def busy() -> RunInfo | None:
    """The run that a process works on now, if any."""
    return next((run for run in runs() if run.alive), None)


class Overview:
    """The list of all runs, read at most once a second for all browsers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = -FRESH
        self._runs: list[RunInfo] = []

    def runs(self, *, now: bool = False) -> list[RunInfo]:
        """All runs, the newest first, as they are or were a second ago."""
        with self._lock:
            if now or time.monotonic() - self._read_at >= FRESH:
                self._runs, self._read_at = runs(), time.monotonic()
            return self._runs

    def busy(self) -> RunInfo | None:
        """The run that a process works on, if any."""
        return next((run for run in self.runs() if run.alive), None)


overview = Overview()


def contents(name: str) -> str:
    """What a run's folder holds, in words, for the question before deleting."""
    run = run_folder(name)
    checkpoints, previews = len(run.checkpoint_steps()), len(run.preview_steps())
    parts = ["its adapter"] if run.adapter.is_file() else []
    parts += [counted(checkpoints, "checkpoint")] if checkpoints else []
    parts += [f"the previews of {counted(previews, 'step')}"] if previews else []
    return ", ".join([*parts, "its settings and its log"])


def waiting_runs() -> list[str]:
    """Names of the runs in the queue, the next one first."""
    try:
        names = json.loads(_queue_file().read_bytes())
    except (OSError, ValueError):
        return []
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return [name for name in names if (places.RUNS / Path(name).name / "config.toml").is_file()]


def _queue_file() -> Path:
    return places.RUNS / ".queue.json"


# ------------------------------------------------------------------------------ doing


def start(config: TrainingConfig, search: bool = False) -> str:
    """Starts a training, or a search for settings, and gives the run's name.

    Raises:
        UserError: another run is busy (it is named), or something needed is missing.
    """
    check_essentials(config, is_image_set)
    check_places(config)
    names = searched(config) if search else []
    with _one_at_a_time():
        _refuse_if_busy()
        run = _new_run(config, "-tune" if search else "")
        if search:
            write_json(run.search, names)
        _spawn_training(run)
    return run.name


def queue(config: TrainingConfig) -> str:
    """Lets a run wait until nothing trains and gives its name; see `keep_queue_moving`.

    Raises:
        UserError: something needed is missing.
    """
    check_essentials(config, is_image_set)
    check_places(config)
    with _one_at_a_time():
        run = _new_run(config)
        write_json(_queue_file(), [*waiting_runs(), run.name])
    return run.name


def resume(name: str, *, accept_changes: bool = False, steps: int | None = None) -> None:
    """Goes on with a run, to so many steps in all; one that has saved nothing starts again.

    Args:
        accept_changes: go on although the image set has changed.

    Raises:
        UserError: there is no such run, one is busy, or the run has done as many steps.
    """
    run = run_folder(name)
    with _one_at_a_time():
        _refuse_if_busy()
        if steps is not None:
            lengthen(run, steps)
        _leave_queue(name)
        _spawn_training(run, accept_changes)


def stop(name: str) -> None:
    """Asks a run to finish its step, save and end; takes a waiting one out of the queue.

    Raises:
        UserError: there is no such run, or nothing works on it.
    """
    run = run_folder(name)
    with _one_at_a_time():
        if _leave_queue(name):
            return
        status = at_work(run)
        if status is None:
            raise UserError(f"{name} is not running.", "There is nothing to stop.")
        _stopping.add((name, status.pid))
        ask_to_stop(status.pid, run.stop_request)


def delete(name: str) -> None:
    """Removes a run's folder and nothing else.

    Raises:
        UserError: there is no such run, a process works on it, or it cannot be removed.
    """
    run = run_folder(name)
    with _one_at_a_time():
        if info(run).alive:
            raise UserError(f"{name} is still running.", "Stop it first.")
        _leave_queue(name)
        doomed = temporary_name(run.path)
        try:
            run.path.rename(doomed)  # gone from every list at once, whatever happens below
            shutil.rmtree(doomed)
        except OSError as error:
            raise UserError(
                f"{name} could not be removed whole: {error.strerror or error}.",
                "Close what has its files open, and look into the folder of runs.",
            ) from error


def _new_run(config: TrainingConfig, ending: str = "") -> RunFolder:
    run = create_run(places.RUNS, run_name(config) + ending)
    write_config(run.config, config)
    return run


def _refuse_if_busy() -> None:
    other = busy()
    if other is not None and not _ray():
        at = f" (step {other.step:,} of {other.total_steps:,})" if other.total_steps else ""
        raise UserError(
            f"{other.name} is training now{at}, and one training at a time fits this machine.",
            "Queue yours behind it, wait, or stop it in Runs.",
        )


def _leave_queue(name: str) -> bool:
    waiting = waiting_runs()
    if name in waiting:
        write_json(_queue_file(), [other for other in waiting if other != name])
    return name in waiting


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """One decision at a time, over all threads and all servers on these runs."""
    try:
        places.RUNS.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(places.RUNS / ".jobs.lock", timeout=20):
            yield
    except filelock.Timeout:
        raise UserError("Another start is being prepared.", "Try again in a moment.") from None
    except psutil.Error as error:
        raise UserError("The process has just ended.", "Look at the run again.") from error


# ------------------------------------------------------------------------------ processes


def _spawn_training(run: RunFolder, accept_changes: bool = False) -> None:
    """Starts a worker, from the last checkpoint if there is one.

    It is noted as the run's process before it can do so itself.
    """
    old = read_status(run)
    flags = ["--resume"] * bool(run.checkpoint_steps()) + ["--accept-changes"] * accept_changes
    with (run.path / _LOG).open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "trainer", "worker", str(run.path), *flags, *_ray()],
            cwd=places.PROJECT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=NEW_SESSION,
            creationflags=CREATION_FLAGS,
        )
    _children.append(worker)
    started = psutil.Process(worker.pid).create_time()
    status = read_status(run)
    if status is None or status.pid != worker.pid:  # else it was quicker
        step, total = (old.step, old.total_steps) if old else (0, 0)
        status = Status("preparing", step, total, None, worker.pid, started, "starting")
        write_status(run, status)


def spawn_service() -> ServiceProcess:
    """Starts ``trainer service``, which reads requests from its input until that ends."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", "service"],
        cwd=places.PROJECT,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=NEW_SESSION,
        creationflags=CREATION_FLAGS,
    )


def _ray() -> list[str]:
    """Options of workers whose runs a Ray cluster trains: it lets them wait for its cards."""
    return ["--ray", os.environ["RAREBIT_RAY"]] if "RAREBIT_RAY" in os.environ else []


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(places.PROJECT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def keep_queue_moving(every: float = 1.0) -> threading.Thread:
    """Starts the next waiting run whenever nothing trains, in a thread, until the server ends."""

    def move() -> None:
        while True:
            time.sleep(every)
            _children[:] = [child for child in _children if child.poll() is None]
            try:
                start_next()
            except (UserError, OSError):
                continue  # what is wrong with a run stands in its log; the next tick tries again

    thread = threading.Thread(target=move, name="queue", daemon=True)
    thread.start()
    return thread


def start_next() -> str | None:
    """Starts the next waiting run if nothing trains; gives its name."""
    if not waiting_runs():
        return None
    with _one_at_a_time():
        waiting = waiting_runs()
        if not waiting or (busy() is not None and not _ray()):
            return None
        run = RunFolder(places.RUNS / waiting[0])
        write_json(_queue_file(), waiting[1:])
        _spawn_training(run)
    return run.name
