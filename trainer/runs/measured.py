"""What a run's ``evaluation.json`` says, for pages."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from trainer.runs.board import data_uri, read_png
from trainer.runs.layout import RunFolder
from trainer.runs.meters import METERS

_MOST_BYTES = 12_000_000


class MeasuredFinding(BaseModel):
    """A finding in words; `good` where it is as it should be."""

    says: str = ""
    good: bool = False


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
    """What a page shows of a run's evaluation.

    Attributes:
        chosen: the checkpoint and the strength that are recommended; both None where none is.
        recommended: the same as a sentence, or why there is none.
        verdict: what the adapter is worth, and the next step; empty in runs of earlier versions.
        works: whether that is as it should be.
        next_step: the same next step, to be taken.
        board: the bleed board as a data URI; empty without one.
    """

    findings: list[MeasuredFinding]
    rows: list[MeasuredRow]
    chosen: tuple[str | None, float | None]
    recommended: str
    verdict: str
    works: bool
    next_step: MeasuredStep
    board: str


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
        works=found.verdict.code == "works",
        next_step=found.verdict.next_step,
        board=data_uri(board) if board else "",
    )
