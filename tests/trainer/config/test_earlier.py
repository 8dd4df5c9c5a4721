"""Runs of earlier versions keep their meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from trainer.config.fields import all_fields
from trainer.config.file import as_it_began, changes_since, format_config, read_config
from trainer.config.schema import TrainingConfig
from trainer.training.optimizers import make_schedule

FIRST = json.loads((ROOT / "tests/surface.json").read_text(encoding="utf-8"))["fields"]
"""The fields of version 0.2, with their defaults."""
NOTHING = (None, False, 0, 0.0, "", "auto", "none", (), [])


def as_of_first_version(**optimizer: Any) -> str:
    """A run's file as version 0.2 wrote it."""
    lines = format_config(TrainingConfig()).splitlines()
    late = {f.key for f in all_fields().values() if f.name not in FIRST}
    lines = [x for x in lines if not x.startswith("#") and x.split(" = ")[0] not in late]
    for key, value in optimizer.items():
        lines = [f"{key} = {json.dumps(value)}" if x.startswith(f"{key} =") else x for x in lines]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("optimizer", "same_as"),
    [
        ({"schedule": "cosine_with_restarts"}, {"schedule": "cosine"}),
        ({"schedule": "polynomial"}, {"schedule": "linear"}),
        ({"schedule": "constant"}, {"schedule": "constant", "warmup": 0.0}),
        ({"schedule": "constant_with_warmup"}, {"schedule": "constant"}),
    ],
)
def test_a_schedule_goes_on_as_it_began(
    tmp_path: Path, optimizer: dict[str, Any], same_as: dict[str, Any]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(as_of_first_version(**optimizer), encoding="utf-8")
    assert "schedule_cycles" not in path.read_text(encoding="utf-8")
    schedule = make_schedule(read_config(path, of_run=True).optimizer, 200)
    config = TrainingConfig().optimizer.model_copy(update=same_as)
    wanted = make_schedule(config, 200)
    steps = range(200)
    assert [schedule(s) for s in steps] == pytest.approx([wanted(s) for s in steps], abs=2e-4)


def test_a_file_of_ones_own_takes_todays_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[optimizer]\nschedule = "cosine_with_restarts"\n', encoding="utf-8")
    assert read_config(path).optimizer.schedule_cycles == 3


def test_a_field_that_came_later_says_what_was_before() -> None:
    """A default that does something changes runs that lack it, unless the field tells."""
    silent = [
        field.name
        for field in all_fields().values()
        if field.name not in FIRST
        and not field.resume
        and field.default not in NOTHING
        and "before" not in field.schema
    ]
    assert not silent


def test_what_a_run_has_stays() -> None:
    whole = TrainingConfig().model_dump(mode="json")
    assert as_it_began(whole) == whole


@pytest.mark.parametrize(
    ("optimizer", "step", "said"),
    [
        ({"schedule": "cosine", "warmup": 0.1}, 3, 1),
        ({"schedule": "cosine", "warmup": 0.1}, 10, 0),
        ({"schedule": "constant", "warmup": 0.1}, 3, 0),
        ({"schedule": "cosine", "warmup": 0.1, "schedule_cycles": 3}, 3, 0),
    ],
)
def test_what_changes_is_said(optimizer: dict[str, Any], step: int, said: int) -> None:
    run = {"optimizer": optimizer, "training": {"steps": 100}}
    assert len(changes_since(run, step, is_velocity=False)) == said


@pytest.mark.parametrize(
    ("base", "weighting", "is_velocity", "said"),
    [
        ({}, "debiased", True, 1),
        ({}, "debiased", False, 0),
        ({}, "min_snr", True, 0),
        ({"vae": ""}, "debiased", True, 0),
    ],
)
def test_other_weights_for_velocity_are_said(
    base: dict[str, Any], weighting: str, is_velocity: bool, said: int
) -> None:
    run = {"base": base, "objective": {"weighting": weighting}}
    assert len(changes_since(run, 50, is_velocity=is_velocity)) == said
