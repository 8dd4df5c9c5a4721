"""Where everything lies in a run folder, and the lock of its one writer."""

from __future__ import annotations

import json
import os
import re
import time
import unicodedata
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from trainer.errors import UserError
from trainer.runs.atomic import writing
from trainer.text import numbered

_STEP = re.compile(r"step-(\d{6,})")
# Names that Windows keeps for devices, whatever follows the dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_NAME_LIMIT = 80  # bytes; leaves room for numbering and for temporary names


class _Inside:
    """A path within a run folder, which need not exist yet."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunFolder, _: type[RunFolder]) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """A run folder."""

    path: Path

    config = _Inside("config.toml")  # the whole configuration, defaults included
    events = _Inside("events.jsonl")  # one JSON object a line; see `trainer.runs.log`
    status = _Inside("status.json")  # what the run does now; see `trainer.runs.status`
    checkpoints = _Inside("checkpoints")  # folder of exact training states
    previews = _Inside("previews")  # folder of preview pictures
    adapter = _Inside("adapter.safetensors")  # the result
    start = _Inside("start_from.safetensors")
    """A copy of the adapter file that the run went on from, if it did."""
    adapters = _Inside("adapters")  # folder of the adapters of earlier steps, each ready for use
    embeddings = _Inside("embeddings")  # folder of the new tokens' vectors, a file for each word
    evaluation = _Inside("evaluation.json")  # what ``evaluate --json`` prints of this run
    bleed_board = _Inside("evaluation/board.png")
    """Trigger, class word, neighbour and unrelated thing, side by side; labels beside it."""
    report = _Inside("report.html")  # one self-contained page about the run
    timelapse = _Inside("timelapse.webp")  # the previews one after another, as an animated picture
    wishes = _Inside("wishes")  # folder of what is asked of the run; see `trainer.runs.wishes`
    search = _Inside("search.json")
    """What a search for settings looks for. Its folder has the adapter, the settings and what was
    measured of its best run, and all of its runs in folders of their own."""
    lock = _Inside(".lock")  # held by the process that writes this run

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def stop_request(self) -> Path:
        """There where the run is asked to stop and no signal can say it (`trainer.system`)."""
        return self.path / ".stop"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / step_name(step)

    def preview(self, step: int) -> Path:
        return self.previews / step_name(step)

    def adapter_at(self, step: int) -> Path:
        """The adapter as it was after one step."""
        return self.adapters / f"{step_name(step)}.safetensors"

    def adapter_steps(self) -> list[int]:
        """Steps whose adapter was kept as a file, rising."""
        files = self.adapters.glob("*.safetensors") if self.adapters.is_dir() else ()
        return sorted(step for file in files if (step := step_of(file.stem)) is not None)

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint, rising."""
        return _steps_in(self.checkpoints)

    def preview_steps(self) -> list[int]:
        """Steps that have previews, rising."""
        return _steps_in(self.previews)


def step_name(step: int) -> str:
    """``step-000123``: sorts by step up to a million and still reads after that."""
    return f"step-{step:06d}"


def step_of(name: str) -> int | None:
    """The step of a folder name made by `step_name`, or None for any other name."""
    match = _STEP.fullmatch(name)
    return int(match.group(1)) if match else None


def safe_name(text: str) -> str:
    """A folder name that every system takes, made from any text; never empty.

    Letters and digits of every script, ``-``, ``_`` and ``.`` stay; anything else becomes one
    ``-``. At most 80 bytes, no leading dot or dash, no name of a Windows device.
    """
    words = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", text))
    name = words.encode("utf-8")[:_NAME_LIMIT].decode("utf-8", "ignore").strip("-._ ")
    if not name:
        return "run"
    return f"run-{name}" if _DEVICES.fullmatch(name) else name


def create_run(root: Path, name: str) -> RunFolder:
    """Makes a new run folder under `root`, numbered if the name is taken: ``cat``, ``cat-2``, …

    Two processes that ask at once get different folders.

    Raises:
        UserError: the folder cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        for stem in numbered(safe_name(name)):
            with suppress(FileExistsError):
                (root / stem).mkdir()
                return prepare(RunFolder(root / stem))
        raise AssertionError  # there is always one more name
    except OSError as error:
        raise UserError(
            f"cannot make a run folder in {root}: {error.strerror or error}",
            "Choose a folder that can be written to with --run DIR, or free some space.",
        ) from error


def prepare(run: RunFolder) -> RunFolder:
    """Makes the run's folders where they are missing."""
    for folder in (run.path, run.checkpoints, run.previews):
        folder.mkdir(parents=True, exist_ok=True)
    return run


def open_run(path: Path) -> RunFolder:
    """The run in an existing folder.

    Raises:
        UserError: there is no run in it.
    """
    run = RunFolder(path)
    if not run.config.is_file():
        what = (
            "is a file" if path.is_file()
            else "has no config.toml" if path.is_dir() else "does not exist"
        )  # fmt: skip
        raise UserError(
            f"{path} is not a run: it {what}", "Give a run's folder, such as runs/NAME."
        )
    return run


def list_runs(root: Path) -> list[RunFolder]:
    """All runs under `root`, the newest first; none if the folder is missing.

    A link is none: what lies elsewhere is not this folder's to stop, or to remove.
    """
    found: list[tuple[float, RunFolder]] = []
    for path in root.iterdir() if root.is_dir() else ():
        if path.is_symlink():
            continue
        run = RunFolder(path)
        try:
            found.append((run.config.stat().st_mtime, run))
        except OSError:
            continue
    return [run for _, run in sorted(found, key=lambda pair: (-pair[0], pair[1].name))]


def _steps_in(folder: Path) -> list[int]:
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    return sorted(step for name in names if (step := step_of(name)) is not None)


@contextmanager
def run_lock(run: RunFolder) -> Generator[None]:
    """Holds the run for this process until the block ends.

    The lock is the operating system's and goes with the process, however that ends: it is never
    stale. The file stays; only holding it means something.

    Raises:
        UserError: another process has it; the message names its pid.
    """
    lock = filelock.FileLock(run.lock, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"{run.path} is in use by {_holder(run)}",
            "Wait until it has finished, or stop it with Ctrl-C, and try again.",
        ) from None
    try:
        with writing(f"the lock of {run.path}"):
            told = json.dumps({"pid": os.getpid(), "since": time.time()})
            _holder_file(run).write_text(told, encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            _holder_file(run).unlink()
        lock.release()


def _holder_file(run: RunFolder) -> Path:
    # Beside the lock, since Windows lets nobody else read a locked file.
    return run.lock.with_name(run.lock.name + ".holder")


def _holder(run: RunFolder) -> str:
    try:
        return f"process {json.loads(_holder_file(run).read_bytes())['pid']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
