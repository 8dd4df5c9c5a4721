"""What a training would do, in words: on what, how long, and how we know."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from app.shared import escape
from app.tabs.images.setview import known_unusable
from trainer import places
from trainer.config.concepts import concepts_of, preserved_share, subject_of
from trainer.config.file import read_config
from trainer.config.schema import TrainingConfig
from trainer.data.folders import look_into, repeats_of
from trainer.data.holding import held_out_count
from trainer.errors import UserError
from trainer.events import Prepared, StepDone
from trainer.runs.layout import RunFolder, list_runs
from trainer.runs.log import read_events
from trainer.text import duration

_MOST_PICTURES = 100_000
_MOST_RUNS = 30  # the newest ones are asked for their pace
# Seconds a step of 4 pictures on two cores of a server without a GPU, previews included: the
# README's first run.
_BUILT_IN_PACE = 0.2
_BUILT_IN = "tiny-emoji"


@dataclass(frozen=True)
class Pace:
    """How long a step takes.

    Attributes:
        seconds: wall time of a step, its share of previews and checkpoints included.
        source: the run that it was measured in; "" if on another machine.
    """

    seconds: float
    source: str


def sentence(config: TrainingConfig) -> str:
    """What will be trained, as one sentence of HTML."""
    concepts = concepts_of(config)
    lessons = " and ".join(
        f"<b>{escape(subject_of(concept)) or '…'}</b> from {_pictures(concept.path)}"
        for concept in concepts
    )
    parts = ["UNet"] * config.adapter.unet + ["text encoder"] * config.adapter.text_encoder
    base = config.base.name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return (
        f"An adapter of rank {config.adapter.rank} for <b>{escape(base)}</b> "
        f"({' and '.join(parts)}) learns {lessons}."
    )


def _pictures(path: Path) -> str:
    count = picture_count(path)
    many = f"the {count[0]:,} pictures" if count and count[0] > 1 else "the pictures"
    return f"{many} of <b>{escape(path.name) or '…'}</b>"


def arithmetic(config: TrainingConfig) -> str:
    """Steps, batches and how often each picture is seen, in one line of HTML."""
    training = config.training
    size = training.batch_size * training.accumulation
    line = f"{training.steps:,} steps of {size} picture{'s' if size != 1 else ''}"
    counts = [picture_count(concept.path) for concept in concepts_of(config)]
    if len(counts) > 1 or counts[0] is None:
        return line
    pictures, repeated = counts[0]
    kept = held_out_count(pictures, config.evaluation.validation)
    seen = training.steps * size / (repeated * (pictures - kept) / pictures)
    times = f"{seen:,.0f} times" if seen >= 1.5 else "once" if seen >= 0.75 else f"{seen:.1f} times"
    aside = f"; {kept} more {'are' if kept > 1 else 'is'} kept out to measure by" if kept else ""
    return f"{line}: each of {pictures - kept:,} is seen about {times}{aside}"


def time_needed(config: TrainingConfig) -> str:
    """How long it will take, and how we know."""
    pace = pace_of(config)
    if pace is None:
        return "No run with this base model yet, so the time is not known."
    shown = duration(pace.seconds * config.training.steps, rough=True)
    if pace.source:
        return f"Takes about {shown}, going by {escape(pace.source)}."
    return f"Takes about {shown} on two cores of a server; on this machine nothing ran yet."


def picture_count(path: Path) -> tuple[int, int] | None:
    """How many pictures an image set has: (alone, with their repeats); None if that takes long."""
    root = places.PROJECT / path
    try:
        return (
            None if path == Path() else _count(root, root.stat().st_mtime_ns, known_unusable(root))
        )
    except (OSError, UserError):
        return None


@lru_cache(maxsize=64)
def _count(root: Path, changed: int, unusable: frozenset[str]) -> tuple[int, int] | None:
    contents = look_into(root, _MOST_PICTURES)
    pictures = [picture for picture in contents.pictures if picture.name not in unusable]
    repeats = [repeats_of(picture.name) for picture in pictures]
    used = [count for count in repeats if count]
    return (len(used), sum(used)) if used and not contents.tables else None


def pace_of(config: TrainingConfig) -> Pace | None:
    """The pace of the newest run like this one; None if nothing is known."""
    for run in list_runs(places.RUNS)[:_MOST_RUNS]:
        try:
            measured = _measured(run.path, run.events.stat().st_mtime_ns)
        except OSError:
            continue
        if measured and measured.resembles(config):
            factor = _work(config) / measured.work
            return Pace(measured.seconds * factor, run.name)
    if config.base.name == _BUILT_IN:
        return Pace(_BUILT_IN_PACE * _work(config) / _work(TrainingConfig()), "")
    return None


@dataclass(frozen=True)
class _Measured:
    base: str
    resolution: int | None
    work: float
    seconds: float

    def resembles(self, config: TrainingConfig) -> bool:
        """Whether its pace says something of that of another training."""
        same_size = config.images.resolution in (None, self.resolution)
        return config.base.name == self.base and same_size


@lru_cache(maxsize=256)
def _measured(path: Path, changed: int) -> _Measured | None:
    """Seconds a step of a run; None where too little was done to tell."""
    run = RunFolder(path)
    try:
        config = read_config(run.config)
    except UserError:
        return None
    steps = [event for event in read_events(run) if isinstance(event, (StepDone, Prepared))]
    # Only the last stretch: between a stop and going on lie days.
    begun = max((i for i, event in enumerate(steps) if isinstance(event, Prepared)), default=0)
    times = [event.time for event in steps[begun + 1 :] if event.time]
    if len(times) < 10:
        return None
    seconds = (times[-1] - times[0]) / (len(times) - 1)
    return _Measured(config.base.name, config.images.resolution, _work(config), seconds)


def _work(config: TrainingConfig) -> float:
    """What a step costs, in pictures; preserved prompts are pictures too.

    Recomputing activations costs a third more time (docs/configuration.md).
    """
    size = config.training.batch_size * config.training.accumulation
    kept = preserved_share(config) / config.preservation.every
    again = 4 / 3 if config.training.gradient_checkpointing else 1.0
    return size * (1 + kept) * again
