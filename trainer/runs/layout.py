"""Where everything lies in a run folder."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UserError

_STEP = re.compile(r"step-(\d{6,})")
# Names that Windows keeps for devices, whatever follows the dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_NAME_LIMIT = 80  # bytes; leaves room for numbering and for temporary names


@dataclass(frozen=True)
class RunFolder:
    """A run folder; the properties are paths, which need not exist yet."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The whole configuration, defaults included."""
        return self.path / "config.toml"

    @property
    def events(self) -> Path:
        """One JSON object a line; see `trainer.runs.log`."""
        return self.path / "events.jsonl"

    @property
    def status(self) -> Path:
        """What the run does now; see `trainer.runs.status`."""
        return self.path / "status.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of exact training states."""
        return self.path / "checkpoints"

    @property
    def previews(self) -> Path:
        """Folder of preview pictures."""
        return self.path / "previews"

    @property
    def adapter(self) -> Path:
        """The result."""
        return self.path / "adapter.safetensors"

    @property
    def start(self) -> Path:
        """A copy of the adapter file that the run went on from, if it did."""
        return self.path / "start_from.safetensors"

    @property
    def adapters(self) -> Path:
        """Folder of the adapters of earlier steps, each ready for use."""
        return self.path / "adapters"

    @property
    def evaluation(self) -> Path:
        """What ``evaluate --json`` prints of this run."""
        return self.path / "evaluation.json"

    @property
    def bleed_board(self) -> Path:
        """Trigger, class word, neighbour and unrelated thing, side by side; labels beside it."""
        return self.path / "evaluation" / "board.png"

    @property
    def report(self) -> Path:
        """One self-contained page about the run."""
        return self.path / "report.html"

    @property
    def timelapse(self) -> Path:
        """The previews one after another, as an animated picture."""
        return self.path / "timelapse.webp"

    @property
    def wishes(self) -> Path:
        """Folder of what is asked of the run; see `trainer.runs.wishes`."""
        return self.path / "wishes"

    @property
    def lock(self) -> Path:
        """Held by the process that writes this run."""
        return self.path / ".lock"

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint of one step."""
        return self.checkpoints / step_name(step)

    def preview(self, step: int) -> Path:
        """The folder of the previews of one step."""
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
    stem = safe_name(name)
    try:
        root.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = root / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
                continue
            return prepare(RunFolder(path))
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
        what = "has no config.toml" if path.is_dir() else "does not exist"
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
