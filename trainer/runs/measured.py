"""What a run's ``evaluation.json`` says, for pages: read with care, since it is a file like any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.runs.board import data_uri, read_png
from trainer.runs.log import number
from trainer.runs.layout import RunFolder
from trainer.runs.meters import METERS
from trainer.untyped import as_table, is_list, is_table

_MOST_BYTES = 12_000_000


@dataclass(frozen=True)
class Said:
    """A finding in words; `good` where it is as it should be."""

    text: str
    good: bool


@dataclass(frozen=True)
class MeasuredRow:
    """A checkpoint at a strength; its values in the order of `METERS`, "–" where unknown."""

    name: str
    strength: float
    values: tuple[str, ...]
    chosen: bool


@dataclass(frozen=True)
class Measured:
    """What a page shows of a run's evaluation.

    Attributes:
        recommended: a sentence; empty where nothing is recommended.
        board: the bleed board as a data URI; empty without one.
    """

    findings: tuple[Said, ...] = ()
    rows: tuple[MeasuredRow, ...] = ()
    recommended: str = ""
    board: str = ""


def read_measured(run: RunFolder) -> Measured:
    """What was measured of a run; nothing where there is no file or it can't be read."""
    try:
        told = as_table(json.loads(run.evaluation.read_bytes()))
    except (OSError, ValueError):
        told = {}
    advice = as_table(told.get("recommended"))
    chosen = (advice.get("checkpoint"), number(advice.get("strength")))
    board = read_png(run.bleed_board, _MOST_BYTES)
    strengths = [row for row in _tables(advice, "strengths") if number(row.get("strength")) != 1]
    return Measured(
        findings=tuple(
            Said(str(item.get("says", "")), bool(item.get("good")))
            for item in _tables(advice, "findings")
        ),
        rows=tuple(_row(row, chosen) for row in (*_tables(told, "checkpoints"), *strengths)),
        recommended=_advice(advice, chosen),
        board=data_uri(board) if board else "",
    )


def _tables(told: Mapping[str, object], name: str) -> list[dict[str, object]]:
    found = told.get(name)
    return [item for item in found if is_table(item)] if is_list(found) else []


def _row(told: dict[str, object], chosen: tuple[object, float | None]) -> MeasuredRow:
    strength = number(told.get("strength"))
    return MeasuredRow(
        name=str(told.get("checkpoint", "")),
        strength=1.0 if strength is None else strength,
        values=tuple(meter.value(told) or "–" for meter in METERS),
        chosen=(told.get("checkpoint"), strength) == chosen,
    )


def _advice(advice: Mapping[str, object], chosen: tuple[object, float | None]) -> str:
    why = str(advice.get("why", ""))
    if not chosen[0] or chosen[1] is None:
        return why
    return f"Use {chosen[0]} at strength {chosen[1]:g}: {why}"
