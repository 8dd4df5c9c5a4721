"""What a run leaves behind, and what it does not depend on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import (
    digest,
    make_images,
    measure_quickly,
    small_config,
    train_small,
)
from trainer.config.file import read_config
from trainer.events import Ended, Prepared, PreviewSaved, RunEvent, StepDone, Warned, Working
from trainer.runs.layout import RunFolder
from trainer.runs.log import read_events
from trainer.runs.status import Status, read_status
from trainer.runs.wishes import take_back, wish_for
from trainer.training.runner import run_training


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images")


def test_what_a_run_does_shows_as_phases(
    tiny_base: TinyBase, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases: list[str] = []

    def note(_: object, status: Status) -> None:
        phases.extend([status.phase] if status.phase not in phases[-1:] else [])

    measure_quickly(monkeypatch)
    monkeypatch.setattr("trainer.training.runner.write_status", note)
    changes = {"evaluation__enabled": True, "evaluation__every": 0, "evaluation__board": 0}
    config = small_config(tiny_base("sd1"), images, previews__every=2, **changes)
    train_small(config, tmp_path / "run")
    start = phases.index("training")
    assert set(phases[:start]) == {"preparing", "caching"}
    assert phases[start:] == [
        *("training", "previewing", "training", "previewing", "training", "previewing"),
        *("measuring", "saving", "measuring", "finished"),
    ]


def test_what_is_asked_while_it_trains(tiny_base: TinyBase, images: Path, tmp_path: Path) -> None:
    """Pictures now, other prompts and a pause come at the next step; the adapter is the same."""
    config = small_config(tiny_base("sd1"), images)
    whole, _ = train_small(config, tmp_path / "whole")
    run, paused = RunFolder(tmp_path / "run"), 0

    def listen(event: RunEvent) -> None:
        nonlocal paused
        if isinstance(event, StepDone) and event.step == 1:
            wish_for(run, "draw")
            wish_for(run, "previews", {"prompts": ["a house"], "count": 2})
        if isinstance(event, StepDone) and event.step == 2:
            wish_for(run, "pause")
            wish_for(run, "previews", {"count": 99})
        if isinstance(event, Working) and event.phase == "paused":
            paused += 1
            take_back(run, "pause")

    run_training(config, run, listen)
    assert paused == 1
    assert run.preview_steps() == [0, 1, 4]
    drawn = json.loads((run.preview(1) / "prompts.json").read_text())
    assert [record["prompt"] for record in drawn] == ["a house", "a house"]
    assert read_config(run.config).previews.prompts == ("a house",)
    said = [event.message for event in read_events(run) if isinstance(event, Warned)]
    assert any("other prompts" in text for text in said)
    assert any("stay as they are" in text and "previews.count" in text for text in said)
    assert digest(run.adapter) == digest(whole.run.adapter)
    with Image.open(run.timelapse) as film:
        assert getattr(film, "n_frames", 1) == 3
    assert not whole.run.wishes.exists()


def test_the_run_folder_is_complete(tiny_base: TinyBase, images: Path, tmp_path: Path) -> None:
    rate = {"optimizer__learning_rate": 1e-3, "optimizer__schedule": "constant"}
    config = small_config(tiny_base("sd1"), images, previews__every=2, checkpoints__every=2, **rate)
    result, collected = train_small(config, tmp_path / "run")
    run = result.run
    assert result.finished
    assert run.adapter.is_file()
    assert run.report.is_file()
    assert run.preview_steps() == [0, 2, 4]
    assert run.checkpoint_steps() == [2, 4]
    prompts = json.loads((run.preview(4) / "prompts.json").read_text())
    assert [record["prompt"] for record in prompts] == [
        "ohwx, picture 0, of a thing, red, blue",
        "picture 0, of a thing, red, blue",
        "ohwx thing on a bicycle",
    ]
    assert all((run.preview(4) / record["file"]).is_file() for record in prompts)
    events = read_events(run)
    (start,) = [event for event in events if isinstance(event, Prepared)]
    assert start.version
    assert isinstance(events[-1], Ended) and events[-1].reason == "finished"
    steps = [event for event in events if isinstance(event, StepDone)]
    # The rate of the UNet, though the text encoder's parameters come first.
    assert [(step.step, step.learning_rate) for step in steps] == [(n, 1e-3) for n in (1, 2, 3, 4)]
    status = read_status(run)
    assert status is not None
    assert (status.phase, status.step, status.total_steps) == ("finished", 4, 4)
    prepared = collected.of(Prepared)[0]
    assert prepared.summary.startswith("trains ")
    assert "4 pictures, 4 steps of 2" in prepared.arithmetic
    assert not list(run.path.rglob("*.tmp"))


def test_seeds_make_runs_and_previews_change_nothing(
    tiny_base: TinyBase, images: Path, tmp_path: Path
) -> None:
    def trained(seed: int, previews_every: int) -> str:
        config = small_config(
            tiny_base("sdxl"),
            images,
            training__steps=2,
            training__seed=seed,
            previews__every=previews_every,
            adapter__dropout=0.3,
        )
        result, collected = train_small(config, tmp_path / f"run-{seed}-{previews_every}")
        assert len(collected.of(PreviewSaved)) == 2 + previews_every
        return digest(result.run.adapter)

    assert trained(1, 0) == trained(1, 1)
    assert trained(1, 0) != trained(2, 0)


def test_a_setting_without_effect_is_named_before_the_first_step(
    tiny_base: TinyBase, images: Path, tmp_path: Path
) -> None:
    config = small_config(tiny_base("sd1"), images, objective__min_snr_gamma=3.0, training__steps=1)
    _, collected = train_small(config, tmp_path / "run")
    kinds = [event for event in collected.events if isinstance(event, Warned | StepDone)]
    assert isinstance(kinds[0], Warned) and "objective.min_snr_gamma" in kinds[0].message
