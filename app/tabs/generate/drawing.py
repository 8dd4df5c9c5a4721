"""What Generate draws: the adapters to choose from, a request to the worker, and its files."""

from __future__ import annotations

import math
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from app import client, jobs
from app.client import ShouldStop
from app.files import disk_trouble
from app.tabs.adapters.files import find_adapter, list_adapters
from app.tabs.generate.turn import take_turn
from trainer import places
from trainer.data.decoder import read_texts
from trainer.errors import UserError
from trainer.events import Progress
from trainer.runs.layout import RunFolder, list_runs
from trainer.untyped import is_list

MOST_COUNT = 16
REMEMBERED = 60
FAVOURITE = "*"
"""Before the remembered name of a picture that stays."""
SILENCE_SECONDS = 300.0
"""A denoising step of a large base model on a slow machine takes minutes."""

_CHECKPOINT = re.compile(r"(?P<run>.+)@(?P<step>\d{1,7})")
_NAME = re.compile(r"\*?\d{4}-\d\d-\d\d/[0-9A-Za-z][\w-]{0,80}\.png")


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
        UserError: something of the settings does not work.
    """
    if not settings.prompt.strip():
        raise UserError("The prompt is empty.", "Say what to draw, with the trigger word in it.")
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

    def ask(stop: ShouldStop) -> Any:
        return client.call("generate", arguments, SILENCE_SECONDS, on_progress, stop)

    value = take_turn(ask, on_progress, should_stop)
    return [Path(file) for file in value["files"]]


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
    path = places.PICTURES / name.removeprefix(FAVOURITE)
    return path if path.is_file() and not path.is_symlink() else None


def names_of(names: object) -> list[str]:
    """Remembered names without those that are gone: favourites first, which all stay."""
    known = [name for name in (names if is_list(names) else ()) if picture_of(name)]
    favourites = [name for name in known if name.startswith(FAVOURITE)]
    return favourites + [name for name in known if name not in favourites][:REMEMBERED]


_STRENGTH = re.compile(r"-?[0-9.]{1,20}(?:e-?[0-9]{1,3})?")
_MOST_ADAPTERS = 50


class Restored(NamedTuple):
    """What was found in a picture.

    Attributes:
        settings: for the form; its adapters are those that are here.
        missing: what could not be found here, in words.
    """

    settings: Settings
    missing: tuple[str, ...] = ()


class _PictureFacts(BaseModel):
    """What `trainer.generation.sampling.save_picture` writes; anything else is left out."""

    prompt: str = Field(max_length=5000)
    negative: str = Field(default="", max_length=5000)
    seed: int = Field(ge=0, lt=2**31)
    width: int = Field(default=0, ge=0, le=4096)
    height: int = Field(default=0, ge=0, le=4096)
    inference_steps: int = Field(ge=1, le=1000)
    guidance: float = Field(ge=0, le=100, allow_inf_nan=False)
    model: str = ""
    adapters: list[str] = []


def read_settings(path: Path, known: dict[str, str], bases: list[str]) -> Restored:
    """The settings in a picture drawn here, or by a tool that writes as A1111 does.

    Args:
        known: ids of the adapters that are here, by the names that pictures use.
        bases: the base models that are here.

    Raises:
        UserError: it carries none.
    """
    texts = read_texts(path)
    facts = _own_facts(texts.get("rarebit", "")) or _a1111_facts(texts.get("parameters", ""))
    if facts is None:
        raise UserError(
            "There are no settings in this picture.",
            "Pictures drawn here carry them, as long as no other program has saved them anew.",
        )
    named = [parse_adapter(text) for text in facts.adapters[:_MOST_ADAPTERS]]
    settings = Settings(
        **facts.model_dump(exclude={"model", "adapters"}),
        adapters=tuple(replace(one, id=known[one.id]) for one in named if one.id in known),
        base=facts.model if facts.model in bases else "",
    )
    missing = [f"the adapter {one.id}" for one in named if one.id not in known]
    if facts.model and not settings.base:
        missing.append(f"the base model {Path(facts.model).name}")
    return Restored(settings, tuple(missing))


def parse_adapter(text: str) -> AdapterSetting:
    """``NAME:STRENGTH`` or ``NAME:STRENGTH:TEXT_STRENGTH``; the name stands for the id."""
    text = text[:300]
    for count in (2, 1):
        name, *numbers = text.rsplit(":", count)
        strengths = [strength for number in numbers if (strength := _strength(number)) is not None]
        if name and len(strengths) == count:
            return AdapterSetting(name, *strengths)
    return AdapterSetting(text)


def _strength(text: str) -> float | None:
    try:
        value = float(text) if _STRENGTH.fullmatch(text) else math.nan
    except ValueError:  # such as 0.5.1
        return None
    return value if math.isfinite(value) else None


def _own_facts(text: str) -> _PictureFacts | None:
    try:
        return _PictureFacts.model_validate_json(text)
    except ValidationError:
        return None


def _a1111_facts(text: str) -> _PictureFacts | None:
    """``PROMPT <lora:NAME:1>``, ``Negative prompt: …`` and ``Steps: 20, Seed: 1, …``."""
    head, _, tail = text.rpartition("\n")
    pairs = {key: value for key, _, value in (p.strip().partition(": ") for p in tail.split(","))}
    prompt, _, negative = head.partition("\nNegative prompt: ")
    plain, adapters = _apart(prompt)
    width, _, height = pairs.get("Size", "").partition("x")
    facts = {
        "prompt": plain,
        "negative": negative,
        "seed": pairs.get("Seed"),
        "width": width,
        "height": height,
        "inference_steps": pairs.get("Steps"),
        "guidance": pairs.get("CFG scale"),
        "model": pairs.get("Model", ""),
        "adapters": adapters,
    }
    try:
        return _PictureFacts.model_validate(facts)
    except ValidationError:
        return None


def _apart(prompt: str) -> tuple[str, list[str]]:
    """A prompt without its ``<lora:NAME:1>`` and the spaces before them, and what stood in these.

    By hand, since patterns take quadratic time for many that are not closed.
    """
    first, *parts = prompt.split("<lora:")
    plain, adapters = [first], []
    for part in parts:
        name, closed, rest = part.partition(">")
        if name and closed:
            adapters.append(name)
            plain[-1] = plain[-1].rstrip()
            plain.append(rest)
        else:
            plain.append(f"<lora:{part}")
    return "".join(plain), adapters
