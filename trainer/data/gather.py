"""The pictures of a run: read, fitted, split and balanced. Never torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trainer.config.concepts import captions_of, concepts_of
from trainer.config.schema import TrainingConfig
from trainer.data.order import balanced_repeats, validation_ids
from trainer.data.report import fit_pictures
from trainer.data.scan_cache import ScanCache
from trainer.data.sets import ImageSet, Picture, scan_image_set
from trainer.events import Progress
from trainer.places import cache_folder


def gather_pictures(
    config: TrainingConfig,
    step: int,
    notice: Callable[[str], None],
    progress: Progress | None = None,
) -> tuple[list[Picture], list[Picture]]:
    """The pictures of all concepts of a run: the training split and the validation split.

    What is trained on is repeated so that each concept gets its share.

    Args:
        config: with its resolution filled in.
        step: bucket sides are multiples of it, in pixels.
        notice: is told what is doubtful about the pictures.
        progress: is told while the pictures of a concept are read.

    Raises:
        UserError: a folder is missing, or none of its pictures can be used.
    """
    concepts = concepts_of(config)
    groups: list[list[Picture]] = []
    validation: list[Picture] = []
    for number, concept in enumerate(concepts):
        image_set = scan_again(concept.path, progress)
        report = fit_pictures(image_set, config.images, step, captions_of(config, concept))
        prefix = f"{concept.path.name}/" if len(concepts) > 1 else ""
        for finding in report.findings:
            if finding.severity != "note":
                notice(f"{prefix}{finding}")
        pictures = [_of_concept(picture, number, prefix) for picture in report.fitted]
        trained, kept_out = split_validation(pictures, config)
        groups.append(trained)
        validation += kept_out
    repeats = [[picture.entry.repeats for picture in group] for group in groups]
    balanced = balanced_repeats(repeats, [concept.repeats for concept in concepts])
    training = [
        replace(picture, entry=replace(picture.entry, repeats=count))
        for group, counts in zip(groups, balanced, strict=True)
        for picture, count in zip(group, counts, strict=True)
    ]
    return training, validation


def scan_again(path: Path, progress: Progress | None = None) -> ImageSet:
    """`scan_image_set`, which decodes only what it has not seen in an earlier run."""
    cache = ScanCache(cache_folder() / "inspections", path)
    image_set = scan_image_set(path, progress=progress, inspect=cache.inspect)
    cache.save()
    return image_set


def split_validation(
    pictures: Sequence[Picture], config: TrainingConfig
) -> tuple[list[Picture], list[Picture]]:
    """What is trained on of a concept's pictures, and what is kept out to measure by."""
    ids = [picture.entry.id for picture in pictures]
    kept_out = validation_ids(ids, config.evaluation.validation, config.training.seed)
    return (
        [picture for picture in pictures if picture.entry.id not in kept_out],
        [picture for picture in pictures if picture.entry.id in kept_out],
    )


def _of_concept(picture: Picture, number: int, prefix: str) -> Picture:
    entry = replace(picture.entry, name=prefix + picture.entry.name)
    return replace(picture, entry=entry, concept=number)
