"""What a training would do, in numbers and words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.tabs.train import outlook, tab
from trainer import places
from trainer.config.file import with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.runs.layout import create_run

EVIL = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "RUNS", tmp_path)


def test_the_arithmetic_is_that_of_the_set() -> None:
    values = {"images.path": "datasets/police-car", "captions.trigger": "ohwx"}
    config = with_values(TrainingConfig(), values | {"training.steps": 600})
    said = "600 steps of 4 pictures: each of 10 is seen about 240 times; 2 more are kept out"
    assert outlook.arithmetic(config) == f"{said} to measure by"
    blind = with_values(config, {"evaluation.enabled": False})
    assert outlook.arithmetic(blind) == f"{said} though nothing is measured"
    whole = with_values(config, {"evaluation.validation": 0.0})
    assert outlook.arithmetic(whole).endswith("each of 12 is seen about 200 times")
    assert outlook.lessons(config) == [("ohwx", "the 12 pictures", "police-car")]


def test_the_time_comes_from_a_run_like_this_one() -> None:
    config = with_values(TrainingConfig(), {"base.name": "someone/model"})
    assert outlook.pace_of(config) is None
    run = create_run(places.RUNS, "ohwx")
    write_config(run.config, config)
    lines = [{"time": 1000.0, "event": "start", "step": 0}]
    lines += [{"time": 1000.0 + 2 * n, "event": "step", "step": n} for n in range(1, 21)]
    run.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pace = outlook.pace_of(config)
    assert pace is not None and pace.source == "ohwx"
    assert pace.seconds == pytest.approx(2.0)
    double = with_values(config, {"training.accumulation": 2})
    twice = outlook.pace_of(double)
    assert twice is not None and twice.seconds == pytest.approx(4.0)
    assert "going by ohwx" in outlook.time_needed(config)


def test_the_summary_says_what_is_missing_and_escapes_what_users_write() -> None:
    config = TrainingConfig()
    assert "Choose an image set to begin" in tab._summary(config, {})
    gone = with_values(config, {"images.path": "datasets/gone"})
    assert "gone does not exist" in tab._summary(gone, {})
    config = with_values(config, {"images.path": "datasets/police-car"})
    assert "Give a trigger word" in tab._summary(config, {})
    words = {"captions.trigger": EVIL, "captions.class_word": EVIL, "base.name": "far/away/model"}
    said = tab._summary(with_values(config, words), {})
    assert "rank 16 for <b>model</b> (UNet and text encoder) learns" in said
    assert "<script" not in said and "&lt;script" in said
    idle = tab._summary(with_values(config, {"objective.min_snr_gamma": 3.0}), {})
    assert "Min-SNR gamma</b>: 3 has no effect" in idle
    wrong = tab._summary(None, {"adapter.rank": EVIL, "": "Both."})
    assert "<b>Rank</b>: &lt;script" in wrong and "<li>Both.</li>" in wrong
