"""What is to be measured: a run with all its adapters, or any adapter file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from trainer.config.concepts import concepts_of
from trainer.config.file import read_config
from trainer.config.schema import ConceptConfig, TrainingConfig
from trainer.errors import UserError
from trainer.lora.metadata import CONFIG_KEY
from trainer.models.safetensors_header import read_header
from trainer.places import RUNS
from trainer.runs.layout import RunFolder, open_run


@dataclass(frozen=True)
class AdapterAt:
    """An adapter file and the step that it was written after; None where it does not say."""

    path: Path
    step: int | None


@dataclass(frozen=True)
class Target:
    """What is measured, on what base, by which words and pictures.

    Attributes:
        config: the run's, or what the file's metadata tells of it, with the caller's changes.
        files: rising by step, the result last.
        run: the run folder; None for a file by itself.
        held_out: whether training kept pictures out as `config` says; older files kept none.
    """

    config: TrainingConfig
    files: tuple[AdapterAt, ...]
    run: RunFolder | None
    held_out: bool


def find_target(
    place: Path,
    *,
    base: str | None = None,
    trigger: str | None = None,
    class_word: str | None = None,
    images: Path | None = None,
) -> Target:
    """The run or file at a place; a run may be given by its name alone.

    Args:
        base, trigger, class_word, images: instead of what the run or the file says.

    Raises:
        UserError: there is nothing to measure there, or no trigger word is known.
    """
    # A form's empty fields say nothing.
    base, trigger, class_word = base or None, trigger or None, class_word or None
    if not place.exists() and (RUNS / place).is_dir():
        place = RUNS / place
    if place.is_dir():
        run = open_run(place)
        config, files = read_config(run.config), run_files(run)
    else:
        run, files = None, (AdapterAt(place, _step_of(_metadata(place))),)
        config = config_of(_metadata(place))
    if base is not None:
        config = config.model_copy(
            update={"base": config.base.model_copy(update={"name": base, "prediction": "auto"})}
        )
    config = _with_words(config, trigger, class_word, images)
    if not all(concept.trigger for concept in concepts_of(config)):
        raise UserError(f"{place} does not say its trigger word.", "Give it with --trigger WORD.")
    return Target(config, files, run, "evaluation" in _told(_metadata(files[-1].path)))


def run_files(run: RunFolder) -> tuple[AdapterAt, ...]:
    """The adapters of a run by step, its result last.

    Raises:
        UserError: it has none yet.
    """
    files = [AdapterAt(run.adapter_at(step), step) for step in run.adapter_steps()]
    if run.adapter.is_file():
        step = _step_of(_metadata(run.adapter))
        files = [file for file in files if file.step is None or step is None or file.step < step]
        files.append(AdapterAt(run.adapter, step))
    if not files:
        raise UserError(
            f"{run.path} has no adapter to measure yet.",
            f"Go on with it: python launch.py resume {run.path}",
        )
    return tuple(files)


def config_of(metadata: Mapping[str, str]) -> TrainingConfig:
    """What an adapter's metadata tells of its training; defaults for the rest."""
    told = _told(metadata)
    try:
        return TrainingConfig.model_validate(told)
    except ValidationError:  # of another version: its words are understood all the same
        pass
    captions = told.get("captions")
    words = captions if isinstance(captions, dict) else {}
    trigger = str(words.get("trigger") or metadata.get("modelspec.trigger_phrase", ""))
    changes = {"trigger": trigger[:60], "class_word": str(words.get("class_word") or "")[:60]}
    config = TrainingConfig()
    return config.model_copy(update={"captions": config.captions.model_copy(update=changes)})


def _told(metadata: Mapping[str, str]) -> dict[str, object]:
    """The configuration as it stands in the metadata; without any, the trigger phrase."""
    try:
        told = json.loads(metadata.get(CONFIG_KEY, "{}"))
    except ValueError:
        told = {}
    told = told if isinstance(told, dict) else {}
    phrase = metadata.get("modelspec.trigger_phrase", "")
    if not told and phrase:
        return {"captions": {"trigger": phrase[:60]}}
    return told


def _with_words(
    config: TrainingConfig, trigger: str | None, class_word: str | None, images: Path | None
) -> TrainingConfig:
    """The configuration with other words and pictures; with a trigger of several, that one only."""
    if trigger is None and class_word is None and images is None:
        return config
    concepts = concepts_of(config)
    if len(concepts) > 1 and trigger is None:
        names = ", ".join(concept.trigger for concept in concepts)
        raise UserError(
            f"The adapter has several trigger words: {names}.",
            "Say with --trigger WORD which one the other options are for.",
        )
    known = [concept for concept in concepts if concept.trigger == trigger]
    old = next(iter(known or concepts))
    words = {
        "trigger": old.trigger if trigger is None else trigger,
        "class_word": old.class_word if class_word is None else class_word,
    }
    path = old.path if images is None else images
    return one_concept(config, old.model_copy(update={**words, "path": path}))


def one_concept(config: TrainingConfig, concept: ConceptConfig) -> TrainingConfig:
    """The configuration of a run of this concept alone."""
    words = {"trigger": concept.trigger, "class_word": concept.class_word}
    changes = {
        "concepts": (),
        "captions": config.captions.model_copy(update=words),
        "images": config.images.model_copy(update={"path": concept.path}),
    }
    return config.model_copy(update=changes)


def _metadata(path: Path) -> dict[str, str]:
    return read_header(path).metadata


def _step_of(metadata: Mapping[str, str]) -> int | None:
    text = metadata.get("ss_steps", "")
    return int(text) if text.isdecimal() else None
