"""The verdict's next step as a button: what it says, and what a press does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from app import jobs
from app.shared import go
from app.tabs.adapters.files import keep_copy
from app.tabs.runs.reader import RunView, view
from trainer import places
from trainer.config.concepts import concepts_of
from trainer.config.file import format_config, with_values
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.runs.layout import RunFolder
from trainer.runs.meters import MeasuredStep, read_measured

_OF_PICTURES = ("check_words", "uncouple")
"""What is put right in the Images tab."""


def label(found: RunView) -> str:
    """What the button says; "" where there is no step to take."""
    info = found.info
    if found.config is None or info.phase != "finished":
        return ""
    step = _of(info.name)
    if step.code == "train_longer" and RunFolder(places.RUNS / info.name).search.is_file():
        return ""
    if step.code == "train_longer":
        steps = more_steps(info.name, info.step)
        return f"Train on to {steps:,} steps" if steps else ""
    if step.code == "use" and isinstance(strength := step.values.get("strength"), (int, float)):
        return f"Generate with it at strength {strength:g}"
    if step.code in _OF_PICTURES:
        return "Look at its words and pictures"
    return "Fill the Train form with this change" if step.values else ""


def more_steps(name: str, done: int) -> int | None:
    """How many steps in all the verdict wants; None where it wants no more than are done."""
    step = _of(name)
    steps = step.values.get("training.steps")
    if step.code == "train_longer" and isinstance(steps, int) and steps > done:
        return steps
    return None


def draws(found: RunView) -> bool:
    """Whether the step is to draw with the adapter."""
    return bool(label(found)) and _of(found.info.name).code == "use"


def take(name: str) -> dict[str, Any]:
    """Takes the step.

    Returns:
        What changes of `app.shared.Shared`, by attribute.

    Raises:
        UserError: the run or its settings can't be read, or something trains already.
    """
    step, config = _of(name), readable(name)
    if step.code == "train_longer":
        jobs.resume(name, steps=int(step.values["training.steps"]))
        return {"run": name}
    if step.code == "use":
        adapter = kept(jobs.run_folder(name), str(step.values["checkpoint"]))
        strength = f"{adapter}:{step.values['strength']}"
        return {"adapter": strength, "tabs": go("generate")}
    if step.code in _OF_PICTURES:
        concept = concepts_of(config)[0]
        folder = places.PROJECT / concept.path
        inside = folder.is_relative_to(places.DATASETS)
        name = folder.relative_to(places.DATASETS).parts[0] if inside else folder.name
        words = {"trigger": concept.trigger, "class_word": concept.class_word}
        return {"image_set": name, **words, "tabs": go("images")}
    changed = format_config(with_values(config, step.values))
    return {"settings": (changed, time.time()), "tabs": go("train")}


def readable(name: str) -> TrainingConfig:
    """The settings of a run.

    Raises:
        UserError: they can't be read.
    """
    config = view(name).config
    if config is None:
        raise UserError("The settings of this run cannot be read.", "Choose another run.")
    return config


def _of(name: str) -> MeasuredStep:
    return read_measured(RunFolder(places.RUNS / name)).next_step


def kept(run: RunFolder, file: str) -> str:
    """The id of a run's adapter; an earlier step's is copied to the adapters, to be kept."""
    step = next((n for n in run.adapter_steps() if run.adapter_at(n).name == Path(file).name), None)
    return run.name if step is None else keep_copy(run.adapter_at(step), f"{run.name}-step-{step}")
