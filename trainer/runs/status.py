"""What a run is doing now, written atomically and read by the page and by scripts."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Annotated, get_args

import psutil
from pydantic import BeforeValidator, TypeAdapter

from trainer.config.file import read_config, with_values, write_config
from trainer.errors import Code, UserError
from trainer.events import Phase, Reason
from trainer.runs.atomic import write_json
from trainer.runs.layout import RunFolder
from trainer.system import ON_BEHALF

ENDED: frozenset[Phase] = frozenset(get_args(Reason))


@dataclass(frozen=True)
class Status:
    """One moment of a run."""

    phase: Phase  # what goes on; see `trainer.events.Phase`
    step: int = 0  # optimizer steps done
    total_steps: int = 0  # optimizer steps in all
    eta_seconds: float | None = None  # time left, or None while it is not known
    pid: int = 0  # the process that trains
    # When that process started, in seconds since 1970: a pid alone may have been given to another
    # process since.
    process_started: float = 0.0
    message: str = ""  # one sentence for a person
    # A later version may have more codes; its runs are shown all the same.
    # Why the run has ended, where it is not finished.
    code: Annotated[Code, BeforeValidator(lambda code: code if code in get_args(Code) else "")] = ""


_PARSER = TypeAdapter(Status)


def running_mean(mean: float | None, value: float, weight: float = 0.1) -> float:
    """A running mean once it has another value, which counts so much; None before the first."""
    return value if mean is None else (1 - weight) * mean + weight * value


def own_status(phase: Phase, step: int = 0, total_steps: int = 0, message: str = "") -> Status:
    """A status of the process that asks, or of the one that it works for (`ON_BEHALF`)."""
    if identity := os.environ.get(ON_BEHALF):
        pid, started = identity.split()
    else:
        process = psutil.Process()
        pid, started = process.pid, process.create_time()
    return Status(phase, step, total_steps, None, int(pid), float(started), message)


def write_status(run: RunFolder, status: Status) -> None:
    write_json(run.status, asdict(status))


def read_status(run: RunFolder) -> Status | None:
    """The run's status; None if there is none, or none that can be read."""
    try:
        return _PARSER.validate_json(run.status.read_bytes())
    except (OSError, ValueError):
        return None


def is_alive(status: Status) -> bool:
    """Whether the process that wrote `status` still runs: same pid and same start time."""
    try:
        process = psutil.Process(status.pid)
        same = abs(process.create_time() - status.process_started) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):  # of a damaged file
        return False


def effective_status(run: RunFolder) -> Status | None:
    """The status as it is to be shown: a run whose process is gone was killed, whatever it says."""
    status = read_status(run)
    if status is None or status.phase in ENDED or is_alive(status):
        return status
    message = f"stopped at step {status.step} (killed)"
    return replace(status, phase="stopped", eta_seconds=None, message=message, code="killed")


def at_work(run: RunFolder) -> Status | None:
    """The status of a run that a process works on; None of any other."""
    status = read_status(run)
    return status if status and status.phase not in ENDED and is_alive(status) else None


def lengthen(run: RunFolder, steps: int) -> None:
    """Sets how many steps a run has in all, so that it trains on to them when it is resumed.

    Raises:
        UserError: it has done as many already, or a process works on it.
    """
    if at_work(run):
        raise UserError(f"{run.name} is training now.", "Stop it first.")
    if run.search.is_file():
        raise UserError(f"{run.name} is a search for settings.", "Train with what it recommends.")
    config = read_config(run.config, of_run=True)
    done = max(run.checkpoint_steps(), default=0)
    if steps <= done:
        raise UserError(
            f"{run.name} has done {done:,} steps already; {steps:,} in all would be no more.",
            f"Give the number of steps in all, such as {2 * done}.",
        )
    write_config(run.config, with_values(config, {"training.steps": steps}))
