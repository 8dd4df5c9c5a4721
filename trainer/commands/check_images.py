"""``check-images``: what training would make of a folder, or of the folders of several concepts."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.commands.command import Base, command, option
from trainer.commands.train import Concepts
from trainer.config.concepts import captions_of, concepts_of, parse_concept
from trainer.config.fields import field_help
from trainer.config.file import with_values
from trainer.config.schema import ConceptConfig, TrainingConfig
from trainer.data.findings import Finding
from trainer.data.report import SetReport, describe_set, format_report
from trainer.data.sets import ImageSet, scan_image_set
from trainer.errors import UserError


@dataclass(frozen=True)
class SetsAnswer:
    """The report on the image set of each concept, and what concerns more than one of them."""

    reports: list[SetReport]
    shared: list[Finding]

    def as_dict(self) -> dict[str, object]:
        """One report as it is; several as a list."""
        if len(self.reports) == 1:
            return self.reports[0].as_dict()
        findings = [
            {"name": one.name, "severity": one.severity, "message": one.message}
            for one in self.shared
        ]
        return {"concepts": [one.as_dict() for one in self.reports], "findings": findings}

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from map(format_report, self.reports)
        yield from (f"{finding.severity}: {finding}" for finding in self.shared)


@command("check-images", "everything wrong or doubtful in an image set, before training")
def check_images(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR")] = None,
    *,
    base: Base = "tiny-emoji",
    trigger: Annotated[str, option("WORD", field_help("captions.trigger"))] = "",
    class_word: Annotated[str, option("WORD", field_help("captions.class_word"))] = "",
    resolution: Annotated[int | None, option("PX", field_help("images.resolution"))] = None,
    masks: Annotated[
        Literal["none", "alpha", "files"], option(None, field_help("images.masks"))
    ] = "none",
    concepts: Concepts = None,
) -> SetsAnswer:
    """Reports on image sets; doubtful pictures are no failure.

    Raises:
        UserError: there is no such folder, nothing in it can be used, or the base or the
            resolution does not suit.
    """
    from trainer.data.report import check_resolution
    from trainer.models.identify import identify
    from trainer.models.load import load_tokenizers

    if (folder is None) == (not concepts):
        raise UserError(
            "check-images needs a folder, or concepts, and not both.",
            "Such as: check-images DIR --trigger WORD, or: check-images --concept DIR:WORD:CLASS",
        )
    values: dict[str, object] = {
        "base.name": base,
        "images.path": str(folder or "."),
        "images.resolution": resolution,
        "images.masks": masks,
        "captions.trigger": trigger,
        "captions.class_word": class_word,
        "concepts": [parse_concept(text) for text in concepts or ()],
    }
    config = with_values(TrainingConfig(), values, "the command line")
    identity = identify(base)
    side = resolution or identity.resolution
    check_resolution(side, identity.resolution_step)
    tokenizers = load_tokenizers(identity)

    def count_tokens(text: str) -> int:
        ids = (t(text, add_special_tokens=False, verbose=False)["input_ids"] for t in tokenizers)
        return max(map(len, ids))

    images = config.images.model_copy(update={"resolution": side})
    subjects = concepts_of(config)
    sets = [scan_image_set(concept.path) for concept in subjects]
    reports = [
        describe_set(
            image_set,
            images,
            captions_of(config, concept),
            resolution=side,
            step=identity.resolution_step,
            count_tokens=count_tokens,
        )
        for concept, image_set in zip(subjects, sets, strict=True)
    ]
    return SetsAnswer(reports, list(shared_findings(subjects, sets)))


def shared_findings(
    concepts: Sequence[ConceptConfig], sets: Sequence[ImageSet]
) -> Iterator[Finding]:
    """What is doubtful between several concepts: the same picture, or the same class word."""
    places: dict[str, list[str]] = defaultdict(list)
    for concept, image_set in zip(concepts, sets, strict=True):
        for entry in image_set.entries:
            places[entry.id].append(f"{concept.path.name}/{entry.name}")
    for names in places.values():
        if len({name.partition("/")[0] for name in names}) > 1:
            yield Finding(
                ", ".join(names),
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
