"""What is to be measured: a run with all its adapters, or any adapter file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from trainer.config.concepts import concepts_of
from trainer.config.file import read_config
from trainer.config.schema import ConceptConfig, TrainingConfig
from trainer.data.cache import TensorCache
from trainer.data.gather import read_sets, split_pictures
from trainer.data.latents import LatentSource, MaskSource
from trainer.errors import UserError
from trainer.evaluation.drift import ProbeSettings
from trainer.evaluation.meters import MeasuredConcept, MeterBench
from trainer.lora.metadata import CONFIG_KEY
from trainer.lora.reading import read_adapter
from trainer.memory.devices import Device, choose_device
from trainer.memory.modes import load_training_base
from trainer.models.base import BaseModel
from trainer.models.safetensors_header import read_header
from trainer.places import RUNS, cache_folder
from trainer.runs.layout import RunFolder, open_run
from trainer.training.batches import all_captions
from trainer.untyped import as_table

_OBJECT = TypeAdapter(dict[str, object])


@dataclass(frozen=True)
class AdapterAt:
    """An adapter file and the step that it was written after; None where it does not say."""

    path: Path
    step: int | None


@dataclass(frozen=True)
class Target:
    """What is measured, on what base, by which words and pictures."""

    # The run's, or what the file's metadata tells of it, with the caller's changes.
    config: TrainingConfig
    files: tuple[AdapterAt, ...]  # rising by step, the result last
    run: RunFolder | None  # the run folder; None for a file by itself
    # Whether training kept a validation split as `config` says; older files had none.
    has_split: bool
    # Whether words and pictures are what the run was trained with.
    own: bool = False

    @property
    def result(self) -> AdapterAt:
        """The last of the files."""
        return self.files[-1]

    def name(self, file: AdapterAt) -> str:
        """A file's name in the run folder."""
        return file.path.relative_to(self.run.path).as_posix() if self.run else file.path.name


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
        base, trigger, class_word, images: instead of what the run or the file says; empty texts,
            as of a form's empty fields, say nothing.

    Raises:
        UserError: there is nothing to measure there, or no trigger word is known.
    """
    if not place.exists() and (RUNS / place).is_dir():
        place = RUNS / place
    if place.is_dir():
        run = open_run(place)
        config, files = read_config(run.config, of_run=True), run_files(run)
    else:
        run, files, config = None, (_adapter_at(place),), config_of(_metadata(place))
    if base:
        config = config.changed(base={"name": base})
    changed = bool(trigger or class_word or images is not None)
    if changed:
        config = _with_words(config, trigger, class_word, images)
    if not all(concept.trigger for concept in concepts_of(config)):
        if run is None:
            read_adapter(place)  # which says what a file is that is no adapter
        raise UserError(f"{place} does not say its trigger word.", "Give it with --trigger WORD.")
    recorded = _recorded(_metadata(files[-1].path))
    own = run is not None and not changed
    return Target(config, files, run, has_split="evaluation" in recorded, own=own)


def load_target(target: Target) -> tuple[BaseModel, Target, Device, TensorCache]:
    """The base model of a target on its device, and the target with its configuration resolved.

    Raises:
        UserError: as `load_base`.
    """
    config = target.config
    # On a GPU as it was trained, so that it fits; a CPU is faster in its own way.
    on_gpu = torch.accelerator.is_available()
    device = choose_device(
        config.training.precision if on_gpu else "auto", offload=on_gpu and config.memory.offload
    )
    model, config, device = load_training_base(config, device)
    device.put(model.unet, *model.text_encoders)
    cache = TensorCache(cache_folder(), lambda _: None)
    return model, replace(target, config=config), device, cache


def bench_of(
    base: BaseModel,
    targets: Sequence[Target],
    device: Device,
    cache: TensorCache,
    notes: list[str],
    settings: ProbeSettings | None = None,
) -> MeterBench:
    """The concepts of targets, with what the base model does with their pictures.

    Args:
        targets: with configurations resolved for this base; the first says how pictures are read.
        notes: is told what can't be measured.
        settings: how finely drift is measured.
    """
    config = targets[0].config
    with device.instead([base.vae], []):
        return MeterBench(
            base,
            [
                _measured(base, target, concept, notes)
                for target in targets
                for concept in concepts_of(target.config)
            ],
            device,
            cache,
            LatentSource(base, cache, config.images.background),
            masks=MaskSource(config.images, base.vae_scale_factor),
            objective=config.objective,
            side=config.images.resolution,
            settings=settings,
        )


def run_files(run: RunFolder) -> tuple[AdapterAt, ...]:
    """The adapters of a run by step, its result last.

    Raises:
        UserError: it has none yet.
    """
    files = [AdapterAt(run.adapter_at(step), step) for step in run.adapter_steps()]
    if run.adapter.is_file():
        result = _adapter_at(run.adapter)
        last = math.inf if result.step is None else result.step
        files = [*(file for file in files if (file.step or 0) < last), result]
    if not files:
        raise UserError(
            f"{run.path} has no adapter to measure yet.",
            f"Go on with it: python launch.py resume {run.path}",
        )
    return tuple(files)


def config_of(metadata: Mapping[str, str]) -> TrainingConfig:
    """What an adapter's metadata tells of its training; defaults for the rest."""
    recorded = _recorded(metadata)
    if recorded:
        with suppress(ValidationError):  # of another version: its words are understood all the same
            return TrainingConfig.model_validate(recorded)
    words = as_table(recorded.get("captions"))
    trigger = str(words.get("trigger") or metadata.get("modelspec.trigger_phrase", ""))
    changes = {"trigger": trigger[:60], "class_word": str(words.get("class_word") or "")[:60]}
    return TrainingConfig().changed(captions=changes)


def one_concept(config: TrainingConfig, concept: ConceptConfig) -> TrainingConfig:
    """The configuration of a run of this concept alone."""
    words = {"trigger": concept.trigger, "class_word": concept.class_word}
    alone = config.model_copy(update={"concepts": ()})
    return alone.changed(captions=words, images={"path": concept.path})


def _with_words(
    config: TrainingConfig, trigger: str | None, class_word: str | None, images: Path | None
) -> TrainingConfig:
    """The configuration with other words and pictures; with a trigger of several, that one only."""
    concepts = concepts_of(config)
    if len(concepts) > 1 and not trigger:
        names = ", ".join(concept.trigger for concept in concepts)
        raise UserError(
            f"The adapter has several trigger words: {names}.",
            "Say with --trigger WORD which one the other options are for.",
        )
    old = next((one for one in concepts if one.trigger == trigger), next(iter(concepts)))
    changes = {
        "trigger": trigger or old.trigger,
        "class_word": class_word or old.class_word,
        "path": old.path if images is None else images,
    }
    return one_concept(config, old.model_copy(update=changes))


def _recorded(metadata: Mapping[str, str]) -> dict[str, object]:
    """The configuration as it stands in the metadata; empty without any."""
    with suppress(ValidationError):
        return _OBJECT.validate_json(metadata.get(CONFIG_KEY, "{}"))
    return {}


def _metadata(path: Path) -> dict[str, str]:
    return read_header(path).metadata


def _adapter_at(path: Path) -> AdapterAt:
    step = _metadata(path).get("ss_steps", "")
    return AdapterAt(path, int(step) if step.isdecimal() else None)


def _measured(
    base: BaseModel, target: Target, concept: ConceptConfig, notes: list[str]
) -> MeasuredConcept:
    """A concept with what there is of its pictures."""
    words = (concept.trigger, concept.class_word)
    if concept.path == Path():
        return MeasuredConcept(*words)
    if not concept.path.exists():
        notes.append(f"The image set {concept.path} is not there any more: no likeness.")
        return MeasuredConcept(*words)
    config = one_concept(target.config, concept)
    if not target.has_split:
        config = config.changed(evaluation={"validation": 0.0})
    splits = split_pictures(config, read_sets(config, base.resolution_step))
    trained, validation = (
        tuple(zip(split, all_captions(base, split, config), strict=True)) for split in splits
    )
    return MeasuredConcept(*words, trained, validation)
