"""The meters of an adapter: what each number means, for page, command line, report and docs.

The numbers are measured in `trainer.evaluation`, which tells their formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from trainer.events import Meters
from trainer.runs.board import data_uri, read_png
from trainer.runs.layout import RunFolder


@dataclass(frozen=True)
class Meter:
    """What one number of an evaluation means."""

    name: str  # its key in an ``evaluation`` event and in ``evaluation.json``
    meaning: str  # in plain English, without a full stop
    unit: str  # what 1 stands for
    # Which way is better; "neither" where a good and a bad adapter may have the same.
    better: Literal["more", "less", "neither"]

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    @property
    def direction(self) -> str:
        """Which way is better, in words."""
        if self.better == "neither":
            return "neither more nor less is better by itself"
        return f"{self.better} is better"

    @property
    def explanation(self) -> str:
        """The meaning and the direction, to put beside the number."""
        return f"{self.meaning}; {self.direction}"

    def value(self, record: Mapping[str, object]) -> str | None:
        """The number in a row of ``evaluation.json``; None where there is none."""
        found = record.get(self.name)
        return f"{found:.3g}" if isinstance(found, (int, float)) else None

    def of(self, meters: Meters) -> str | None:
        """The number among those that were measured; None where it was not."""
        return self.value({self.name: getattr(meters, self.name)})


METERS = (
    Meter(
        "likeness",
        "how much better than the base model it predicts pictures of the set, by their captions "
        "with the trigger word",
        "share of the base model's error; 1 would be perfect, below 0 is worse than the base model",
        "more",
    ),
    Meter(
        "effect",
        "how far the trigger word moves what the model predicts, towards the pictures or elsewhere",
        "share of the base model's prediction, squared; 0 is no effect at all",
        "neither",
    ),
    Meter(
        "likeness_taken",
        "how much of the likeness the same captions bring without the trigger word",
        "share of the likeness",
        "less",
    ),
    Meter(
        "leak",
        "how far the class word, or things like it, move without the trigger word, as a share of "
        "the effect",
        "share of the effect",
        "less",
    ),
    Meter(
        "collateral",
        "how far unrelated prompts and the empty one move, as a share of the effect",
        "share of the effect",
        "less",
    ),
    Meter(
        "validation_loss",
        "loss at fixed noise and timesteps, on pictures kept out of training if there are any",
        "squared error, weighed as in training",
        "less",
    ),
)
"""Those that are shown, the most telling first."""


# --------------------------------------------------------------- what a run's evaluation.json says


_MOST_BYTES = 12_000_000


class MeasuredFinding(BaseModel):
    """A finding in words; `good` where it is as it should be."""

    code: str = ""
    says: str = ""
    good: bool = False

    @property
    def mark(self) -> Literal["good", "bad", "open"]:
        """For the eye; "open" where nothing could be told."""
        if self.code in ("unmeasured", "few_held_out"):
            return "open"
        return "good" if self.good else "bad"


class MeasuredRow(BaseModel):
    """A checkpoint at a strength, with its meters."""

    model_config = ConfigDict(extra="allow")

    checkpoint: str = ""
    strength: float = 1.0

    @property
    def values(self) -> list[str]:
        """In the order of `METERS`; "–" where unknown."""
        return [meter.value(self.model_extra or {}) or "–" for meter in METERS]


class _Advice(BaseModel):
    checkpoint: str | None = None
    strength: float | None = None
    why: str = ""
    findings: list[MeasuredFinding] = []
    strengths: list[MeasuredRow] = []


class MeasuredStep(BaseModel):
    """The next step: its code, what it takes, and the command that takes it."""

    code: str = ""
    says: str = ""
    values: dict[str, str | int | float | bool] = {}
    command: str = ""


class _Verdict(BaseModel):
    code: str = ""
    says: str = ""
    next_step: MeasuredStep = MeasuredStep()


class _Evaluation(BaseModel):
    verdict: _Verdict = _Verdict()
    checkpoints: list[MeasuredRow] = []
    recommended: _Advice = _Advice()


@dataclass(frozen=True)
class Measured:
    """What a page shows of a run's evaluation."""

    findings: list[MeasuredFinding]
    rows: list[MeasuredRow]
    # The checkpoint and the strength that are recommended; both None where none is.
    chosen: tuple[str | None, float | None]
    recommended: str  # the same as a sentence, or why there is none
    verdict: str  # what the adapter is worth, and the next step; empty in runs of earlier versions
    code: str  # of the verdict; empty without one
    next_step: MeasuredStep  # the same next step, to be taken
    board: str  # the bleed board as a data URI; empty without one

    @property
    def works(self) -> bool:
        """Whether the verdict is as it should be."""
        return self.code == "works"


def read_measured(run: RunFolder) -> Measured:
    """What was measured of a run; nothing where there is no file or it can't be read."""
    try:
        found = _Evaluation.model_validate_json(run.evaluation.read_bytes())
    except (OSError, ValueError):
        found = _Evaluation()
    advice, board = found.recommended, read_png(run.bleed_board, _MOST_BYTES)
    use = ""
    if advice.checkpoint and advice.strength is not None:
        use = f"Use {advice.checkpoint} at strength {advice.strength:g}: "
    return Measured(
        findings=advice.findings,
        rows=[*found.checkpoints, *(row for row in advice.strengths if row.strength != 1)],
        chosen=(advice.checkpoint, advice.strength),
        recommended=use + advice.why,
        verdict=f"{found.verdict.says} {found.verdict.next_step.says}".strip(),
        code=found.verdict.code,
        next_step=found.verdict.next_step,
        board=data_uri(board) if board else "",
    )
