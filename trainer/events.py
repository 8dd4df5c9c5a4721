"""Every event of a run: one frozen dataclass each, to a line of ``events.jsonl`` and back.

A line is ``{"time": seconds since 1970, "event": kind, …the fields…}``. Fields are added, never
renamed: lines of earlier versions are read, and what they lack has its default. NaN and infinity,
which are not JSON, are written as the texts "nan", "inf" and "-inf".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from trainer.answers import Answer
from trainer.errors import Code
from trainer.untyped import is_table

Progress = Callable[[int, int, str], None]
"""Is told how slow work goes: what is done, of how much, and what is being done in words."""


Notice = Callable[[str], None]  # is told, in a sentence, what the user should know


def no_progress(done: int, total: int, what: str) -> None:
    """A `Progress` that tells nobody."""


Reason = Literal["finished", "stopped", "failed"]  # how a run ended

Phase = Literal[
    "preparing", "caching", "training", "paused", "previewing", "measuring", "saving", "searching",
    "finished", "stopped", "failed",
]  # fmt: skip
"""What a run does, as ``status.json`` says it; the last three are the reasons of an end."""

CACHING: Phase = "caching"  # what `Progress` is told while latents are cached: a phase of its own


@dataclass(frozen=True)
class RunEvent:
    """Something that happened in a run."""

    kind: ClassVar[str]
    # When it was logged, in seconds since 1970; 0 before.
    time: float = field(default=0.0, kw_only=True, compare=False)


@dataclass(frozen=True)
class Working(RunEvent):
    """Slow work other than training steps; it is not logged."""

    kind = "working"
    what: str  # in words
    done: int = 0  # how much is done, of ``total``
    total: int = 0
    phase: Phase = "preparing"  # the run's phase meanwhile


@dataclass(frozen=True)
class Prepared(RunEvent):
    """Training is about to begin, or goes on after a stop."""

    kind = "start"
    summary: str = ""  # what will train, in one line
    arithmetic: str = ""  # pictures, batches and steps, in one line
    step: int = 0  # steps done before
    total_steps: int = 0
    version: str = ""  # of Rarebit; empty in runs of versions before 0.2


@dataclass(frozen=True)
class ImagesRead(RunEvent):
    """The image sets of a run are read; warnings about them follow."""

    kind = "images"
    summary: str = ""  # what they come to, in one line


@dataclass(frozen=True)
class StepDone(RunEvent):
    """One optimizer step."""

    kind = "step"
    step: int  # steps done, this one included
    loss: float = math.nan  # mean weighted squared error over the step's samples
    # The same for the preserved prompts; None on a step without them.
    preservation: float | None = None
    learning_rate: float = math.nan  # `optimizers.leading_rate` times the schedule
    gradient_norm: float = math.nan  # before clipping
    seconds: float = 0.0  # wall time of the step


@dataclass(frozen=True)
class Validated(RunEvent):
    """Loss on the validation split, at fixed noise and timesteps."""

    kind = "validation"
    step: int
    loss: float = math.nan  # on the validation split; on trained pictures where there is none
    training_loss: float = math.nan  # on trained pictures, at the same points
    held_out: int = 0  # pictures of the validation split that were measured


WEAK_LIKENESS = 0.03  # below it the pictures are hardly better predicted than by the base model


@dataclass(frozen=True)
class Meters(Answer):
    """What was measured of one concept, or the mean over several."""

    beside = ("leak", "class_leak", "neighbour_leak", "collateral", "gap", "likeness_taken")

    effect: float = 0.0  # drift for prompts with the trigger word; 0 is no effect at all
    # class_drift, neighbour_drift, unrelated_drift: the same for the class word, for things like
    # it, and for unrelated things and the empty prompt; None where nothing was asked.
    class_drift: float | None = None
    neighbour_drift: float | None = None
    unrelated_drift: float | None = None
    # How much better than the base model pictures of the set are predicted with the trigger (of the
    # validation split, where there is one); None without pictures.
    likeness: float | None = None
    likeness_without: float | None = None  # the same with the trigger taken out of the captions
    likeness_trained: float | None = None  # the same as likeness, on pictures that were trained on
    validation_loss: float | None = None  # on the same pictures as likeness, weighed as in training
    training_loss: float | None = None  # on pictures that were trained on, at the same points
    base_loss: float | None = None  # the base model's validation loss
    held_out: int = 0  # pictures of the validation split that were measured; 0 without one
    # gap_low_noise, gap_middle_noise, gap_high_noise: `gap` at each of the three timesteps, from
    # where details are decided to where the whole picture is; None without a split.
    gap_low_noise: float | None = None
    gap_middle_noise: float | None = None
    gap_high_noise: float | None = None

    @property
    def class_leak(self) -> float | None:
        """Drift for the class word, as a share of the effect."""
        return self._share(self.class_drift)

    @property
    def neighbour_leak(self) -> float | None:
        """Drift for things like the class word, as a share of the effect."""
        return self._share(self.neighbour_drift)

    @property
    def leak(self) -> float | None:
        """The larger one of the two: what the trigger word has not kept to itself."""
        found = [share for share in (self.class_leak, self.neighbour_leak) if share is not None]
        return max(found, default=None)

    @property
    def collateral(self) -> float | None:
        """Drift for unrelated prompts and the empty one, as a share of the effect."""
        return self._share(self.unrelated_drift)

    @property
    def gap(self) -> float | None:
        """Likeness of trained pictures minus that of the validation split: overfitting."""
        if not self.held_out or self.likeness_trained is None or self.likeness is None:
            return None
        return self.likeness_trained - self.likeness

    @property
    def likeness_taken(self) -> float | None:
        """How much of the likeness the captions bring without the trigger word; None where there is
        too little likeness to share."""
        if self.likeness_without is None or self.likeness is None or self.likeness < WEAK_LIKENESS:
            return None
        return max(self.likeness_without, 0.0) / self.likeness

    def _share(self, value: float | None) -> float | None:
        if value == 0 or value is None:
            return value
        return value / self.effect if self.effect > 0 else None


GAPS = ("gap_low_noise", "gap_middle_noise", "gap_high_noise")
"""Fields of `Meters`: the gap by noise, from the least to the most."""


@dataclass(frozen=True)
class Evaluated(RunEvent):
    """The meters at one step: the mean over concepts. Its line has the meters beside the step."""

    kind = "evaluation"
    step: int
    meters: Meters
    seconds: float = 0.0  # wall time of the measuring


@dataclass(frozen=True)
class PreviewSaved(RunEvent):
    """Previews lie in a folder of the run folder."""

    kind = "preview"
    step: int
    folder: str = ""


@dataclass(frozen=True)
class CheckpointSaved(RunEvent):
    """A checkpoint lies in a folder of the run folder."""

    kind = "checkpoint"
    step: int
    folder: str = ""


@dataclass(frozen=True)
class MemoryUsed(RunEvent):
    """Memory of this run so far."""

    kind = "memory"
    step: int = 0  # steps done
    # The most that tensors took on the GPU; without one, that the process took.
    peak_gib: float = math.nan
    device: str = ""  # "cuda", "mps", "xpu" or "cpu"
    mode: str = ""  # what the frozen layers keep for the backward pass
    rows: int = 0  # rows of the largest forward pass with gradients
    checkpointing: bool = False  # full gradient checkpointing


@dataclass(frozen=True)
class Warned(RunEvent):
    """Something that the user should know; training goes on."""

    kind = "warning"
    message: str
    step: int = 0


@dataclass(frozen=True)
class SearchProgress(RunEvent):
    """How a search for settings goes, in a sentence."""

    kind = "search"
    message: str = ""


@dataclass(frozen=True)
class RolledBack(RunEvent):
    """Training goes on from an earlier step, at a lower learning rate."""

    kind = "rollback"
    step: int  # where it goes on from
    failed_step: int = 0  # the step whose numbers were not finite
    message: str = ""  # all of it in words


@dataclass(frozen=True)
class Ended(RunEvent):
    """The run is over."""

    kind = "end"
    step: int = 0
    reason: Reason = "failed"
    code: Code = ""  # why, where it is not finished; see `trainer.errors.Code`
    message: str = ""  # the same for a person
    works_in: tuple[str, ...] | None = None  # tools that load all of a finished run's adapter


LOGGED = {one.kind: one for one in RunEvent.__subclasses__() if one is not Working}
"""Kind -> class of all events that are logged."""


def to_line(event: RunEvent) -> str:
    """One line of JSON, without its end."""
    fields = asdict(event)
    if isinstance(event, Evaluated):
        seconds, meters = fields.pop("seconds"), fields.pop("meters")
        derived = {name: getattr(event.meters, name) for name in Meters.beside}
        fields |= {**meters, **derived, "seconds": seconds}
    record = {"time": fields.pop("time"), "event": event.kind, **fields}
    plain = {key: _plain(value) for key, value in record.items()}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)


def from_line(line: str | bytes) -> RunEvent | None:
    """The event of a line; None for a torn line and for kinds and values that are not known."""
    try:
        record: Any = json.loads(line)
        if not is_table(record):
            return None
        kind = record.get("event")
        if kind == Evaluated.kind:
            record = {**record, "meters": record}
        return _parser(kind).validate_python(record) if kind in LOGGED else None
    except (ValueError, TypeError, RecursionError, ValidationError):
        return None


@lru_cache
def _parser(kind: str) -> TypeAdapter[RunEvent]:
    return TypeAdapter(LOGGED[kind])


def _plain(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
