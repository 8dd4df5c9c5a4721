"""What Generate draws: the adapters to choose from, a request to the worker, and its files."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from app import client, jobs
from app.client import ShouldStop
from app.files import disk_trouble
from app.tabs.adapters.files import find_adapter, list_adapters
from trainer import places
from trainer.errors import UserError
from trainer.events import Progress
from trainer.runs.layout import RunFolder, list_runs

MOST_COUNT = 16
SILENCE_SECONDS = 300.0
"""A denoising step of a large base model on a slow machine takes minutes."""

_CHECKPOINT = re.compile(r"(?P<run>.+)@(?P<step>\d{1,7})")
_NAME = re.compile(r"\d{4}-\d\d-\d\d/[0-9A-Za-z][\w-]{0,80}\.png")


@dataclass(frozen=True)
class AdapterSetting:
    """An adapter to draw with: its id, and its strength in the UNet and in the text encoder."""

    id: str
    strength: float = 1.0
    text_encoder_strength: float | None = None


@dataclass(frozen=True)
class Settings:
    """What the worker is asked to draw; sides in pixels, 0 for the base model's own."""

    prompt: str
    negative: str = ""
    adapters: tuple[AdapterSetting, ...] = ()
    base: str = "tiny-emoji"
    count: int = 1
    seed: int = 1
    inference_steps: int = 25
    guidance: float = 5.0
    width: int = 0
    height: int = 0


def adapter_choices() -> list[tuple[str, str]]:
    """(title, id) of every adapter here."""
    return [(choice.title, choice.id) for choice in list_adapters()]


def checkpoint_choices() -> list[tuple[str, str]]:
    """(title, id) of every adapter and of every checkpoint, a run's own together."""
    results = list_adapters()
    choices: list[tuple[str, str]] = []
    for run in list_runs(places.RUNS):
        choices += [(choice.title, choice.id) for choice in results if choice.run == run.name]
        choices += [(f"{run.name} at step {step}", f"{run.name}@{step}") for step in _steps(run)]
    return choices + [(choice.title, choice.id) for choice in results if not choice.run]


def adapter_names() -> dict[str, str]:
    """Ids of adapters and checkpoints by the names that pictures give them; runs come first."""
    adapters = sorted(list_adapters(), key=lambda choice: bool(choice.run))
    names = {title: identity for title, identity in checkpoint_choices() if "@" in identity}
    return names | {choice.run or choice.path.stem: choice.id for choice in adapters}


def adapter_path(adapter_id: str) -> Path:
    """The file of an adapter, or the folder of a checkpoint. An id is never made part of a path.

    Raises:
        UserError: there is none.
    """
    match = _CHECKPOINT.fullmatch(adapter_id)
    if match is None:
        return find_adapter(adapter_id).path
    run, step = jobs.run_folder(match["run"]), int(match["step"])
    if step not in _steps(run):
        raise UserError(
            f"{run.name} has no checkpoint of step {step} any more.",
            "Old checkpoints are cleared away as new ones come; checkpoints.keep says how many "
            "stay.",
        )
    return run.adapter_at(step) if step in run.adapter_steps() else run.checkpoint(step)


def _steps(run: RunFolder) -> list[int]:
    """The steps of a run that can be drawn with: those with a checkpoint or an adapter file."""
    return sorted({*run.checkpoint_steps(), *run.adapter_steps()})


def draw(
    settings: Settings, on_progress: Progress | None = None, should_stop: ShouldStop = lambda: False
) -> list[Path]:
    """Draws pictures into today's folder of pictures; gives their files in the order of seeds.

    Raises:
        Stopped: as ``should_stop`` wished.
        UserError: the device is busy, or something of the settings does not work.
    """
    if not settings.prompt.strip():
        raise UserError("The prompt is empty.", "Say what to draw, with the trigger word in it.")
    if busy := jobs.busy():
        raise busy_error(busy)
    adapters = [asdict(adapter) for adapter in settings.adapters]
    for adapter in adapters:
        adapter["file"] = str(adapter_path(adapter.pop("id")))
    arguments = {
        **asdict(settings),
        "adapters": adapters,
        "width": settings.width or None,
        "height": settings.height or None,
        "out": str(todays_folder()),
    }
    value = client.call("generate", arguments, SILENCE_SECONDS, on_progress, should_stop)
    return [Path(file) for file in value["files"]]


def busy_error(run: jobs.RunInfo) -> UserError:
    """Why nothing can be drawn now, and what to do."""
    at = f", step {run.step:,} of {run.total_steps:,}" if run.total_steps else ""
    return UserError(
        f"The device is busy: {run.name} is training{at}.",
        "Draw when it has finished, or stop it in Runs; it can go on later.",
    )


# ------------------------------------------------------------------------------ files


def todays_folder() -> Path:
    """Where pictures drawn today go.

    Raises:
        UserError: it cannot be made.
    """
    with disk_trouble():
        folder = places.PICTURES / time.strftime("%Y-%m-%d")
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def name_of(path: Path) -> str:
    """What a picture is remembered by, such as ``2026-05-01/000001.png``."""
    return f"{path.parent.name}/{path.name}"


def picture_of(name: object) -> Path | None:
    """The file of a remembered name; None for whatever is not one. Names come from browsers."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    path = places.PICTURES / name
    return path if path.is_file() and not path.is_symlink() else None


def pictures_of(names: object) -> list[Path]:
    """The files of remembered names, without those that are gone."""
    found = map(picture_of, names if isinstance(names, Sequence) else ())
    return [path for path in found if path is not None]


@lru_cache(maxsize=1)
def _showing_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="rarebit-shown-", dir=os.environ.get("GRADIO_TEMP_DIR")))


def to_show(path: Path) -> str:
    """A copy of a picture where Gradio may serve it from, with its settings in it."""
    target = _showing_folder() / path.parent.name / path.name
    if not target.exists() or target.stat().st_mtime_ns != path.stat().st_mtime_ns:
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(path, target)
    return str(target)
