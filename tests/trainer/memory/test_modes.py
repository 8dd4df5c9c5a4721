"""Out of memory while a run goes on: what is done about it, and what is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import digest, make_images, small_config, train_small
from trainer.config.schema import TrainingConfig, TrainingSection
from trainer.errors import UserError
from trainer.events import Ended, MemoryUsed, RunEvent, StepDone, Warned
from trainer.memory.devices import is_exact
from trainer.memory.modes import (
    MemoryMode,
    SpillWatch,
    memory_mode_of,
    smaller_modes,
    too_small_a_card,
)
from trainer.runs.layout import RunFolder
from trainer.runs.log import read_events
from trainer.training import loop, step
from trainer.training.batches import Batches
from trainer.training.session import make_copies


@pytest.fixture
def small(tiny_base: TinyBase, tmp_path: Path) -> Callable[..., TrainingConfig]:
    images = make_images(tmp_path / "images")

    def make(**changes: Any) -> TrainingConfig:
        return small_config(tiny_base("sd1"), images, training__precision="fp32", **changes)

    return make


def failing(times: int, at_step: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """Runs out of memory some times at a step, and works otherwise."""
    left = [times]

    def run(session: Any, *rest: Any, **options: Any) -> Any:
        if session.step == at_step and left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return real(session, *rest, **options)

    return run


def out_of_memory_here(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("injected")


def with_dry_step(
    session: Any, *rest: Any, train: Callable[..., Iterator[RunEvent]] = loop.train
) -> Iterator[RunEvent]:
    """As on a GPU: a dry step first."""
    yield from loop.dry_step(session)
    yield from train(session, *rest)


def with_exact_steps(session: Any, *rest: Any) -> Iterator[RunEvent]:
    """As on a GPU, too: gradients that repeat to the last bit."""
    session.exact = True
    yield from with_dry_step(session, *rest)


def losses(collected: Any) -> list[float]:
    return [event.loss for event in collected.of(StepDone)]


def test_a_step_that_does_not_fit_steps_down_and_goes_on(
    small: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, usual = train_small(small(), tmp_path / "usual")
    monkeypatch.setattr(step, "batch_loss", failing(3, 2, step.batch_loss))
    joined: list[MemoryMode] = []  # what a card computes as one depends on the mode

    def make(*given: Any) -> Any:
        joined.append(given[3])
        return make_copies(*given)

    monkeypatch.setattr(loop, "make_copies", make)
    _, collected = train_small(small(), tmp_path / "run")
    assert len(joined) == 3 and joined[-1] != joined[0]
    warnings = [
        event.message for event in collected.of(Warned) if "memory ran out" in event.message
    ]
    assert len(warnings) == 3 and all("step 3" in message for message in warnings)
    assert "memory.mode" in warnings[0]
    assert losses(collected) == pytest.approx(losses(usual), rel=1e-4)


APART = {"memory__preserve_apart": True}
MODES: list[dict[str, Any]] = [
    *({"memory__mode": mode} for mode in ("plain", "feed_forward")),
    *(APART, {"memory__pictures_at_once": 1}, {"memory__pictures_at_once": 1, **APART}),
    {"training__gradient_checkpointing": True},
]


def test_every_mode_trains_the_same(small: Callable[..., TrainingConfig], tmp_path: Path) -> None:
    _, usual = train_small(small(), tmp_path / "usual")
    for number, changes in enumerate(MODES):
        _, other = train_small(small(**changes), tmp_path / f"{number}")
        assert losses(other) == pytest.approx(losses(usual), rel=1e-4), changes


def test_the_dry_step_changes_nothing(
    small: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_small(small(adapter__dropout=0.2), tmp_path / "without")
    seen: list[int] = []
    real = Batches.largest

    def largest(batches: Batches, step: int) -> Any:
        batch = real(batches, step)
        seen.append(batch.latents.shape[2] * batch.latents.shape[3])
        return batch

    monkeypatch.setattr(Batches, "largest", largest)
    monkeypatch.setattr("trainer.training.runner.train", with_dry_step)
    train_small(small(adapter__dropout=0.2), tmp_path / "with")
    assert seen and max(seen) >= 16 * 16
    assert digest(tmp_path / "without/adapter.safetensors") == digest(
        tmp_path / "with/adapter.safetensors"
    )


def test_the_dry_step_finds_the_mode_that_fits(
    small: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "batch_loss", failing(2, 0, step.batch_loss))
    monkeypatch.setattr("trainer.training.runner.train", with_dry_step)
    _, collected = train_small(small(), tmp_path / "run")
    third = smaller_modes(smaller_modes(memory_mode_of(small()))[0])[0]
    assert {(e.mode, e.rows) for e in collected.of(MemoryUsed)} == {(third.mode, third.rows)}
    assert len(losses(collected)) == 4


def test_exact_steps_are_computed_with_deterministic_kernels_and_nothing_else_is(
    small: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = step.batch_loss, []

    def watched(*given: Any, **options: Any) -> Any:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return real(*given, **options)

    monkeypatch.setattr(step, "batch_loss", watched)
    monkeypatch.setattr("trainer.training.runner.train", with_exact_steps)
    train_small(small(), tmp_path / "run")
    assert seen and all(seen)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_cannot_repeat_exactly_is_said_and_trained_all_the_same(
    small: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = step.batch_loss

    def picky(*given: Any, **options: Any) -> Any:
        if torch.are_deterministic_algorithms_enabled():
            raise RuntimeError("some_backward does not have a deterministic implementation")
        return real(*given, **options)

    monkeypatch.setattr(step, "batch_loss", picky)
    monkeypatch.setattr("trainer.training.runner.train", with_exact_steps)
    with pytest.raises(UserError, match=r"exact is on, .* \(some_backward"):
        train_small(small(training__exact="on"), tmp_path / "on")
    result, collected = train_small(small(), tmp_path / "run")
    assert result.finished and len(losses(collected)) == 4
    (warning,) = (e.message for e in collected.of(Warned) if "to the last bit" in e.message)
    assert "some_backward" in warning
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("values", "kind", "exact", "said"),
    [
        ({}, "cpu", False, ""),
        ({"exact": "on"}, "cpu", False, ""),
        ({"exact": "off"}, "cpu", False, ""),
        ({}, "cuda", True, ""),
        ({"exact": "on"}, "cuda", True, ""),
        ({"exact": "off"}, "cuda", False, "With training.exact off a resumed run comes close"),
        ({}, "mps", False, "On this kind of GPU (mps) a resumed run comes close"),
        ({"exact": "on"}, "xpu", None, "On this kind of GPU (xpu) a resumed run comes close"),
        ({"compile": True}, "cuda", False, "With training.compile a resumed run comes close"),
        ({"compile": True}, "cpu", False, "With training.compile a resumed run comes close"),
        ({"compile": True, "exact": "on"}, "cpu", None, "With training.compile a resumed run"),
    ],
)
def test_exactness_is_a_choice(
    values: dict[str, Any], kind: str, exact: bool | None, said: str
) -> None:
    training = TrainingSection.model_validate(values)
    notices: list[str] = []
    if exact is None:
        with pytest.raises(UserError, match=re.escape(said)):
            is_exact(training, kind, notices.append)
        return
    assert is_exact(training, kind, notices.append) == exact
    assert [one[: len(said)] for one in notices] == [said] * bool(said)


def test_other_errors_of_a_dry_step_stay_errors(
    small: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("something else")

    monkeypatch.setattr(step, "batch_loss", broken)
    monkeypatch.setattr("trainer.training.runner.train", with_exact_steps)
    with pytest.raises(RuntimeError, match="something else"):
        train_small(small(), tmp_path / "run")


def test_nothing_left_to_try_names_three_remedies(
    small: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "batch_loss", failing(1000, 1, step.batch_loss))
    with pytest.raises(UserError, match="not enough for a training step") as caught:
        train_small(small(), tmp_path / "run")
    assert caught.value.hint.count("; or ") == 2
    end = read_events(RunFolder(tmp_path / "run"))[-1]
    assert isinstance(end, Ended) and (end.reason, end.code) == ("failed", "out_of_memory")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("torch.optim.AdamW.step", "for a training step"),  # moving already: no going on
        ("trainer.training.session.load_training_base", "to get ready for training"),
    ],
)
def test_what_can_not_be_computed_in_another_way_ends_the_run(
    small: Callable[..., TrainingConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    said: str,
) -> None:
    monkeypatch.setattr(place, out_of_memory_here)
    with pytest.raises(UserError, match=said) as caught:
        train_small(small(), tmp_path / "run")
    assert caught.value.hint.count("; or ") == 2


def test_a_preview_that_does_not_fit_does_not_end_training(
    small: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "draw_previews", out_of_memory_here)
    result, collected = train_small(small(previews__every=2), tmp_path / "run")
    assert result.finished
    assert any("previews of step 2" in event.message for event in collected.of(Warned))


def test_memory_stands_in_the_events(small: Callable[..., TrainingConfig], tmp_path: Path) -> None:
    _, collected = train_small(small(), tmp_path / "run")
    first, last = collected.of(MemoryUsed)
    assert (first.step, last.step) == (1, 4)
    assert 0 < first.peak_gib <= last.peak_gib
    assert (first.mode, first.rows) == ("lean", 3)
    assert first in read_events(RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("changes", [{}, {"offload": False}])
def test_remedies_are_three_and_can_be_done(changes: dict[str, Any]) -> None:
    config = TrainingConfig()
    memory = config.memory.model_copy(update=changes)
    error = too_small_a_card(
        "to do it", config.model_copy(update={"memory": memory}), memory_mode_of(config)
    )
    assert error.hint.count("; or ") == 2
    assert ("offload" in error.hint) == bool(changes) or "memory." in error.hint


def test_spilling_is_said_once() -> None:
    watch = SpillWatch()
    assert [watch.notice(0.5) for _ in range(20)] == [None] * 20
    assert watch.notice(40.0) is None  # one slow step may be anything
    assert watch.notice(0.5) is None
    said = [watch.notice(40.0) for _ in range(6)]
    assert [message is not None for message in said] == [False, False, True, False, False, False]
    assert "80 times slower" in str(said[2])
    assert "a new run with training.gradient_checkpointing" in str(said[2])  # no resume takes it
    always_slow = SpillWatch()
    assert not any(always_slow.notice(40.0) for _ in range(40))
