"""A process that trains in children which are killed.

It imports everything once and forks for each training, which makes a life cheap. It is a process
of its own, since a fork copies only the thread that forks, and pytest has several. Requests and
answers are lines of JSON on its standard input and output.

    {"do": "train", "config": FILE, "run": FOLDER, "resume": false, "kill_after": null}
        kill_after is in seconds of processor time; interrupt_at is a step, after which the run gets
        two Ctrl-C.
        -> {"signal": 9 or 0, "status": EXIT STATUS, "cpu": SECONDS}
    {"do": "phases", "config": FILE, "run": FOLDER, "step": STEP, "into": FOLDER, "keep": N}
        Trains to the checkpoint of a step. There the run folder is copied once for each phase of
        saving, and a child that saves into the copy kills itself in that phase.
        -> {"phases": [what it was about to do], …}
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import psutil
import torch

import trainer.training.loop
import trainer.training.step
from trainer.config.file import read_config
from trainer.events import StepDone
from trainer.runs.layout import RunFolder
from trainer.training.checkpoints import TrainingState, save_checkpoint
from trainer.training.runner import run_training

# What changes the file system, by the names of Python's audit events.
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.symlink"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def main() -> None:
    """Answer requests until the input ends."""
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is no garbage of any child
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        action = {"train": train, "phases": phases}[request.pop("do")]
        answers.write(json.dumps(action(**request)) + "\n")
        answers.flush()


def in_child(action: Callable[[], object]) -> int:
    """Forks; the child does something and ends. Gives the child's process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(pid: int) -> dict[str, Any]:
    """How a child ended, and the processor seconds that it took."""
    _, status, used = os.wait4(pid, 0)
    took = {"cpu": round(used.ru_utime + used.ru_stime, 3)}
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status), "status": 0, **took}
    return {"signal": 0, "status": os.WEXITSTATUS(status), **took}


def train(
    config: str,
    run: str,
    resume: bool = False,
    kill_after: float | None = None,
    interrupt_at: int = 0,
) -> dict[str, Any]:
    """A life of a run, which may be cut short from outside.

    It is measured in processor time, so that it is as long on a busy machine.
    """
    pid = in_child(lambda: _train(config, run, resume, interrupt_at))
    while kill_after is not None and _cpu_seconds(pid) < kill_after:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return ended(pid)  # it came to its end by itself
        time.sleep(0.002)
    if kill_after is not None:
        os.kill(pid, signal.SIGKILL)
    return ended(pid)


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _train(config: str, run: str, resume: bool, interrupt_at: int = 0) -> None:
    def listen(event: object) -> None:
        if isinstance(event, StepDone) and event.step == interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    run_training(read_config(Path(config)), RunFolder(Path(run)), listen, resume=resume)


def phases(config: str, run: str, step: int, into: str, keep: int) -> dict[str, Any]:
    """Kills at every phase of one checkpoint's save."""
    found = Path(into) / "phases.json"

    def save(folder: RunFolder, state: TrainingState, _: int) -> Path:
        if state.step == step:
            found.write_text(json.dumps(_killed_in_each(folder, state, Path(into), keep)))
            os._exit(0)
        return save_checkpoint(folder, state, keep)

    def life() -> None:
        trainer.training.loop.save_checkpoint = save
        _train(config, run, resume=False)

    return {**ended(in_child(life)), "phases": json.loads(found.read_text())}


def _killed_in_each(run: RunFolder, state: TrainingState, into: Path, keep: int) -> list[str]:
    """Saves into copies of a run, once for each phase; gives what each was about to do."""
    did: list[str] = []
    note = into / "about-to.txt"

    def life(copy: RunFolder, number: int) -> None:
        kill_at(number, note)
        save_checkpoint(copy, state, keep)

    while True:
        copy = RunFolder(into / f"{len(did):03d}")
        shutil.copytree(run.path, copy.path)
        if ended(in_child(partial(life, copy, len(did))))["signal"] != signal.SIGKILL:
            return did
        did.append(note.read_text())


def kill_at(number: int, note: Path) -> None:
    """From now on the n-th change of the file system is the end of this process, counted from 0.

    Writing a file's content counts as well, and then half of it is written.
    """
    left = number
    write_bytes = Path.write_bytes

    def next_change(what: str, before_death: Callable[[], object] = lambda: None) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            left = sys.maxsize  # what is done now is no change of its own
            before_death()
            note.write_text(what)
            _die()

    def halves(path: Path, data: bytes) -> int:
        next_change(f"write half of {path.name}", lambda: write_bytes(path, data[: len(data) // 2]))
        return write_bytes(path, data)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES:
            next_change(f"{event} {Path(str(arguments[0])).name}")
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            next_change(f"open {Path(str(arguments[0])).name} to write")

    Path.write_bytes = halves  # type: ignore[method-assign, assignment]
    sys.addaudithook(hook)


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it goes on after SIGKILL")


if __name__ == "__main__":
    main()
