"""``check-images``: what training would make of a folder, or of the folders of several concepts."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

from trainer.config.concepts import captions_of, concepts_of
from trainer.config.schema import ConceptConfig, ImagesConfig, TrainingConfig
from trainer.data.findings import Finding
from trainer.data.latents import check_resolution
from trainer.data.report import SetReport, describe_set, format_report
from trainer.data.sets import ImageSet, scan_image_set
from trainer.models.identify import BaseIdentity, identify
from trainer.models.load import load_tokenizers


def check_images(config: TrainingConfig, *, as_json: bool) -> int:
    """Print the report on the image set of each concept; doubtful pictures are no failure.

    Raises:
        UserError: there is no such folder, nothing in it can be used, or the base or the
            resolution does not suit.
    """
    base = identify(config.base.name)
    side = config.images.resolution or base.resolution
    check_resolution(side, base.resolution_step)
    images = config.images.model_copy(update={"resolution": side})
    concepts = concepts_of(config)
    sets = [scan_image_set(concept.path) for concept in concepts]
    reports = [
        _report(config, concept, image_set, images, base)
        for concept, image_set in zip(concepts, sets, strict=True)
    ]
    shared = list(shared_findings(concepts, sets))
    if as_json:
        print(json.dumps(_as_json(reports, shared), indent=1))
    else:
        lines = [format_report(report) for report in reports]
        print("\n".join([*lines, *(f"{finding.severity}: {finding}" for finding in shared)]))
    return 0


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


def _report(
    config: TrainingConfig,
    concept: ConceptConfig,
    image_set: ImageSet,
    images: ImagesConfig,
    base: BaseIdentity,
) -> SetReport:
    tokenizers = load_tokenizers(base)

    def count_tokens(text: str) -> int:
        ids = (t(text, add_special_tokens=False, verbose=False)["input_ids"] for t in tokenizers)
        return max(map(len, ids))

    return describe_set(
        image_set,
        images,
        captions_of(config, concept),
        resolution=images.resolution or base.resolution,
        step=base.resolution_step,
        count_tokens=count_tokens,
    )


def _as_json(reports: Sequence[SetReport], shared: Sequence[Finding]) -> dict[str, object]:
    """One report as it is; several as a list, with what concerns more than one of them."""
    if len(reports) == 1:
        return reports[0].as_dict()
    findings = [
        {"name": finding.name, "severity": finding.severity, "message": finding.message}
        for finding in shared
    ]
    return {"concepts": [report.as_dict() for report in reports], "findings": findings}
