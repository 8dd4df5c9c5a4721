"""What a training would do, in numbers and words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app import client
from app.forms import form_values
from app.tabs.images.imagesets import SetFolder
from app.tabs.images.setview import look_at
from app.tabs.train import outlook
from trainer import places
from trainer.config.file import with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.runs.layout import create_run

EVIL = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "RUNS", tmp_path)


def test_the_arithmetic_is_that_of_the_set(tmp_path: Path) -> None:
    values = {"images.path": "datasets/police-car", "captions.trigger": "ohwx"}
    config = with_values(TrainingConfig(), values | {"training.steps": 600})
    said = ["600 steps of up to 4 pictures", "Each of 10 pictures is seen about 200 times"]
    assert outlook.arithmetic(config) == [*said, "Kept out to measure by: 2"]
    blind = with_values(config, {"evaluation.enabled": False})
    assert outlook.arithmetic(blind) == [*said, "Kept out, though nothing is measured: 2"]
    whole = with_values(config, {"evaluation.validation": 0.0})
    assert outlook.arithmetic(whole)[1:] == ["Each of 12 pictures is seen about 200 times"]
    repeated = tmp_path / "10_ohwx car"
    shutil.copytree(places.PROJECT / "datasets" / "police-car", repeated)
    of_repeated = with_values(whole, {"images.path": str(tmp_path)})
    assert outlook.arithmetic(of_repeated) == outlook.arithmetic(whole)
    assert outlook.lessons(config) == [("ohwx", 12, "police-car")]


def test_a_set_of_many_shapes_is_shown_more_often(tmp_path: Path) -> None:
    """A batch is of one shape: the page says what the run's log will say."""
    for at in range(6):
        size = (96, 32) if at % 2 else (64, 64)
        Image.effect_noise(size, 40 + at).convert("RGB").save(tmp_path / f"{at}.png")
    values = {"images.path": str(tmp_path), "training.steps": 100, "training.batch_size": 2}
    config = with_values(TrainingConfig(), values)
    said = ["100 steps of 2 pictures", "Each of 6 pictures is seen about 33 times"]
    assert outlook.arithmetic(config) == said
    look_at(SetFolder(tmp_path.name, tmp_path, owned=False), "tiny-emoji")
    said = ["100 steps of up to 2 pictures", "Each of 6 pictures is seen about 25 times"]
    assert outlook.arithmetic(config) == said


def test_the_time_comes_from_a_run_like_this_one() -> None:
    config = with_values(TrainingConfig(), {"base.name": "someone/model"})
    assert outlook.pace_of(config) is None
    run = create_run(places.RUNS, "ohwx")
    write_config(run.config, config)
    lines = [{"time": 1000.0, "event": "start", "step": 0}]
    lines += [{"time": 1000.0 + 2 * n, "event": "step", "step": n} for n in range(1, 21)]
    lines.append({"time": 1100.0, "event": "end", "step": 20, "reason": "finished"})
    run.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Takes about 1 min from start to end" in outlook.time_needed(
        with_values(config, {"training.steps": 10})
    )  # with 2 s to load and 60 s to measure
    pace = outlook.pace_of(config)
    assert pace is not None and pace.source == "ohwx"
    assert pace.seconds == pytest.approx(2.0)
    double = with_values(config, {"training.accumulation": 2})
    twice = outlook.pace_of(double)
    assert twice is not None and twice.seconds == pytest.approx(4.0)
    assert "going by ohwx" in outlook.time_needed(config)
    assert outlook.measuring_time(config) == pytest.approx(60.0)
    assert not outlook.measuring_time(with_values(config, {"evaluation.enabled": False}))


def test_the_summary_says_what_is_missing_and_escapes_what_users_write() -> None:
    config = TrainingConfig()
    assert "Choose an image set to begin" in outlook.summary(config, {})
    gone = with_values(config, {"images.path": "datasets/gone"})
    assert "gone does not exist" in outlook.summary(gone, {})
    config = with_values(config, {"images.path": "datasets/police-car"})
    assert "Give a trigger word" in outlook.summary(config, {})
    words = {"captions.trigger": EVIL, "captions.class_word": EVIL, "base.name": "far/away/model"}
    said = outlook.summary(with_values(config, words), {})
    assert "rank 16 for <b>model</b> (<span>UNet and text encoder</span>) learns" in said
    assert "<script" not in said and "&lt;script" in said
    on = with_values(
        config, {"captions.trigger": "ohwx", "adapter.start_from": "old/cat.safetensors"}
    )
    assert "goes on from <b>cat</b>, for <b>tiny-emoji</b>" in outlook.summary(on, {})
    idle = outlook.summary(with_values(config, {"objective.min_snr_gamma": 3.0}), {})
    assert "Min-SNR gamma</b>: 3 has no effect" in idle
    wrong = outlook.summary(None, {"adapter.rank": EVIL, "": "Both."})
    assert "<b>Rank</b>: &lt;script" in wrong and "<li>Both.</li>" in wrong


FITS = {
    "peak_gib": 7.83, "parts": {}, "fits": True, "plan": {}, "plan_fits": True,
    "vram_gib": 11, "vram_source": "the GPU of this machine",
}  # fmt: skip
PLAN = {"training.gradient_checkpointing": True}
TOO_LARGE = FITS | {"peak_gib": 12.31, "fits": False, "plan": PLAN}


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    outlook._predicted.cache_clear()
    yield
    outlook._predicted.cache_clear()


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
    assert words in outlook.describe_memory(value)
    assert ("Fits your card" in outlook.describe_memory(value)) == (value is FITS)


def test_it_asks_once_for_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def call(verb: str, arguments: dict[str, Any], timeout: float) -> dict[str, Any]:
        asked.append(verb)
        return FITS

    monkeypatch.setattr(client, "call", call)
    config = TrainingConfig()
    for change in ({}, {}, {"captions.trigger": "ohwx"}, {"previews.every": 7}):
        assert "Fits" in outlook.memory_line(*form_values(with_values(config, change)))
    assert asked == ["fit"]
    outlook.memory_line(*form_values(with_values(config, {"adapter.rank": 64})))
    assert asked == ["fit"] * 2


def test_without_an_answer_it_stays_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*_: object) -> None:
        raise UserError("busy")

    monkeypatch.setattr(client, "call", call)
    assert outlook.memory_line(*form_values(TrainingConfig())) == outlook.NO_MEMORY_LINE
    wrong = form_values(TrainingConfig())
    wrong[0] = ""
    assert outlook.memory_line(*wrong) == outlook.NO_MEMORY_LINE
