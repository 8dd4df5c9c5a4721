"""The disk is full while a run goes on (FAULTS 27)."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainer.runs.status
import trainer.training.loop
from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import digest, make_images, small_config, train_small
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import Ended, Prepared, RunEvent, StepDone
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder
from trainer.runs.log import EventLog, last_of, read_events
from trainer.runs.status import read_status
from trainer.training.checkpoints import load_checkpoint


def full(*_: Any, **__: Any) -> Any:
    """What every writer meets."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_at(monkeypatch: pytest.MonkeyPatch, met: Callable[[Path], bool]) -> None:
    """Writing certain files fails in the middle, as on a disk that has become full."""
    write_bytes = Path.write_bytes

    def write(path: Path, data: bytes) -> int:
        if met(path):
            write_bytes(path, data[: len(data) // 2])
            full()
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)


def checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_at(
        monkeypatch,
        lambda path: path.name == "optimizer.safetensors" and "step-000004" in path.parent.name,
    )


def preview(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, drawn = trainer.training.loop.save_picture, []

    def save(picture: Any, path: Path, *rest: Any, **options: Any) -> None:
        drawn.append(path)
        if len(drawn) == 4:  # the second one at step 3: there are two at the start
            path.write_bytes(b"\x89PNG half")
            full()
        draw(picture, path, *rest, **options)

    monkeypatch.setattr(trainer.training.loop, "save_picture", save)


def log(monkeypatch: pytest.MonkeyPatch) -> None:
    append = EventLog.append

    def appended(self: EventLog, event: RunEvent) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            self._file.close()
            self._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
        append(self, event)

    monkeypatch.setattr(EventLog, "append", appended)


def status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.training.runner.STATUS_INTERVAL", 0.0)
    write_json, written = trainer.runs.status.write_json, []

    def write(path: Path, value: Any) -> None:
        written.append(value["step"])
        if value["step"] >= 3:
            full()
        write_json(path, value)

    monkeypatch.setattr(trainer.runs.status, "write_json", write)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("full") / "images")


@pytest.fixture(scope="module")
def whole(
    tiny_base: TinyBase, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainingConfig, RunFolder]:
    """A run that always had room, and its configuration."""
    changes = {"training__steps": 5, "checkpoints__every": 2, "previews__every": 3}
    config = small_config(tiny_base("sd1"), images, **changes)
    result, _ = train_small(config, tmp_path_factory.mktemp("whole") / "run")
    return config, result.run


CASES = {
    # what is full -> what is said, and the steps whose checkpoints are there afterwards
    "checkpoint": (checkpoint, "the checkpoint of step 4", [2]),
    "preview": (preview, "the previews of step 3", [2, 3]),
    "log": (log, "the log", [2, 3]),
    "status": (status, "the run", [2, 3]),
}


@pytest.mark.parametrize("what", CASES)
def test_the_run_stops_with_a_message_and_goes_on_later(
    whole: tuple[TrainingConfig, RunFolder], tmp_path: Path, what: str
) -> None:
    config, expected = whole
    run = RunFolder(tmp_path / "run")
    fill, said, kept = CASES[what]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError) as caught:
        fill(patch)
        train_small(config, run.path)
    assert "The disk is full" in caught.value.message
    assert said in caught.value.message
    assert "resume" in caught.value.hint

    assert run.checkpoint_steps() == kept
    for step in kept:
        load_checkpoint(run.checkpoint(step))  # raises, if it is not whole
    assert not list(run.path.rglob("*.tmp"))
    now = read_status(run)
    assert now is not None
    if what != "status":
        assert now.phase == "failed"
        assert said in now.message
    if what != "log":
        ended = read_events(run)[-1]
        assert isinstance(ended, Ended) and (ended.reason, ended.code) == ("failed", "disk_full")

    train_small(config, run.path, resume=True)  # there is room again
    assert digest(run.adapter) == digest(expected.adapter)
    assert max(last_of(read_events(run), StepDone)) == 5


def test_no_room_for_the_cache(
    tiny_base: TinyBase, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("RAREBIT_CACHE", str(cache))
    config = small_config(tiny_base("sd1"), images)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError) as caught:
        fill_at(patch, lambda path: cache in path.parents)
        train_small(config, tmp_path / "run")
    assert caught.value.message == f"The disk is full: there is no room for the cache in {cache}."
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    train_small(config, tmp_path / "run")


def test_half_a_line_of_the_log_harms_no_other(tmp_path: Path) -> None:
    """What a full disk has cut off is ended, and the next event stands on a line of its own."""
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.append(Prepared())
        real = log._file

        class Half:
            """Takes one more byte; then the disk is full."""

            name, left = real.name, 1

            def write(self, data: bytes) -> int:
                if not self.left:
                    full()
                self.left = 0
                return real.write(data[:1])

        log._file = Half()  # type: ignore[assignment]
        with pytest.raises(UserError, match="disk is full"):
            log.append(StepDone(1))
        log._file = real
        log.append(StepDone(2))
    first, second = read_events(RunFolder(tmp_path))
    assert isinstance(first, Prepared) and isinstance(second, StepDone) and second.step == 2
    assert [len(line) < 2 for line in path.read_bytes().splitlines()] == [False, True, False]


@pytest.mark.parametrize("folder", ["full", "forbidden"])
def test_the_command_line_says_it(images: Path, tmp_path: Path, folder: str) -> None:
    """A run folder that can't be written at all: one message, exit status 2, no traceback."""
    code = (
        "import errno, os, sys, pathlib\n"
        "def refuse(*_, **__): raise OSError(errno.{0}, os.strerror(errno.{0}))\n"
        "pathlib.Path.write_bytes = refuse\n"
        "from trainer.commands.cli import main\n"
        "sys.exit(main())"
    ).format("ENOSPC" if folder == "full" else "EACCES")
    arguments = ["train", "--images", str(images), "--trigger", "ohwx"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--run", str(tmp_path / "run")],
        cwd=PROJECT,
        env={**os.environ, "RAREBIT_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    expected = "The disk is full" if folder == "full" else "Permission denied"
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
