"""A search is a run: it is seen while it works, gone on with, and ends as its best run."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path

import pytest

from tests.trainer.tuning.imagined import Imagined
from tests.trainer.tuning.test_search import CONFIG
from trainer.commands.train import Machines, Sources, resume
from trainer.commands.tune import tune
from trainer.config.file import read_config, with_values, write_config
from trainer.errors import UserError
from trainer.events import SearchProgress
from trainer.runs.layout import RunFolder, list_runs
from trainer.runs.log import read_events
from trainer.runs.status import lengthen, read_status
from trainer.tuning.search import Search


@pytest.fixture(autouse=True)
def imagined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Imagined, "left", 10**9)
    monkeypatch.setattr(Search, "__init__", partialmethod(Search.__init__, make=Imagined))


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    config = with_values(CONFIG, {"images.path": "datasets/police-car"})
    write_config(tmp_path / "settings.toml", config)
    return tmp_path / "settings.toml"


def test_it_is_stopped_gone_on_with_and_ends_as_its_best_run(
    tmp_path: Path, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "ohwx-tune")
    monkeypatch.setattr(Imagined, "left", 4)
    with pytest.raises(KeyboardInterrupt):
        tune(run=folder.path, sources=Sources(config=settings))
    stopped = read_status(folder)
    assert stopped is not None and stopped.phase == "stopped"
    assert 0 < stopped.step < stopped.total_steps  # of all its runs together
    assert list_runs(tmp_path) == [folder]  # and none of its runs beside it
    assert not folder.adapter.exists()
    monkeypatch.setattr(Imagined, "left", 10**9)
    assert resume(folder.path, machines=Machines()) == 0
    ended = read_status(folder)
    assert ended is not None and ended.phase == "finished" and "draws" in ended.message
    assert read_config(folder.config) == read_config(folder.path / "recommended.toml")
    assert read_config(folder.config) != read_config(settings)
    assert folder.adapter.is_file() and folder.evaluation.is_file()
    told = [event.message for event in read_events(folder) if isinstance(event, SearchProgress)]
    assert told[-1] == ended.message and len(told) > 8
    with pytest.raises(UserError, match="search for settings"):
        lengthen(folder, 10**6)


def test_what_was_given_stays_when_it_is_gone_on_with(
    tmp_path: Path, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "search")
    monkeypatch.setattr(Imagined, "left", 4)
    with pytest.raises(KeyboardInterrupt):
        tune(run=folder.path, sources=Sources(config=settings, overrides=["adapter.rank=3"]))
    monkeypatch.setattr(Imagined, "left", 10**9)
    assert resume(folder.path, machines=Machines()) == 0
    ranks = {read_config(path).adapter.rank for path in folder.path.glob("*/config.toml")}
    assert ranks == {3}


def test_one_that_is_refused_leaves_nothing_behind(
    tmp_path: Path, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Imagined, "refused", "defaults")
    with pytest.raises(UserError, match="not finite"):
        tune(run=tmp_path / "search", sources=Sources(config=settings))
    assert not (tmp_path / "search").exists()


def test_what_is_something_else_is_not_taken_for_one(tmp_path: Path, settings: Path) -> None:
    for name in ("run/config.toml", "pictures/cat.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
        with pytest.raises(UserError, match="something else in it than a search"):
            tune(run=(tmp_path / name).parent, sources=Sources(config=settings))
        assert (tmp_path / name).exists()
