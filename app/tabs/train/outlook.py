"""What a training would do: on what, how long, and how we know."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from app.tabs.images.setview import known_unusable
from trainer import places
from trainer.config.concepts import concepts_of, preserved_share, subject_of
from trainer.config.file import read_config
from trainer.config.schema import TrainingConfig
from trainer.data.order import validation_count
from trainer.data.pairing import read_folder
from trainer.data.scan import repeats_of
from trainer.errors import UserError
from trainer.events import Prepared, StepDone
from trainer.runs.layout import RunFolder, list_runs
from trainer.runs.log import read_events
from trainer.text import counted, duration, how_often

_MOST_PICTURES = 100_000
_MOST_RUNS = 30  # the newest ones are asked for their pace
# Seconds a step of 4 pictures on two cores of a server without a GPU, previews included: the
# README's first run.
_BUILT_IN_PACE = 0.2
_BUILT_IN = "tiny-emoji"


class Lesson(NamedTuple):
    """One concept of a training: what is learnt, and from how many pictures of which set."""

    subject: str
    pictures: str
    image_set: str


def lessons(config: TrainingConfig) -> list[Lesson]:
    """What a training teaches."""
    found: list[Lesson] = []
    for concept in concepts_of(config):
        count = picture_count(concept.path)
        pictures = f"the {count[0]:,} pictures" if count and count[0] > 1 else "the pictures"
        found.append(Lesson(subject_of(concept) or "…", pictures, concept.path.name or "…"))
    return found


def arithmetic(config: TrainingConfig) -> str:
    """Steps, batches and how often each picture is seen, in one line."""
    training = config.training
    size = training.batch_size * training.accumulation
    line = f"{training.steps:,} steps of {counted(size, 'picture')}"
    counts = [picture_count(concept.path) for concept in concepts_of(config)]
    if len(counts) > 1 or counts[0] is None:
        return line
    pictures, repeated = counts[0]
    validation = validation_count(pictures, config.evaluation.validation)
    seen = training.steps * size / (repeated * (pictures - validation) / pictures)
    line += f": each of {pictures - validation:,} is seen about {how_often(seen)}"
    if validation:
        why = "to measure by" if config.evaluation.enabled else "though nothing is measured"
        line += f"; {validation} more {'are' if validation > 1 else 'is'} kept out {why}"
    return line


def picture_count(path: Path) -> tuple[int, int] | None:
    """How many pictures an image set has: (alone, with their repeats); None if that takes long."""
    root = places.PROJECT / path
    try:
        if path == Path():
            return None
        return _count(root, root.stat().st_mtime_ns, known_unusable(root))
    except (OSError, UserError):
        return None


@lru_cache(maxsize=64)
def _count(root: Path, changed: int, unusable: frozenset[str]) -> tuple[int, int] | None:
    contents = read_folder(root, _MOST_PICTURES)
    names = (picture.name for picture in contents.pictures if picture.name not in unusable)
    used = [repeats for name in names if (repeats := repeats_of(name))]
    return (len(used), sum(used)) if used and not contents.tables else None


# ------------------------------------------------------------------------------ the time


class Pace(NamedTuple):
    """How long a step takes.

    Attributes:
        seconds: wall time of a step, its share of previews and checkpoints included.
        source: the run that it was measured in; "" if on another machine.
    """

    seconds: float
    source: str


def time_needed(config: TrainingConfig) -> str:
    """How long it will take, and how we know."""
    pace = pace_of(config)
    if pace is None:
        return "No run with this base model yet, so the time is not known."
    takes = f"Takes about {duration(pace.seconds * config.training.steps, rough=True)}"
    if pace.source:
        return f"{takes}, going by {pace.source}."
    return f"{takes} on two cores of a server; on this machine nothing ran yet."


def pace_of(config: TrainingConfig) -> Pace | None:
    """The pace of the newest run like this one; None if nothing is known."""
    for run in list_runs(places.RUNS)[:_MOST_RUNS]:
        try:
            measured = _measured(run.path, run.events.stat().st_mtime_ns)
        except OSError:
            continue
        if measured and measured.resembles(config):
            return Pace(measured.seconds * _work(config) / _work(measured.config), run.name)
    if config.base.name == _BUILT_IN:
        return Pace(_BUILT_IN_PACE * _work(config) / _work(TrainingConfig()), "")
    return None


@dataclass(frozen=True)
class _Measured:
    """The seconds that a step of a run took."""

    config: TrainingConfig
    seconds: float

    def resembles(self, config: TrainingConfig) -> bool:
        """Whether its pace says something of that of another training."""
        sides, known = config.images.sides, self.config.images.sides
        same_size = not sides or max(sides) == max(known, default=None)
        return config.base.name == self.config.base.name and same_size


@lru_cache(maxsize=256)
def _measured(path: Path, changed: int) -> _Measured | None:
    """Seconds a step of a run; None where too little was done to tell."""
    run = RunFolder(path)
    try:
        config = read_config(run.config, of_run=True)
    except UserError:
        return None
    steps = [event for event in read_events(run) if isinstance(event, (StepDone, Prepared))]
    # Only the last stretch: between a stop and going on lie days.
    begun = max((i for i, event in enumerate(steps) if isinstance(event, Prepared)), default=0)
    times = [event.time for event in steps[begun + 1 :] if event.time]
    if len(times) < 10:
        return None
    return _Measured(config, (times[-1] - times[0]) / (len(times) - 1))


def _work(config: TrainingConfig) -> float:
    """What a step costs, in pictures of the largest resolution; preserved prompts are pictures too.

    Recomputing activations costs a third more time (docs/configuration.md).
    """
    size = config.training.batch_size * config.training.accumulation
    preserved = preserved_share(config) / config.preservation.every
    again = 4 / 3 if config.training.gradient_checkpointing else 1.0
    sides = config.images.sides or (1,)
    area = sum((side / max(sides)) ** 2 for side in sides) / len(sides)
    return size * (area + preserved) * again
