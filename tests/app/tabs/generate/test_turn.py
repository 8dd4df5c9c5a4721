"""Drawing while something trains: the run waits after its step, and goes on afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app import jobs
from app.client import ShouldStop, Stopped
from app.tabs.generate import turn
from trainer import places
from trainer.config.file import write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.runs.layout import RunFolder
from trainer.runs.status import own_status, write_status
from trainer.runs.wishes import gives_room, is_wished, wish_for


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run at work in this process; with each look of the page it does what it is asked."""
    monkeypatch.setattr(places, "RUNS", tmp_path)
    run = RunFolder(tmp_path / "cat")
    run.path.mkdir()
    write_config(run.config, TrainingConfig())
    write_status(run, own_status("training"))
    monkeypatch.setattr(turn, "POLL_SECONDS", 0.0)
    return run


def heed(run: RunFolder) -> None:
    write_status(run, own_status("paused" if gives_room(run) else "training"))


def end(run: RunFolder) -> None:
    write_status(run, replace(own_status("training"), phase="finished"))


def test_a_drawing_is_done_between_two_steps(run: RunFolder) -> None:
    told: list[str] = []

    def tell(step: int, total: int, message: str) -> None:
        told.append(message)

    def should_stop() -> bool:
        heed(run)
        return False

    def work(stop: ShouldStop) -> str:
        assert jobs.info(run).phase == "paused" and is_wished(run, "room")
        return "drawn"

    assert turn.take_turn(work, tell, should_stop) == "drawn"
    assert told == ["Waits until cat has finished its step"]
    assert not is_wished(run, "room")


def test_a_run_that_begins_forgets_the_wish_and_is_asked_again(run: RunFolder) -> None:
    write_status(run, own_status("preparing"))
    looks = 0

    def should_stop() -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            (run.wishes / "room").unlink()
        elif looks > 2:
            heed(run)
        return False

    assert turn.take_turn(lambda stop: "drawn", None, should_stop) == "drawn"


def test_without_memory_for_both_it_is_done_afterwards(run: RunFolder) -> None:
    told: list[str] = []

    def tell(step: int, total: int, message: str) -> None:
        told.append(message)

    def should_stop() -> bool:
        end(run) if len(told) > 1 else heed(run)
        return False

    def work(stop: ShouldStop) -> str:
        if jobs.busy():
            raise UserError("The GPU's memory is not enough.", code="out_of_memory")
        return "drawn"

    assert turn.take_turn(work, tell, should_stop) == "drawn"
    assert "no memory for a drawing beside cat" in told[1] and not is_wished(run, "room")


def test_a_training_that_begins_meanwhile_waits(run: RunFolder) -> None:
    end(run)

    def should_stop() -> bool:
        heed(run)
        return False

    def work(stop: ShouldStop) -> str:
        if not is_wished(run, "room"):
            write_status(run, own_status("training"))
            raise UserError("The device is busy.", code="device_busy")
        return "drawn"

    assert turn.take_turn(work, None, should_stop) == "drawn"


@pytest.mark.parametrize(("what", "error"), [("stop", Stopped), ("refuse", UserError)])
def test_waiting_ends(run: RunFolder, what: str, error: type[Exception]) -> None:
    def should_stop() -> bool:
        if what == "refuse":  # as a training of several processes does
            (run.wishes / "room").unlink(missing_ok=True)
        return what == "stop"

    with pytest.raises(error):
        turn.take_turn(lambda stop: "drawn", None, should_stop)
    assert not is_wished(run, "room")


def test_room_is_given_for_a_minute(run: RunFolder) -> None:
    """A page that has died holds no run up."""
    for until, given in ((0.0, False), (9e12, True), ("soon", False)):
        wish_for(run, "room", {"until": until})
        assert gives_room(run) is given and is_wished(run, "room") is given
    (run.wishes / "room").write_text(json.dumps([]))
    assert not gives_room(run)
