"""Runs on a Ray cluster whose machines see the same folders (``--ray ADDRESS``).

A process here stands for the run: ``status.json`` names it, and it is stopped as any other. A task
of the cluster trains in the run's folder, on a machine with a free card. Where that process or its
machine is lost, Ray starts the task anew, and it goes on from the last checkpoint.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from trainer.config.file import read_config
from trainer.errors import UserError
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder
from trainer.runs.status import ENDED, own_status, read_status, write_status
from trainer.system import ON_BEHALF
from trainer.training.processes import STOPPED, StopRequest

if TYPE_CHECKING:
    from trainer.tuning.trials import Trial

RETRIES = 3  # so often a task whose process or machine was lost starts anew
WAITING = "waits for a free card of the Ray cluster"
_LOOK_SECONDS = 0.5
Refusal = tuple[str, str, str]  # a UserError's message, hint and code


def train_on_cluster(address: str, run: RunFolder, *, accept_changes: bool = False) -> int:
    """Trains a run, or goes on with it, on a machine of the cluster.

    Returns:
        The exit status: 0, or 130 when stopped after saving.

    Raises:
        UserError: what refused the run there; no such cluster; or its machine was lost too often.
    """
    before = read_status(run)
    step, total = (before.step, before.total_steps) if before else (0, 0)
    write_status(run, own_status("preparing", step, total, WAITING))
    run.stop_request.unlink(missing_ok=True)
    (finished,) = _results(address, _train, [run], [(run, accept_changes)])
    after = read_status(run)
    if not finished and after and after.message == WAITING:  # stopped before it began
        where = f"at step {step}" if step else "before the first step"
        ended = replace(after, phase="stopped", message=f"stopped {where}", code="user_stop")
        write_status(run, ended)
    return 0 if finished else STOPPED


def reach_on_cluster(address: str, trials: Sequence[tuple[Trial, int]]) -> None:
    """Trains runs of a search on to a step each, at the same time where there are cards.

    Raises:
        UserError: as `train_on_cluster`.
        KeyboardInterrupt: asked to stop; everything is saved.
    """
    todo = [(trial, step) for trial, step in trials if trial.seen(step) is None]
    runs = [trial.run for trial, _ in todo]
    if todo and not all(_results(address, _reach, runs, todo)):
        raise KeyboardInterrupt


# ------------------------------------------------------------------------------ in the task


def _train(run: RunFolder, accept_changes: bool) -> bool:
    from trainer.training.runner import run_training

    if not run.config.is_file():
        raise UserError(
            f"A machine of the cluster does not see {run.path}.",
            "Runs, image sets and base models have to lie in folders that all machines share, "
            "under the same paths. RAREBIT_RUNS moves the runs.",
        )
    _wait_for(run)
    if (status := read_status(run)) and status.phase in ("finished", "stopped"):
        return status.phase == "finished"  # its machine was lost just after the end
    config, going_on = read_config(run.config, of_run=True), bool(run.checkpoint_steps())
    result = run_training(
        config, run, lambda _: None, resume=going_on, accept_changes=accept_changes
    )
    return result.finished


def _reach(trial: Trial, step: int) -> bool:
    _wait_for(trial.run)
    trial.reach(step)
    return True


def _wait_for(run: RunFolder) -> None:
    """Until no process has the run: one whose node Ray has lost may train on to its end."""
    if run.path.is_dir():
        with filelock.FileLock(run.lock):
            pass


def _task(
    work: Callable[..., bool], arguments: tuple[Any, ...], place: str, identity: str
) -> bool | Refusal:
    """What a task of the cluster does; whether it was done, or why not."""
    os.chdir(place)
    os.environ[ON_BEHALF] = identity
    try:
        return work(*arguments)
    except KeyboardInterrupt:
        return False
    except UserError as error:
        return error.message, error.hint or "", error.code


# ------------------------------------------------------------------------------ the cluster


def _results(
    address: str,
    work: Callable[..., bool],
    runs: Sequence[RunFolder],
    arguments: Sequence[tuple[Any, ...]],
) -> list[bool]:
    """Does work in tasks and waits for all; False where one was stopped."""
    ray = _connected(address)
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    options = {"num_gpus": gpus, "num_cpus": 1, "max_retries": RETRIES, "max_calls": 1}
    remote, own = ray.remote(**options)(_task), own_status("preparing")
    identity = f"{own.pid} {own.process_started}"
    tasks = [remote.remote(work, one, str(Path.cwd()), identity) for one in arguments]
    asked = False
    with StopRequest() as stop:
        stop.defer()
        while len(ray.wait(tasks, num_returns=len(tasks), timeout=_LOOK_SECONDS)[0]) < len(tasks):
            if not stop.requested or asked:
                continue
            asked = True
            for run, task in zip(runs, tasks, strict=True):
                status = read_status(run)
                if status is None or status.message == WAITING or status.phase in ENDED:
                    ray.cancel(task)  # it has not begun
                elif run.path.is_dir():
                    run.stop_request.touch()
        found = [_result(ray, task) for task in tasks]
    return [one and not asked for one in found] if work is _reach else found


def _result(ray: Any, task: Any) -> bool:
    lost = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError)
    try:
        found: bool | Refusal = ray.get(task)
    except ray.exceptions.TaskCancelledError:
        return False
    except lost as error:
        raise UserError(
            f"The run's process or machine in the cluster was lost {RETRIES + 1} times.",
            "What was learned is saved: go on with resume.",
            "process_lost",
        ) from error
    if isinstance(found, tuple):
        message, hint, code = found
        raise UserError(message, hint, code)  # type: ignore[arg-type]
    return found


def _connected(address: str) -> Any:
    if find_spec("ray") is None:
        wanted = Path(__file__).with_name("ray.txt")
        raise UserError(
            "--ray needs the package ray, which is not installed.",
            f"Install it here and on each machine: {sys.executable} -m pip install -r {wanted}",
        )
    import ray

    if not ray.is_initialized():
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        own = {name: value for name, value in os.environ.items() if name.startswith("RAREBIT_")}
        try:
            ray.init(address, runtime_env={"env_vars": {**own, "PYTHONPATH": path}})
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"There is no Ray cluster at {address}: {str(error).splitlines()[0]}",
                "Start one with: ray start --head; its output names the address.",
            ) from error
    return ray
