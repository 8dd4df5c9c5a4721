"""Where things lie, and names that every system takes."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import UserError
from trainer.places import PROJECT
from trainer.runs.layout import (
    RunFolder,
    create_run,
    list_runs,
    open_run,
    prepare,
    run_lock,
    safe_name,
    step_name,
    step_of,
)


def test_paths_are_those_that_scripts_rely_on() -> None:
    run = RunFolder(Path("runs/cat"))
    inside = {
        "config.toml": run.config,
        "events.jsonl": run.events,
        "status.json": run.status,
        "adapter.safetensors": run.adapter,
        "report.html": run.report,
        "checkpoints/step-000123": run.checkpoint(123),
        "previews/step-000123": run.preview(123),
    }
    for name, path in inside.items():
        assert path == Path("runs/cat") / name
    assert run.name == "cat"


SAFE = {
    "blue rabbit": "blue-rabbit",
    "Čapek_2.1": "Čapek_2.1",
    "Cafe\u0301": "Café",
    "../../etc/passwd": "etc-passwd",
    **dict.fromkeys(("..", "", "  "), "run"),
    "-rf": "rf",
    "a\nb\x00c": "a-b-c",
    "a\u202eb": "a-b",
    "CON": "run-CON",
    "nul.txt": "run-nul.txt",
    "console": "console",
    "a" * 300: "a" * 80,
    "ü" * 300: "ü" * 40,
    "兎": "兎",
    "trailing.": "trailing",
    '<script>"x"</script>': "script-x-script",
}


@pytest.mark.parametrize("text", SAFE)
def test_safe_name(text: str) -> None:
    assert safe_name(text) == SAFE[text]


@given(st.text())
def test_safe_name_of_anything_is_one_plain_component(text: str) -> None:
    name = safe_name(text)
    assert name == safe_name(name)
    assert Path(name).name == name
    assert name[0] not in ".-"
    assert 0 < len(os.fsencode(name)) <= 90
    assert not set(name) & set('/\\:*?"<>|\n\x00')


def test_taken_names_are_numbered(tmp_path: Path) -> None:
    made = [create_run(tmp_path / "runs", "cat").name for _ in range(3)]
    assert made == ["cat", "cat-2", "cat-3"]


def test_runs_made_at_once_are_different(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: create_run(tmp_path, "cat"), range(16)))
    assert len({run.path for run in runs}) == 16
    assert all(run.checkpoints.is_dir() and run.previews.is_dir() for run in runs)


def test_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(UserError, match="cannot make a run folder"):
        create_run(tmp_path / "runs", "cat")


def test_step_names_read_back_and_other_names_are_no_steps() -> None:
    steps = [0, 123, 999_999, 1_234_567]
    assert [step_of(step_name(step)) for step in steps] == steps
    others = ("step-12", "step-000001.tmp", ".step-000001.ab.tmp", "x", "")
    assert not any(map(step_of, others))


def test_steps_are_sorted_by_number(tmp_path: Path) -> None:
    run = prepare(RunFolder(tmp_path))
    for step in (1_000_000, 5, 999_999):
        run.checkpoint(step).mkdir()
    (run.checkpoints / ".step-000007.aa.tmp").mkdir()
    (run.checkpoints / "step-000008").touch()  # not a folder
    assert run.checkpoint_steps() == [5, 999_999, 1_000_000]
    assert run.preview_steps() == []
    assert RunFolder(tmp_path / "missing").checkpoint_steps() == []


def test_open_run_and_list_runs(tmp_path: Path) -> None:
    for number, name in enumerate(["old", "new"]):
        run = create_run(tmp_path, name)
        run.config.touch()
        os.utime(run.config, (number, number))
    create_run(tmp_path, "empty")
    (tmp_path / "link").symlink_to(tmp_path / "old")  # no run of this folder
    assert [run.name for run in list_runs(tmp_path)] == ["new", "old"]
    assert list_runs(tmp_path / "missing") == []
    assert open_run(tmp_path / "new").name == "new"
    for name, reason in (("empty", "has no config.toml"), ("missing", "does not exist")):
        with pytest.raises(UserError, match=reason):
            open_run(tmp_path / name)


HOLDER = (
    "import sys, pathlib\n"
    "from trainer.runs.layout import RunFolder\n"
    "from trainer.runs.layout import run_lock\n"
    "with run_lock(RunFolder(pathlib.Path(sys.argv[1]))):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, "run")


def hold(run: RunFolder) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_second_is_told_who_has_it_and_a_kill_frees_it(run: RunFolder) -> None:
    with hold(run) as process:
        for _ in range(2):  # asking does not take it
            with pytest.raises(UserError, match=f"in use by process {process.pid}"), run_lock(run):
                pass
        process.kill()
        process.wait()
    with run_lock(run), pytest.raises(UserError, match=f"process {os.getpid()}"), run_lock(run):
        pass


def test_lock_is_freed_by_an_error(run: RunFolder) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(run):
        _ = 1 / 0
    with run_lock(run):
        pass
