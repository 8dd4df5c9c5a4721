"""The line that says whether a training fits the card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app import client
from app.forms import form_values
from app.tabs.train import memory
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError

FITS = {
    "peak_gib": 7.83, "parts": {}, "fits": True, "plan": {}, "plan_fits": True,
    "vram_gib": 11, "vram_source": "the GPU of this machine",
}  # fmt: skip
PLAN = {"training.gradient_checkpointing": True}
TOO_LARGE = FITS | {"peak_gib": 12.31, "fits": False, "plan": PLAN}


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    memory._predicted.cache_clear()
    yield
    memory._predicted.cache_clear()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (FITS, "Fits your card: about 7.8 of 11 GiB"),
        (TOO_LARGE, "It would with: Gradient checkpointing on."),
        (TOO_LARGE | {"plan_fits": False}, "Choose a lower resolution"),
        (FITS | {"vram_source": "assumed"}, "There is no GPU here"),
    ],
)
def test_a_prediction_in_words(value: dict[str, Any], words: str) -> None:
    assert words in memory.describe(value)
    assert ("Fits your card" in memory.describe(value)) == (value is FITS)


def test_it_asks_once_for_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def call(verb: str, arguments: dict[str, Any], timeout: float) -> dict[str, Any]:
        asked.append(verb)
        return FITS

    monkeypatch.setattr(client, "call", call)
    config = TrainingConfig()
    for change in ({}, {}, {"captions.trigger": "ohwx"}, {"previews.every": 7}):
        assert "Fits" in memory.line(*form_values(with_values(config, change)))
    assert asked == ["fit"]
    memory.line(*form_values(with_values(config, {"adapter.rank": 64})))
    assert asked == ["fit"] * 2


def test_without_an_answer_it_stays_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*_: object) -> None:
        raise UserError("busy")

    monkeypatch.setattr(client, "call", call)
    assert memory.line(*form_values(TrainingConfig())) == memory.NOT_YET
    wrong = form_values(TrainingConfig())
    wrong[0] = ""
    assert memory.line(*wrong) == memory.NOT_YET
