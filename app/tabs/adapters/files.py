"""The adapter files on this machine: those of runs, and those that users brought or made."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from filecmp import cmp
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from gradio.utils import get_upload_folder

from app import client, jobs
from app.files import Upload, disk_trouble, slug
from app.tabs.images.imagesets import find_set
from trainer import places
from trainer.config.file import ConfigError, format_config, read_config, with_values
from trainer.config.schema import TrainingConfig
from trainer.data.names import display_name
from trainer.errors import UserError
from trainer.runs.atomic import replacing
from trainer.runs.layout import list_runs
from trainer.text import numbered

SUFFIX = ".safetensors"
LARGEST = 4_000_000_000
SECONDS = 180.0
"""How long the worker may take for one file."""
MEASURING_SECONDS = 7200.0
"""How long it may measure an adapter: large base models on old cards take their time."""
STEPS_ON = 300
"""Steps that train on with the rest held: they were enough (docs/notes/adapter-files.md)."""

_PREFIX = "file/"


@dataclass(frozen=True)
class ListedAdapter:
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


def list_adapters() -> list[ListedAdapter]:
    """All adapter files here: those of runs, the newest first, then the others by name."""
    found = [
        ListedAdapter(run.name, run.adapter, display_name(run.name), run.name)
        for run in list_runs(places.RUNS)
        if run.adapter.is_file()
    ]
    found += [
        ListedAdapter(f"{_PREFIX}{path.name}", path, display_name(path.stem))
        for path in sorted(places.ADAPTERS.glob(f"*{SUFFIX}"))
        if path.is_file() and not path.name.startswith(".")
    ]
    return found


def find_adapter(adapter_id: str) -> ListedAdapter:
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
    with disk_trouble():
        places.ADAPTERS.mkdir(parents=True, exist_ok=True)
    paths = (places.ADAPTERS / f"{stem}{SUFFIX}" for stem in numbered(slug(name) or "adapter"))
    return next(path for path in paths if not path.exists())


def keep_copy(file: Path, name: str) -> str:
    """Copies an adapter of a run to the adapters, unless it is there; gives its id.

    Raises:
        UserError: it is gone, or there is no room.
    """
    with disk_trouble():
        same = (one for one in list_adapters() if not one.run and cmp(one.path, file, False))
        if kept := next(same, None):
            return kept.id
        path = free_path(name)
        with replacing(path) as temporary:
            shutil.copyfile(file, temporary)
    return f"{_PREFIX}{path.name}"


def take_in(upload: Upload) -> ListedAdapter:
    """Keeps a dropped file under a name of our own, if it is an adapter that can be read.

    Raises:
        UserError: it is none, is too large, or there is no room; nothing is kept then.
    """
    name = PurePosixPath(upload.name)  # never trusted
    if name.suffix.casefold() != SUFFIX:
        raise UserError(
            f"{display_name(upload.name[:80])} is no .safetensors file.",
            "Only safetensors are read: other formats can carry programs.",
        )
    with disk_trouble():
        if upload.path.stat().st_size > LARGEST:
            limit = f"{LARGEST / 1e9:.0f} GB"
            raise UserError(f"The file is larger than {limit}.", "That is no adapter.")
        path = free_path(name.stem)
        with replacing(path) as temporary:
            shutil.copyfile(upload.path, temporary)
    choice = find_adapter(f"{_PREFIX}{path.name}")
    try:
        inspect(choice)
    except UserError as error:
        path.unlink(missing_ok=True)
        message = error.message.replace(str(path.resolve()), path.name)
        raise UserError(message, error.hint) from None
    return choice


# ------------------------------------------------------------------------------ the worker's work


def inspect(choice: ListedAdapter) -> dict[str, Any]:
    """What ``adapter inspect --json`` says of a file.

    Raises:
        UserError: it cannot be read; or the worker does not answer.
    """
    return _ask("adapter.inspect", *_identity(choice.path))


def verify(choice: ListedAdapter) -> dict[str, Any]:
    """What ``adapter verify --json`` says of a file, without a base model.

    Raises:
        UserError: as `inspect`.
    """
    return _ask("adapter.verify", *_identity(choice.path))


def _identity(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError("The adapter file is gone.", "Choose another one.") from error
    return str(path.resolve()), status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)
def _ask(verb: str, path: str, changed: int, size: int) -> dict[str, Any]:
    return client.call(verb, {"file": path}, SECONDS)


Made = tuple[ListedAdapter, dict[str, Any]]
"""A new file, and what became of it."""


def convert(choice: ListedAdapter, layout: str, precision: str) -> Made:
    """Another layout, or number format if one is given.

    Raises:
        UserError: the worker cannot do it.
    """
    arguments = {"file": _path(choice), "layout": layout, "precision": precision or None}
    return _make("adapter.convert", arguments, f"{choice.title} {layout} {precision}")


def resize(
    choice: ListedAdapter, rank: float | None, share: float, images: str = "", keep: float = 0.0
) -> Made:
    """Smaller ranks: at most ``rank``, or what keeps ``share`` of each layer; or, where ``keep`` is
    given, what keeps that share of the likeness to an image set.

    Raises:
        UserError: as `convert`.
    """
    if keep:
        goal = {"keep_likeness": keep, "images": _images(choice, images), "file": _path(choice)}
        name = f"{choice.title} small"
        return _make("adapter.resize", goal, name, MEASURING_SECONDS)
    rank = _rank(rank)
    goal: dict[str, object] = {"rank": rank} if rank else {"energy": share}
    name = f"{choice.title} rank {rank}" if rank else f"{choice.title} {100 * share:.0f} percent"
    return _make("adapter.resize", {"file": _path(choice), **goal}, name)


def merge(choice: ListedAdapter, rank: float | None, *rows: Any) -> Made:
    """Several adapters as one, each with its strength.

    Args:
        rows: ids of the others, "" for none, and then the strengths, that of `choice` first.

    Raises:
        UserError: fewer than two, or as `convert`.
    """
    others, strengths = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    pairs = zip((choice.id, *others), strengths, strict=True)
    chosen = [(find_adapter(one), float(strength)) for one, strength in pairs if one]
    _check_several(chosen)
    files = [f"{_path(one)}:{strength:g}" for one, strength in chosen]
    name = " and ".join(one.title for one, _ in chosen)
    return _make("adapter.merge", {"files": files, "rank": _rank(rank)}, name)


def tune(choice: ListedAdapter, images: str, trigger: str, class_word: str, only: str) -> Made:
    """Other strengths of its blocks, as measured on pictures; or one half of it alone.

    Args:
        images: id of an image set; of a run's adapter its own unless given.
        only: ``subject`` or ``style``; "" for all of it.

    Raises:
        UserError: as `convert`.
    """
    known = {"trigger": trigger.strip(), "class_word": class_word.strip(), "only": only}
    arguments: dict[str, object] = {name: value or None for name, value in known.items()}
    arguments |= {"file": _path(choice), "images": _images(choice, images)}
    name = f"{choice.title} {only or 'tuned'}"
    return _make("adapter.tune", arguments, name, MEASURING_SECONDS)


def settings_to_train_on(
    choice: ListedAdapter, images: str, trigger: str, class_word: str, base: str
) -> str:
    """A configuration that trains on from an adapter while the rest is held, as TOML.

    That mends what strengths of blocks cannot: an adapter that never learned to tell its trigger
    word from other words.

    Args:
        images, trigger, class_word: as of `tune`.
        base: the base model that is chosen; of a run's adapter its own.

    Raises:
        UserError: no pictures or no trigger word are known.
    """
    folder = _images(choice, images)
    if not folder:
        raise UserError("No pictures are chosen.", "Choose some of its subject, under Pictures.")
    config = TrainingConfig()
    if choice.run:
        of_run = read_config(jobs.run_folder(choice.run).config)
        config = config.model_copy(update={"base": of_run.base, "captions": of_run.captions})
    elif base:
        config = with_values(config, {"base.name": base})
    known = inspect(choice)["trigger_words"]
    words = {"captions.trigger": trigger.strip(), "captions.class_word": class_word.strip()}
    if not words["captions.trigger"] and not config.captions.trigger and known:
        words["captions.trigger"] = str(known[0])[:60]
    values = {name: word for name, word in words.items() if word}
    values |= {"images.path": folder, "adapter.start_from": str(choice.path.resolve())}
    config = with_values(config, {**values, "training.steps": STEPS_ON})
    if not config.captions.trigger:
        raise UserError("Its trigger word is not known.", "Write it under Trigger word.")
    return format_config(config)


def together(choice: ListedAdapter, *others: str | None) -> Made:
    """Adapters of runs in one file that keeps most of each, as measured on their image sets.

    Args:
        others: their ids, "" for none.

    Raises:
        UserError: fewer than two, a file that no run here made, or as `convert`.
    """
    chosen = [choice, *(find_adapter(one) for one in others if one)]
    _check_several(chosen)
    images = [_images(one, "") for one in chosen]
    missing = [one.title for one, found in zip(chosen, images, strict=True) if not found]
    if missing:
        raise UserError(
            f"It is not known here which pictures {', '.join(missing)} was trained on.",
            "Choose adapters that were trained here, or merge without measuring.",
        )
    name = " with ".join(one.title for one in chosen)
    arguments = {"files": [_path(one) for one in chosen], "images": images}
    return _make("adapter.together", arguments, name, MEASURING_SECONDS)


def _check_several(chosen: Sequence[object]) -> None:
    if len(chosen) < 2:
        raise UserError("A merge needs two adapters.", "Choose at least one more.")


def _rank(number: float | None) -> int | None:
    if number and number < 1:
        raise UserError(f"A rank of {number:g} makes no adapter.", "Give 1 or more.")
    return int(number) if number else None


def _images(choice: ListedAdapter, set_id: str) -> str | None:
    """The folder of an image set; unless one is chosen, that of the run that made the adapter."""
    if set_id:
        return str(find_set(places.DATASETS, set_id).path.resolve())
    if not choice.run:
        return None
    try:
        path = read_config(jobs.run_folder(choice.run).config).images.path
    except ConfigError:
        return None
    return str(path.resolve()) if path != Path() else None


def _make(verb: str, arguments: dict[str, object], name: str, seconds: float = SECONDS) -> Made:
    path = free_path(name)
    answer = client.call(verb, {**arguments, "out": str(path.resolve())}, seconds)
    return find_adapter(f"{_PREFIX}{path.name}"), answer


def download(choice: ListedAdapter) -> Path:
    """A zip with the adapter, and the text and picture that other tools show beside it.

    Raises:
        UserError: the file cannot be read, or there is no room.
    """
    stem = slug(choice.run or choice.path.stem) or "adapter"
    with disk_trouble():
        folder = Path(get_upload_folder()) / "downloads" / secrets.token_hex(8)
        folder.mkdir(parents=True)
    out = folder / f"{stem}.zip"
    wanted = {"file": _path(choice), "out": str(out), "name": stem}
    client.call("adapter.download", wanted, SECONDS)
    return out


def _path(choice: ListedAdapter) -> str:
    return str(choice.path.resolve())
