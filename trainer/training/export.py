"""The result of a run: the adapter file, proven by loading it again."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from trainer.config.concepts import concepts_of, subject_of
from trainer.config.schema import TrainingConfig
from trainer.lora.adapter import Adapter
from trainer.lora.changes import compare
from trainer.lora.editing import approximate
from trainer.lora.loading import collect
from trainer.lora.metadata import TrainingFacts, build_metadata
from trainer.lora.names import shorten
from trainer.lora.reading import read_adapter
from trainer.lora.tools import judge, works_in
from trainer.lora.words import write_embeddings
from trainer.lora.writing import best_layout, write_adapter
from trainer.models.load import file_digest
from trainer.training.session import Session


@dataclass(frozen=True)
class Exported:
    """An adapter file."""

    path: Path  # where it lies
    summary: str  # one line: what was compared and how exactly it repeats the live model
    works: str  # in which tools it works, in one line
    tools: tuple[str, ...]  # those in which it works
    exact: bool  # whether it is the live adapter, but for the rounding of its precision


def export_adapter(session: Session, path: Path) -> Exported:
    """Write the adapter (its running averages, where there are any), read it back and compare.

    Vectors of new tokens are bundled with it, and each word's are also written as an embedding.

    Raises:
        UserError: it has numbers that are not finite, or too large for the file's precision.
        OSError: from the file system.
    """
    adapter, note, left_out = _write(session, path)
    saved = read_adapter(path)
    report = compare(adapter, saved)
    notes = [report.summary(), *note]
    if files := write_embeddings(adapter, session.run.embeddings, session.config.output.precision):
        notes.append(f"new tokens also as a file of their own: {shorten(f.name for f in files)}")
    if left_out:
        notes.append(f"no room in the metadata for {shorten(left_out)}")
    verdicts = judge(saved)
    tools = tuple(tool for tool, verdict in verdicts.items() if verdict.works)
    return Exported(path, "; ".join(notes), works_in(verdicts), tools, report.exact)


def keep_adapter(session: Session, path: Path) -> None:
    """Write the adapter as it is now, as `export_adapter` does, and do not read it back.

    Raises:
        UserError: it has numbers that are not finite, or too large for the file's precision.
        OSError: from the file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(session, path)


def _write(session: Session, path: Path) -> tuple[Adapter, list[str], list[str]]:
    """Writes the file; gives what is in it, remarks, and the metadata that had no room."""
    config, base = session.config, session.base
    with session.averaged():
        metadata = build_metadata(config, base, training_facts(session))
        adapter = replace(collect(base, session.attachment.name), metadata=metadata)
    note: list[str] = []
    if adapter.needs_base:  # DoRA has no file of its own
        rank = config.output.dora_rank or 4 * config.adapter.rank
        found = approximate(base, adapter, rank=rank)
        difference = found.difference.in_words()
        note = [f"DoRA, written as a plain adapter of rank {rank}: {difference}"]
        adapter = found.adapter
    left_out = write_adapter(adapter, path, best_layout(adapter), config.output.precision)
    return adapter, note, left_out


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
        buckets.update(one.crop.size for one in picture.in_each_size)
    return TrainingFacts(
        title=title(session.config),
        steps=session.step,
        epochs=math.ceil(session.step / session.batches.steps_per_epoch()),
        folders={folder: (repeats[folder], count) for folder, count in counts.items()},
        tags=tags,
        buckets=buckets,
        start=_start_of(session),
    )


def _start_of(session: Session) -> str:
    """The name and the SHA-256 of the adapter file that the run went on from."""
    given = session.config.adapter.start_from
    return f"{given.name} {file_digest(session.run.start)}" if given else ""
