"""Processes and run folders: one training at a time, a queue that outlives the server, deleting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from app import jobs
from app.allowed import check_base, check_places, is_image_set
from trainer import places
from trainer.commands.train import note_failure
from trainer.config.concepts import check_essentials
from trainer.config.fields import all_fields
from trainer.config.file import ConfigError, read_config, with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.runs.layout import RunFolder, create_run
from trainer.runs.status import Status, read_status, write_status

# Stands in for the trainer: writes no status of its own, stops on SIGTERM as told.
WORKER = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
started = Path(sys.argv[1], "started")
started.with_suffix(".new").write_text(" ".join(sys.argv[2:]))
started.with_suffix(".new").rename(started)  # whole, since the test reads it once it is there
time.sleep(120)
"""
REAL = subprocess.Popen
FAILING = """
import sys
from pathlib import Path
from trainer.commands.train import note_failure
from trainer.errors import UserError
from trainer.runs.layout import RunFolder
error = UserError("The pictures are gone.", "Put them back.", "disk_refused")
note_failure(RunFolder(Path(sys.argv[1])), error)
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of runs; whatever is started there is ended."""
    monkeypatch.setattr(places, "RUNS", tmp_path / "runs")
    pretend(monkeypatch, WORKER)
    yield tmp_path / "runs"
    for child in list(jobs._children):
        child.kill()
        child.wait()
    jobs._children.clear()


def pretend(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Has jobs start a program of ours instead of the trainer."""

    def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        assert command[1:4] == ["-m", "trainer", "worker"]
        return REAL([sys.executable, "-c", program, *command[4:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(jobs.subprocess, "Popen", start)


def config(**changes: object) -> TrainingConfig:
    values = {"images.path": "datasets/police-car", "captions.trigger": "ohwx"}
    return with_values(TrainingConfig(), {**values, **changes})


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def flags_of(name: str) -> str:
    """The options that a worker was started with, once it runs."""
    started = places.RUNS / name / "started"
    wait_until(started.exists)
    flags = started.read_text()
    started.unlink()
    return flags


def wait_until_ended(name: str) -> jobs.RunInfo:
    wait_until(lambda: not jobs.info(jobs.run_folder(name)).alive)
    return jobs.info(jobs.run_folder(name))


def stop(name: str) -> None:
    jobs.stop(name)
    wait_until_ended(name)


def test_a_search_is_a_run_of_its_own_name(runs: Path) -> None:
    name = jobs.start(config(**{"preservation.method": "none"}), search=True)
    assert name == "ohwx-tune" and flags_of(name) == ""
    assert json.loads((runs / name / "search.json").read_text()) == [
        *("rate", "rank", "layers", "length")
    ]
    with pytest.raises(UserError, match="ohwx-tune is training now"):
        jobs.start(config())
    stop(name)
    two = [{"path": "datasets/police-car", "trigger": word} for word in ("ohwx", "vbnm")]
    with pytest.raises(UserError, match="one subject"):
        jobs.start(with_values(TrainingConfig(), {"concepts": two}), search=True)


def test_a_started_run_is_seen_at_once_and_stopped_by_its_process(runs: Path) -> None:
    name = jobs.start(config())
    busy = jobs.busy()
    assert busy is not None and busy.name == name == "ohwx"
    assert busy.phase == "preparing" and busy.alive
    assert read_config(runs / name / "config.toml") == config()
    assert flags_of(name) == ""
    jobs.stop(name)
    assert jobs.info(jobs.run_folder(name)).stopping or not jobs.busy()
    assert not wait_until_ended(name).alive
    with pytest.raises(UserError, match="not running"):
        jobs.stop(name)


def test_many_presses_at_once_give_one_run(runs: Path) -> None:
    """Also from two servers: what decides is a lock in the folder of runs."""

    def press(_: int) -> str:
        try:
            return jobs.start(config())
        except UserError as error:
            return error.message

    with ThreadPoolExecutor(6) as pool:
        first, *refused = sorted(pool.map(press, range(6)), key=len)
    assert [run.name for run in jobs.runs()] == [first] == ["ohwx"]
    assert len(refused) == 5 and all("ohwx is training now" in text for text in refused)


def test_what_is_missing_is_named_all_at_once_and_nothing_starts(runs: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        jobs.start(TrainingConfig())
    assert {m.field for m in caught.value.mistakes} == {"images.path", "captions.trigger"}
    with pytest.raises(ConfigError, match="not-there"):
        jobs.queue(config(**{"images.path": "datasets/not-there"}))
    assert not runs.exists() or jobs.runs() == []


def test_only_folders_that_this_machine_has_trained_on_are_taken_besides_image_sets(
    runs: Path, tmp_path: Path
) -> None:
    """A browser must not make the trainer look into any folder it likes to name."""
    elsewhere = tmp_path / "cats"
    elsewhere.mkdir()
    with pytest.raises(ConfigError, match="cats"):
        jobs.start(config(**{"images.path": str(elsewhere)}))
    old = create_run(runs, "from-the-command-line")
    write_config(old.config, config(**{"images.path": str(elsewhere)}))
    check_essentials(config(**{"images.path": str(elsewhere)}), is_image_set)


PLACES = [name for name, field in all_fields().items() if field.place and name != "images.path"]


@pytest.mark.parametrize("name", PLACES)
def test_no_other_field_names_a_folder_of_this_machine(
    runs: Path, tmp_path: Path, name: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for begin in (jobs.start, jobs.queue):
        with pytest.raises(UserError, match="elsewhere"):
            begin(config(**{name: str(elsewhere)}))
    assert jobs.runs() == []
    old = create_run(runs, "from-the-command-line")
    write_config(old.config, config(**{name: str(elsewhere)}))
    check_places(config(**{name: str(elsewhere)}))


def test_a_way_out_of_the_image_sets_is_none(runs: Path) -> None:
    inner = places.DATASETS / "teddy-and-peacock" / "teddy"
    assert is_image_set(inner) and not is_image_set(inner / "../../../runs")
    for folder in (places.DATASETS / "..", places.DATASETS, places.DATASETS / "../runs"):
        assert not is_image_set(folder)
    for base in ("tiny-emoji", "models/tiny-emoji", "someone/on-the-hub", "not-there"):
        check_base(base)
    for base in ("/etc", "models", "models/..", "~", str(places.PROJECT), "datasets/../trainer"):
        with pytest.raises(UserError, match="not in models"):
            check_base(base)


def test_a_killed_run_is_told_from_a_finished_one(runs: Path) -> None:
    name = jobs.start(config())
    flags_of(name)
    run = jobs.run_folder(name)
    status = read_status(run)
    assert status is not None
    write_status(run, Status("training", 57, 400, 9.0, status.pid, status.process_started))
    psutil.Process(status.pid).kill()
    found = wait_until_ended(name)
    assert (found.phase, found.code) == ("stopped", "killed")
    assert found.message == "stopped at step 57 (killed)"


def test_a_run_stopped_while_it_loads_is_not_called_killed(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = jobs.start(config())
    flags_of(name)
    run = jobs.run_folder(name)
    status = read_status(run)
    assert status is not None
    write_status(run, Status("preparing", 0, 400, None, status.pid, status.process_started))
    monkeypatch.setattr(jobs, "_stopping", {(name, status.pid)})
    psutil.Process(status.pid).kill()  # as SIGTERM does before the worker listens
    found = wait_until_ended(name)
    assert (found.phase, found.code, found.message) == ("stopped", "user_stop", "stopped at step 0")
    monkeypatch.setattr(jobs, "_stopping", set())  # another server asks later
    assert jobs.info(run).code == "user_stop"


def test_a_reused_pid_is_no_sign_of_life(runs: Path) -> None:
    name = jobs.start(config())
    run = jobs.run_folder(name)
    other = psutil.Process(os.getppid())
    for started, alive in ((other.create_time(), True), (other.create_time() - 100, False)):
        write_status(run, Status("training", 3, 9, None, other.pid, started))
        assert jobs.info(run).alive is alive
        note_failure(run, UserError("It is in use."))
        assert jobs.info(run).phase == ("training" if alive else "failed")


def test_a_worker_that_ends_before_its_first_word_leaves_its_message(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, FAILING)
    name = jobs.start(config())
    found = wait_until_ended(name)
    assert (found.phase, found.code) == ("failed", "disk_refused")
    assert found.message == "The pictures are gone.\nPut them back."
    assert jobs.busy() is None


def test_resume_goes_on_or_starts_again_and_is_refused_while_one_trains(runs: Path) -> None:
    name = jobs.start(config())
    flags_of(name)
    with pytest.raises(UserError, match=f"{name} is training"):
        jobs.resume(name)
    for saved, accept, flags in (
        (False, False, ""),
        (True, False, "--resume"),
        (True, True, "--resume --accept-changes"),
    ):
        stop(name)
        if saved:
            jobs.run_folder(name).checkpoint(10).mkdir(parents=True, exist_ok=True)
        jobs.resume(name, accept_changes=accept)
        assert flags_of(name) == flags


def test_a_finished_run_is_trained_to_more_steps(runs: Path) -> None:
    name = jobs.start(config(**{"training.steps": 10}))
    flags_of(name)
    run = jobs.run_folder(name)
    with pytest.raises(UserError, match="is training"):
        jobs.resume(name, steps=20)
    stop(name)
    run.checkpoint(10).mkdir(parents=True)
    for steps in (0, 10):
        with pytest.raises(UserError, match="has done 10 steps already"):
            jobs.resume(name, steps=steps)
    jobs.resume(name, steps=20)
    assert flags_of(name) == "--resume"
    assert read_config(run.config).training.steps == 20


def test_the_queue_is_in_the_folder_of_runs_and_starts_in_order(runs: Path) -> None:
    first = jobs.start(config())
    names = [jobs.queue(config(**{"training.steps": steps})) for steps in (10, 20)]
    assert [jobs.info(jobs.run_folder(name)).place for name in names] == [1, 2]
    assert jobs.start_next() is None  # one trains
    flags_of(first)
    stop(first)
    # All that a new server would know:
    assert jobs.waiting_runs() == names
    assert jobs.start_next() == names[0]
    assert jobs.waiting_runs() == names[1:]
    assert jobs.start_next() is None
    jobs.stop(names[1])  # taken out, not started
    assert jobs.info(jobs.run_folder(names[1])).phase == jobs.UNSTARTED
    flags_of(names[0])
    stop(names[0])
    names += [jobs.queue(config()), jobs.queue(config())]
    jobs.resume(names[3])
    assert jobs.waiting_runs() == [names[2]]
    jobs.delete(names[2])
    assert (runs / ".queue.json").read_text(encoding="utf-8") == "[]\n"
    flags_of(names[3])
    stop(names[3])


def test_a_cluster_is_given_all_that_waits(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets them wait for its cards; one that trains keeps no other from starting."""
    monkeypatch.setenv("RAREBIT_RAY", "10.0.0.1:6379")
    names = [jobs.start(config()), jobs.start(config()), jobs.queue(config())]
    assert jobs.start_next() == names[2]
    assert [flags_of(name) for name in names] == ["--ray 10.0.0.1:6379"] * 3
    assert all(jobs.info(jobs.run_folder(name)).alive for name in names)
    for name in names:
        stop(name)


def test_deleting_takes_the_run_and_nothing_else(runs: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    name = jobs.start(config())
    with pytest.raises(UserError, match="still running"):
        jobs.delete(name)
    flags_of(name)
    stop(name)
    other = jobs.queue(config())
    (runs / name / "link").symlink_to(precious)
    jobs.delete(name)
    assert not (runs / name).exists()
    assert (runs / other / "config.toml").exists()
    assert (precious / "file").read_text() == "kept"
    assert sorted(path.name for path in runs.iterdir() if not path.name.startswith(".")) == [other]
    assert not list(runs.glob(".*.tmp"))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../precious", "/etc", "a/b", ".cache", "-rf", "nothing", "link"]
)
def test_a_name_from_a_browser_is_never_a_path(runs: Path, tmp_path: Path, name: str) -> None:
    for folder in (tmp_path / "precious", runs / ".cache", runs / "a" / "b"):
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text("")
    (runs / "link").symlink_to(tmp_path / "precious")
    for use in (jobs.run_folder, jobs.delete, jobs.stop, jobs.resume):
        with pytest.raises(UserError, match="no such run"):
            use(name)
    assert (tmp_path / "precious" / "config.toml").exists()


def test_a_broken_queue_file_is_an_empty_queue(runs: Path) -> None:
    runs.mkdir()
    for text in ("", "{}", "[1, null]", '["gone"]', "\0"):
        (runs / ".queue.json").write_text(text)
        assert jobs.waiting_runs() == []
    assert jobs.runs() == []
    (runs / "half").mkdir()  # a folder without settings is no run
    assert jobs.runs() == []
    assert RunFolder(runs / "half").name == "half"
