"""The adapter files on this machine: those of runs, and those that users brought or made."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from app.files import disk_trouble, slug
from trainer import places
from trainer.data.names import display_name
from trainer.errors import UserError
from trainer.runs.atomic import replacing
from trainer.runs.layout import list_runs

SUFFIX = ".safetensors"
LARGEST = 4_000_000_000
_PREFIX = "file/"


@dataclass(frozen=True)
class AdapterChoice:
    """An adapter file.

    Attributes:
        id: a run's name, or ``file/NAME`` for a file of its own: never a path.
        title: for showing.
        run: name of the run that made it, or "".
    """

    id: str
    path: Path
    title: str
    run: str = ""


def list_adapters() -> list[AdapterChoice]:
    """All adapter files here: those of runs, the newest first, then the others by name."""
    found = [
        AdapterChoice(run.name, run.adapter, display_name(run.name), run.name)
        for run in list_runs(places.RUNS)
        if run.adapter.is_file()
    ]
    folder = places.ADAPTERS
    files = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    found += [
        AdapterChoice(f"{_PREFIX}{path.name}", path, display_name(path.stem))
        for path in files
        if path.is_file() and not path.name.startswith(".")
    ]
    return found


def find_adapter(adapter_id: str) -> AdapterChoice:
    """The adapter of an id. The id is compared, never made part of a path.

    Raises:
        UserError: there is none.
    """
    for choice in list_adapters():
        if choice.id == adapter_id:
            return choice
    shown = display_name(adapter_id[:80])
    raise UserError(
        f"There is no adapter “{shown}” on this machine." if shown else "No adapter is chosen.",
        "Choose one from the list, or drop a .safetensors file.",
    )


def free_path(name: str) -> Path:
    """Where a new adapter file goes, by a name of our own that nobody has yet.

    Raises:
        UserError: the folder cannot be made.
    """
    stem, number = slug(name) or "adapter", 1
    with disk_trouble():
        places.ADAPTERS.mkdir(parents=True, exist_ok=True)
    while (path := places.ADAPTERS / f"{_numbered(stem, number)}{SUFFIX}").exists():
        number += 1
    return path


def _numbered(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}-{number}"


def take_in(source: Path, name: str) -> AdapterChoice:
    """Keep an uploaded file under a name of our own; what is in it is for others to judge.

    Args:
        name: what it was called, never trusted.

    Raises:
        UserError: it is no safetensors file by its name, too large, or there is no room.
    """
    if PurePosixPath(name).suffix.casefold() != SUFFIX:
        raise UserError(
            f"{display_name(name[:80])} is no .safetensors file.",
            "Only safetensors are read: other formats can carry programs.",
        )
    with disk_trouble():
        if source.stat().st_size > LARGEST:
            limit = f"{LARGEST / 1e9:.0f} GB"
            raise UserError(f"The file is larger than {limit}.", "That is no adapter.")
        path = free_path(PurePosixPath(name).stem)
        with replacing(path) as temporary:
            shutil.copyfile(source, temporary)
    return find_adapter(f"{_PREFIX}{path.name}")
