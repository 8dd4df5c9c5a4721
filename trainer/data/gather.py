"""The image sets of a run: read, fitted, reported on, split and balanced. Never torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.answers import Answer, plain
from trainer.config.concepts import captions_of, concepts_of
from trainer.config.schema import ConceptConfig, TrainingConfig
from trainer.data.decoder import ScanCache
from trainer.data.findings import Finding, merge_findings
from trainer.data.names import display_name, list_names
from trainer.data.order import balanced_repeats, validation_count, validation_ids
from trainer.data.report import SetReport, check_resolutions, describe_set
from trainer.data.sets import ImageSet, Picture, scan_image_set
from trainer.events import Progress
from trainer.places import cache_folder


@dataclass(frozen=True)
class SetsReport(Answer):
    """The image set of each concept of a run, and what concerns more than one of them.

    What ``check-images`` prints, and what a training begins with.
    """

    concepts: tuple[ConceptConfig, ...]  # of the run; one for each report
    reports: list[SetReport]
    shared: list[Finding]

    @property
    def summary(self) -> str:
        if len(self.reports) == 1:
            return self.reports[0].summary
        return "; ".join(f"{one.path.name}: {report.summary}" for one, report in self.pairs)

    @property
    def pairs(self) -> Iterator[tuple[ConceptConfig, SetReport]]:
        """Each concept with its report."""
        return zip(self.concepts, self.reports, strict=True)

    def warnings(self) -> Iterator[str]:
        """What should be put right, or known before a training: errors and warnings."""
        for concept, report in self.pairs:
            yield from (
                f"{self.prefix(concept)}{finding}"
                for finding in report.findings
                if finding.severity != "note"
            )
        yield from (str(finding) for finding in self.shared if finding.severity != "note")

    def class_folders(self) -> list[tuple[Path, ConceptConfig]]:
        """The folders of regularisation pictures, each with the concept in whose set it lies."""
        return [
            (concept.path.expanduser() / folder, concept)
            for concept, report in self.pairs
            for folder in report.class_pictures
        ]

    def prefix(self, concept: ConceptConfig) -> str:
        """What stands before the names of a concept's pictures, where there are several."""
        return f"{concept.path.name}/" if len(self.concepts) > 1 else ""

    def as_dict(self) -> dict[str, object]:
        if len(self.reports) == 1:
            report = self.reports[0]
            return replace(report, findings=[*report.findings, *self.shared]).as_dict()
        return {"concepts": plain(self.reports), "findings": plain(self.shared)}

    def lines(self) -> Iterator[str]:
        for report in self.reports:
            yield from report.lines()
        yield from (f"{finding.severity}: {finding}" for finding in self.shared)


def read_sets(
    config: TrainingConfig,
    step: int,
    count_chunks: Callable[[str], int] | None = None,
    progress: Progress | None = None,
    judge: Callable[[ConceptConfig], str | None] = lambda _: None,
) -> SetsReport:
    """Read the image sets of all concepts of a run, and report on them.

    Args:
        config: with its resolution filled in.
        step: bucket sides are multiples of it, in pixels.
        count_chunks: as for `trainer.data.report.describe_set`.
        progress: is told while the pictures of a concept are read.
        judge: says what is doubtful about a concept's trigger word, if anything.

    Raises:
        UserError: a folder is missing, holds no picture, or the resolution does not suit the model.
    """
    concepts = concepts_of(config)
    sets = [scan_again(concept.path, progress) for concept in concepts]
    check_resolutions(config.images, step)
    reports = [
        describe_set(
            image_set,
            config.images,
            captions_of(config, concept),
            step=step,
            count_chunks=count_chunks,
        )
        for concept, image_set in zip(concepts, sets, strict=True)
    ]
    doubts = [
        Finding(concept.trigger, "warning", doubt)
        for concept in concepts
        if concept.trigger and (doubt := judge(concept))
    ]
    idle = _unused_masks(config.images.masks, reports)
    measuring, size = config.evaluation, config.training.batch_size
    shown = sum(
        one.shown_per_epoch - validation_count(len(one.fitted), measuring.validation)
        for one in reports
    )
    if 0 < shown < size:
        message = f"{size} are more than the {shown} pictures of an epoch: a step shows no more."
        doubts.append(Finding("training.batch_size", "warning", message))
    share, default = measuring.validation, type(measuring).model_fields["validation"].default
    most = max((len(one.fitted) for one in reports), default=0)
    if share not in (0, default) and not validation_count(most, share):
        message = f"{share:g} keeps no picture out: with so few all are trained on."
        doubts.append(Finding("evaluation.validation", "warning", message))
    shared = merge_findings([*doubts, *idle, *_shared_findings(concepts, sets)])
    return SetsReport(concepts, reports, shared)


def with_class_pictures(
    config: TrainingConfig, report: SetsReport, notice: Callable[[str], None]
) -> TrainingConfig:
    """The configuration of a run whose image sets hold regularisation pictures.

    These stand in for the base model's predictions: the method becomes "pictures".

    Args:
        notice: is told.
    """
    settings, found = config.preservation, report.class_folders()
    if not found or not settings.regularization:
        return config
    names = list_names([display_name(folder.name) for folder, _ in found])
    if settings.method == "none" or settings.weight == 0 or settings.folder:
        notice(
            f"The regularisation pictures in {names} are not used: preservation.method, weight "
            "or folder says otherwise."
        )
        return config
    if settings.method == "prediction":
        notice(
            f"The pictures in {names} are used as class pictures of prior preservation, in place "
            "of the base model's predictions. preservation.regularization = false leaves them out."
        )
    have = [concept for _, concept in found]
    others = [one.class_word or one.trigger for one in report.concepts if one not in have]
    if others and settings.method in ("prediction", "pictures"):
        notice(f"For {list_names(others)} the base model draws some: that set has none.")
    return config.changed(preservation={"method": "pictures"})


def split_pictures(
    config: TrainingConfig, report: SetsReport
) -> tuple[list[Picture], list[Picture]]:
    """The pictures of all concepts of a run: the training split and the validation split.

    What is trained on is repeated so that each concept gets its share.

    Raises:
        UserError: a concept has no picture that can be used.
    """
    groups: list[list[Picture]] = []
    validation: list[Picture] = []
    for number, (concept, found) in enumerate(report.pairs):
        found.check_usable()
        prefix = report.prefix(concept)
        pictures = [
            replace(one, entry=replace(one.entry, name=prefix + one.entry.name), concept=number)
            for one in found.fitted
        ]
        ids = [picture.entry.id for picture in pictures]
        kept_out = validation_ids(ids, config.evaluation.validation, config.training.seed)
        groups.append([one for one in pictures if one.entry.id not in kept_out])
        validation += [one for one in pictures if one.entry.id in kept_out]
    repeats = [[picture.entry.repeats for picture in group] for group in groups]
    balanced = balanced_repeats(repeats, [concept.repeats for concept in report.concepts])
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


def _unused_masks(masks: str, reports: Sequence[SetReport]) -> Iterator[Finding]:
    """Masks that the settings leave out: who makes them means them."""
    names = [one.entry.name for report in reports for one in report.fitted if one.entry.mask]
    if names and masks != "files":
        message = (
            f'There is a mask, but images.masks is "{masks}", so it does nothing. Set it to '
            '"files" to train on what the masks show, or delete them.'
        )
        yield Finding.of_several(names, "warning", message)


def _shared_findings(
    concepts: Sequence[ConceptConfig], sets: Sequence[ImageSet]
) -> Iterator[Finding]:
    """What is doubtful between several concepts: the same picture, or the same class word."""
    places: dict[str, dict[int, str]] = defaultdict(dict)
    for number, (concept, image_set) in enumerate(zip(concepts, sets, strict=True)):
        for entry in image_set.entries:
            places[entry.id][number] = f"{concept.path.name}/{entry.name}"
    for names in places.values():
        if len(names) > 1:
            yield Finding(
                ", ".join(names.values()),
                "warning",
                "The same picture in several concepts: their triggers will be mixed up.",
            )
    for number, concept in enumerate(concepts):
        alike = [other for other in concepts[:number] if other.class_word == concept.class_word]
        if alike and concept.class_word:
            yield Finding(
                concept.trigger,
                "note",
                f"It has the class word of {alike[0].trigger}, {concept.class_word}: two subjects "
                "of one class are harder to keep apart.",
            )
