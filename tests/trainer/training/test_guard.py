"""The numeric guard: what is not a number never reaches the optimizer (FAULTS 34)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import (
    Collected,
    Killed,
    digest,
    make_images,
    never,
    session_for,
    small_config,
    train_small,
)
from trainer.config.schema import TrainingConfig
from trainer.data.latents import LatentSource
from trainer.events import RolledBack, StepDone
from trainer.runs.layout import RunFolder
from trainer.runs.log import read_events
from trainer.runs.report import step_points
from trainer.runs.status import read_status
from trainer.training import step as training
from trainer.training.guard import NonFiniteError, roll_back
from trainer.training.runner import run_training
from trainer.training.session import Session
from trainer.training.step import training_step


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images")


def test_a_bad_picture_is_named(
    tiny_base: TinyBase, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = LatentSource.latents

    def poisoned(self: LatentSource, picture: Any, flip: bool) -> torch.Tensor:
        found = latents(self, picture, flip)
        return found * float("nan") if picture.entry.name == "1.png" else found

    monkeypatch.setattr(LatentSource, "latents", poisoned)
    session = session_for(tiny_base("sd1"), images, tmp_path / "run", training__batch_size=4)
    with pytest.raises(NonFiniteError) as caught:
        for _ in range(2):  # of the two buckets, one comes first
            training_step(session, never)
    assert "(pictures: 1.png; first in the picture's latents)" in caught.value.message
    assert "non_finite" in caught.value.hint


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        ("unet.conv_in", "unet.conv_in"),
        ("unet.up_blocks.1.resnets.0.conv1", "unet.up_blocks.1.resnets.0.conv1"),
        ("text_encoders.0.encoder.layers.1.mlp.fc1", "text_encoder.encoder.layers.1.mlp.fc1"),
    ],
)
def test_a_bad_layer_is_named(
    tiny_base: TinyBase, images: Path, tmp_path: Path, layer: str, named: str
) -> None:
    # The layers that fail are not adapted: a wrapper's own output is not looked at.
    run = tmp_path / "run"
    session = session_for(tiny_base("sd1"), images, run, adapter__targets="attention")
    good = {name: value.detach().clone() for name, value in session.parameters.items()}
    owner, _, path = layer.partition(".")
    module = getattr(session.base, owner)
    for part in path.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    module.register_forward_hook(lambda *arguments: arguments[-1] * float("inf"))
    with pytest.raises(NonFiniteError, match=rf"loss of step 1 .*first in {named}\)"):
        training_step(session, never)
    assert all(torch.equal(value, good[name]) for name, value in session.parameters.items())
    assert session.step == 0
    assert all(parameter.grad is None for parameter in session.parameters.values())
    assert not any(m._forward_hooks for m in session.base.unet.modules() if m is not module)


def test_a_bad_gradient_is_named(tiny_base: TinyBase, images: Path, tmp_path: Path) -> None:
    session = session_for(tiny_base("sd1"), images, tmp_path / "run")
    name, parameter = list(session.parameters.items())[7]
    parameter.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteError, match=rf"gradient of step 1 .*first in {name}\)"):
        training_step(session, never)


def test_in_fp16_it_is_the_scalers_while_its_scale_can_fall(
    tiny_base: TinyBase, images: Path, tmp_path: Path
) -> None:
    session = session_for(tiny_base("sd1"), images, tmp_path / "run", training__non_finite="halve")
    session.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    parameter = next(iter(session.parameters.values()))
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    before = parameter.detach().clone()
    for scale in (1.0, 0.5):
        training_step(session, never)
        assert session.scaler.get_scale() == scale
    assert torch.equal(parameter, before)
    with pytest.raises(NonFiniteError) as caught:
        training_step(session, never)
    assert roll_back(session, caught.value).step == 0
    with pytest.raises(NonFiniteError):  # and not the scaler's own error about an open step
        training_step(session, never)


# ------------------------------------------------------------------------------ going back


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int, *, always: bool = False) -> None:
    """The loss of a step is not a number, unless the learning rate was halved."""
    add_gradients = training.add_gradients

    def poisoned(session: Session, *rest: Any) -> torch.Tensor:
        sums = add_gradients(session, *rest)
        bad = session.step + 1 == step and (always or not session.setback)
        return sums * float("nan") if bad else sums

    monkeypatch.setattr(training, "add_gradients", poisoned)


def halving(base: Path, images: Path, **changes: Any) -> TrainingConfig:
    values = {
        "training__steps": 6,
        "training__ema_decay": 0.9,
        "checkpoints__every": 2,
        "training__non_finite": "halve",
        "optimizer__schedule": "constant",
    }
    return small_config(base, images, **{**values, **changes})


def test_it_goes_back_to_a_checkpoint_and_on_at_half_the_rate(
    tiny_base: TinyBase, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From the checkpoint right before the failed step, the same would come again.
    fail_at(monkeypatch, 5)
    result, collected = train_small(halving(tiny_base("sd1"), images), tmp_path / "run")
    assert result.finished
    steps: list[StepDone] = collected.of(StepDone)
    assert [event.step for event in steps] == [1, 2, 3, 4, 3, 4, 5, 6]
    assert [event.learning_rate for event in steps] == [1e-2] * 4 + [5e-3] * 4
    assert steps[2].loss == steps[4].loss  # the same pictures, noise and adapter
    assert steps[3].loss != steps[5].loss
    (back,) = collected.of(RolledBack)
    assert (back.step, back.failed_step) == (2, 5)
    assert "half the learning rate" in back.message

    events = read_events(result.run)
    assert [event for event in events if isinstance(event, RolledBack)] == [back]
    points = step_points(events, StepDone, "learning_rate")
    assert points == [(1, 1e-2), (2, 1e-2), (3, 5e-3), (4, 5e-3), (5, 5e-3), (6, 5e-3)]
    assert "half the learning rate" in result.run.report.read_text()


def test_killed_around_it_the_run_ends_the_same(
    tiny_base: TinyBase, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right before it, after going back, and around the first checkpoint of the new way."""
    fail_at(monkeypatch, 5)
    config = halving(tiny_base("sd1"), images)
    whole, _ = train_small(config, tmp_path / "whole")
    state = "checkpoints/step-000006/state.json"
    for kill in (4, 5, 7):  # steps made before it, counting those that are made again
        run, made = RunFolder(tmp_path / f"run-{kill}"), []

        def listen(event: object, made: list[object] = made, kill: int = kill) -> None:
            made.extend([event] * isinstance(event, StepDone))
            if len(made) == kill:
                raise Killed

        with suppress(Killed):
            run_training(config, run, listen)
        train_small(config, run.path, resume=True)
        assert digest(whole.run.adapter) == digest(run.adapter)
        assert digest(whole.run.path / state) == digest(run.path / state)


def test_without_a_checkpoint_it_goes_back_to_the_beginning(
    tiny_base: TinyBase, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 2)
    config = halving(tiny_base("sd1"), images, checkpoints__every=0, training__steps=3)
    _, collected = train_small(config, tmp_path / "run")
    steps = collected.of(StepDone)
    assert [event.step for event in steps] == [1, 1, 2, 3]
    assert steps[0].loss == steps[1].loss
    assert [event.learning_rate for event in steps] == [1e-2] + [5e-3] * 3


def test_a_second_time_ends_it(
    tiny_base: TinyBase, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 4, always=True)
    collected, run = Collected(), RunFolder(tmp_path / "run")
    with pytest.raises(NonFiniteError, match="rate is halved since step 4"):
        run_training(halving(tiny_base("sd1"), images), run, collected)
    assert len(collected.of(RolledBack)) == 1
    assert run.checkpoint_steps() == [2, 3]
    status = read_status(run)
    assert status is not None
    assert status.phase == "failed"


def test_who_did_not_allow_it_may_when_the_run_is_resumed(
    tiny_base: TinyBase, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 4)
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError):
        train_small(halving(tiny_base("sd1"), images, training__non_finite="stop"), run)
    assert RunFolder(run).checkpoint_steps() == [2, 3]
    result, collected = train_small(halving(tiny_base("sd1"), images), run, resume=True)
    assert result.finished
    assert [event.step for event in collected.of(StepDone)] == [3, 4, 5, 6]
    assert {event.learning_rate for event in collected.of(StepDone)} == {5e-3}
