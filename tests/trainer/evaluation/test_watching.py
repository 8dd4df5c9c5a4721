"""Measuring while training: what is recorded, and that nothing of it changes the result."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES
from tests.trainer.runs_for_tests import (
    AVERAGING,
    digest,
    make_images,
    measure_quickly,
    small_config,
    train_small,
)
from trainer.evaluation.watching import Watch, history
from trainer.events import GAPS, Ended, Evaluated, Meters, Validated, Warned
from trainer.lora.reading import read_adapter
from trainer.memory.devices import choose_device
from trainer.runs.layout import RunFolder
from trainer.runs.log import read_events
from trainer.training.session import prepare

EARLY = {"evaluation__enabled": True, "evaluation__every": 1, "evaluation__early_stop": 2}
METERS = Meters(0.1, 0.05, 0.04, 0.02, likeness=0.1, validation_loss=0.5, training_loss=0.4)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_quickly(monkeypatch)


@pytest.mark.parametrize(("name", "averaging"), zip(TINY_NAMES, AVERAGING * 2, strict=True))
def test_measuring_changes_nothing_and_is_recorded(
    tiny_base: TinyBase, tmp_path: Path, name: str, averaging: dict[str, Any]
) -> None:
    images = make_images(tmp_path / "images", count=9)
    digests = set()
    for enabled in (True, False):
        measured = {"evaluation__enabled": enabled, "evaluation__every": 2}
        changes = {"adapter__dropout": 0.3, **averaging, **measured}
        config = small_config(tiny_base(name), images, **changes)
        result, collected = train_small(config, tmp_path / f"run{enabled}")
        digests.add(digest(result.run.adapter))
        evaluated = collected.of(Evaluated)
        assert [event.step for event in evaluated] == ([2, 4] if enabled else [])
        validated = collected.of(Validated)
        assert [event.held_out for event in validated] == ([1, 1] if enabled else [])
        assert result.run.adapter_steps() == ([2, 4] if enabled else [4])
        last = read_adapter(result.run.adapter_at(4))
        assert all((last.layers[key].up == layer.up).all()
                   for key, layer in read_adapter(result.run.adapter).layers.items())  # fmt: skip
        logged = history(read_events(result.run), 4)
        assert logged == {event.step: event.meters for event in evaluated}
        if enabled:
            assert logged[4].effect > 0
            assert logged[4].likeness != 0
            gaps = [getattr(logged[4], gap) for gap in GAPS]
            assert len(set(gaps)) == 3 and sum(gaps) / 3 == pytest.approx(logged[4].gap, abs=1e-6)
    assert len(digests) == 1


def test_held_out_pictures_are_not_trained_on(tiny_base: TinyBase, tmp_path: Path) -> None:
    config = small_config(tiny_base("sd1"), make_images(tmp_path / "images", count=16))
    (tmp_path / "run").mkdir()
    run = RunFolder(tmp_path / "run")
    session = prepare(config, run, choose_device("fp32"), print, lambda *_: None)
    held = {picture.entry.id for picture, _ in session.held_out}
    shown = {
        sample.picture.entry.id
        for step in range(40)
        for batch in session.batches.samples(step)
        for sample in batch
    }
    assert len(held) == 2
    assert len(shown) == 14
    assert not held & shown
    assert all(caption.startswith("ohwx, ") for _, caption in session.held_out)


@pytest.mark.parametrize(
    ("values", "patience", "expected"),
    [
        ([], 2, False),
        ([0.1, 0.1], 2, False),
        ([0.1, 0.1, 0.1], 2, True),
        ([0.1, 0.05, 0.2], 2, False),
        ([0.1, 0.3, 0.302, 0.2], 2, True),  # a rise within the margin is none
        ([0.1, 0.3, 0.302, 0.31], 2, False),
        ([0.1, 0.1, 0.1], 0, False),
        ([None, None, None], 1, False),
    ],
)
def test_patience(
    tmp_path: Path, values: list[float | None], patience: int, expected: bool
) -> None:
    session: Any = SimpleNamespace(run=RunFolder(tmp_path), step=99)
    watch = Watch(session)
    watch.history = {
        step: Meters(0.1, None, None, None, likeness=value) for step, value in enumerate(values)
    }
    assert watch.exhausted(patience) == expected


def test_training_ends_where_nothing_improves(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def constant(self: Watch) -> tuple[None, Evaluated]:
        self.history[self.session.step] = METERS
        return None, Evaluated(self.session.step, METERS, 0.0)

    monkeypatch.setattr(Watch, "measure", constant)
    images = make_images(tmp_path / "images")
    config = small_config(tiny_base("sd1"), images, training__steps=9, **EARLY)
    result, _ = train_small(config, tmp_path / "run")
    assert (result.step, result.finished) == (3, True)
    assert result.run.adapter.is_file()
    assert result.run.checkpoint_steps() == [3]
    events = read_events(result.run)
    assert isinstance(events[-1], Ended) and events[-1].reason == "finished"
    assert any("has not improved" in event.message for event in events if isinstance(event, Warned))


def test_a_resumed_run_knows_what_was_measured(tiny_base: TinyBase, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    changes: dict[str, Any] = {"evaluation__enabled": True, "evaluation__every": 2}
    config = small_config(tiny_base("sd1"), images, **changes)
    result, _ = train_small(config, tmp_path / "run")
    longer = small_config(tiny_base("sd1"), images, training__steps=6, **changes)
    session = prepare(longer, result.run, choose_device("fp32"), print, lambda *_: None)
    session.step = 4
    assert list(Watch(session).history) == [2, 4]
    session.step = 2
    assert list(Watch(session).history) == [2]
