"""The result of a run: the adapter file, proven by loading it again."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from trainer.concepts import concepts_of, subject_of
from trainer.config import TrainingConfig
from trainer.lora.files import collect, write_kohya
from trainer.lora.metadata import TrainingFacts, build_metadata
from trainer.lora.proof import verify_file
from trainer.lora.tools import works_in
from trainer.lora.verify import verify_export
from trainer.session import Session


@dataclass(frozen=True)
class Exported:
    """An adapter file.

    Attributes:
        path: where it lies.
        summary: one line: what was compared, how exactly it repeats the live model, and in which
            tools it works.
        exact: whether it is the live adapter, but for the rounding of its precision.
    """

    path: Path
    summary: str
    exact: bool


def export_adapter(session: Session, path: Path) -> Exported:
    """Write the adapter (its running averages, where there are any), read it back and compare.

    Raises:
        UserError: it has numbers that are not finite, or too large for the file's precision.
        OSError: from the file system.
    """
    config, name = session.config, session.attachment.name
    with session.averaged():
        metadata = build_metadata(config, session.base, training_facts(session))
        adapter = replace(collect(session.base, name), metadata=metadata)
        write_kohya(adapter, path, config.output.precision)
        report = verify_export(session.base, name, path)
    where = works_in(verify_file(path).verdicts)
    return Exported(path, f"{report.summary()}; {where}", report.exact)


def title(config: TrainingConfig) -> str:
    """The adapter's name: the configured one, or trigger and class word of each concept.

    Not the run's: the same training in another folder gives the same bytes.
    """
    subjects = ", ".join(subject_of(concept) for concept in concepts_of(config))
    return config.output.name or subjects or "adapter"


def training_facts(session: Session) -> TrainingFacts:
    """What the metadata tells of the training besides the configuration."""
    counts: Counter[str] = Counter()
    repeats: dict[str, int] = {}
    tags: dict[str, Counter[str]] = defaultdict(Counter)
    buckets: Counter[tuple[int, int]] = Counter()
    for picture, caption in zip(session.pictures, session.captions, strict=True):
        folder = str(PurePosixPath(picture.entry.name).parent)
        folder = "images" if folder == "." else folder
        counts[folder] += 1
        repeats[folder] = picture.entry.repeats
        tags[folder].update(tag.strip() for tag in caption.split(",") if tag.strip())
        buckets[picture.crop.width, picture.crop.height] += 1
    return TrainingFacts(
        title=title(session.config),
        steps=session.step,
        epochs=math.ceil(session.step / session.batches.steps_per_epoch()),
        folders={folder: (repeats[folder], count) for folder, count in counts.items()},
        tags=tags,
        buckets=buckets,
    )
