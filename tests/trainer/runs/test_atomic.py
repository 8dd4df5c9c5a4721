"""Files and folders are complete or absent, whenever their writer dies."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer.errors import UserError
from trainer.places import PROJECT
from trainer.runs.atomic import (
    OLD,
    building_folder,
    publish_folder,
    replacing,
    sweep_orphans,
    temporary_name,
    write_bytes,
    write_json,
    write_text,
    writing,
)


@contextmanager
def umask(value: int) -> Iterator[None]:
    old = os.umask(value)
    try:
        yield
    finally:
        os.umask(old)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_writers_write_what_they_say(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"\x00\xff")
    write_text(tmp_path / "b", "ü\n")
    write_json(tmp_path / "c", {"ü": [1, 2.5, None]})
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == "ü\n".encode()
    assert json.loads((tmp_path / "c").read_bytes()) == {"ü": [1, 2.5, None]}
    assert names(tmp_path) == ["a", "b", "c"]


def test_json_never_holds_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "c", {"loss": 1.0})
    with pytest.raises(ValueError):
        write_json(tmp_path / "c", {"loss": float("nan")})
    assert json.loads((tmp_path / "c").read_bytes()) == {"loss": 1.0}


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_mode_is_the_umasks_whatever_the_writer_chose(
    mask: int, expected: int, tmp_path: Path
) -> None:
    with umask(mask):
        with replacing(tmp_path / "file") as temporary:
            temporary.unlink()  # as safetensors does: a file of its own, renamed over this one
            temporary.touch(mode=0o600)
        with building_folder(tmp_path / "folder") as folder:
            (folder / "inside").touch(mode=0o600)
    assert mode(tmp_path / "file") == expected
    assert mode(tmp_path / "folder" / "inside") == expected


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_failure_leaves_the_old_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(type(error)), replacing(path) as temporary:
        temporary.write_bytes(b"ne")
        raise error
    with pytest.raises(type(error)), building_folder(tmp_path / "folder") as folder:
        (folder / "part").write_bytes(b"ne")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


# Dies at the n-th call of any function that changes the file system; exits with 0 if it gets by.
KILLED = """
import os, pathlib, sys
from trainer.runs import atomic
left = int(sys.argv[1])
def killing(function):
    def wrapper(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return function(*args, **kwargs)
    return wrapper
for owner, name in [(os, "open"), (os, "fsync"), (pathlib.Path, "write_bytes"), (os, "fstat"),
        (pathlib.Path, "replace"), (pathlib.Path, "rename"), (pathlib.Path, "chmod"),
        (pathlib.Path, "mkdir")]:
    setattr(owner, name, killing(getattr(owner, name)))
target = pathlib.Path(sys.argv[2])
if sys.argv[3] == "file":
    atomic.write_bytes(target / "it", b"new")
else:
    with atomic.building_folder(target / "it") as folder:
        (folder / "a").write_bytes(b"new")
        (folder / "b").write_bytes(b"new")
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_kill_at_every_phase(kind: str, tmp_path: Path) -> None:
    """FAULTS 26: what is there afterwards is whole, and the rest is swept away."""
    target = tmp_path / "target"
    target.mkdir()
    for phase in range(40):
        if kind == "file":
            write_bytes(target / "it", b"old")
        command = [sys.executable, "-c", KILLED, str(phase), str(target), kind]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PROJECT)})
        if kind == "file":
            assert (target / "it").read_bytes() in (b"old", b"new")
        elif (target / "it").exists():
            assert [path.read_bytes() for path in sorted((target / "it").iterdir())] == [b"new"] * 2
        sweep_orphans(target)
        assert names(target) in ([], ["it"])
        if done.returncode == 0:
            assert phase >= 6
            return
        if kind == "folder" and (target / "it").exists():
            for path in (target / "it").iterdir():
                path.unlink()
            (target / "it").rmdir()
    raise AssertionError("it never gets to its end")


def test_content_is_on_the_disk_before_the_name_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def recording(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def wrapper(*args: object) -> object:
            calls.append(name)
            return original(*args)

        monkeypatch.setattr(owner, name, wrapper)

    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "rename")):
        recording(owner, name)
    write_bytes(tmp_path / "file", b"x")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder's entry
    calls.clear()
    with building_folder(tmp_path / "folder") as folder:
        (folder / "a").write_bytes(b"x")
        (folder / "b").write_bytes(b"x")
    assert calls == ["fsync"] * 3 + ["rename", "fsync"]


def test_folder_is_never_put_over_another(tmp_path: Path) -> None:
    final = tmp_path / "step-000001"
    with building_folder(final) as folder:
        (folder / "state").write_bytes(b"first")
    with pytest.raises(FileExistsError), building_folder(final) as folder:
        (folder / "state").write_bytes(b"second")
    temporary = temporary_name(final)
    temporary.mkdir()
    with pytest.raises(FileExistsError):
        publish_folder(temporary, final)
    assert (final / "state").read_bytes() == b"first"


def test_sweep_takes_orphans_only(tmp_path: Path) -> None:
    keep = [".lock", "a.tmp", ".tmp", ".tmpnotes.txt", "step-000001", ".hidden", ".tmp12345"]
    for name in keep:
        (tmp_path / name).touch()
    outside = tmp_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "mine").touch()
    gone = [temporary_name(tmp_path / "config.toml").name, ".tmpA1b2C3"]
    for name in gone:
        (tmp_path / name).touch()
    folder = temporary_name(tmp_path / "step-000002")
    (folder / "deep").mkdir(parents=True)
    link = temporary_name(tmp_path / "link")
    link.symlink_to(outside)
    removed = sweep_orphans(tmp_path)
    assert sorted(path.name for path in removed) == sorted([*gone, folder.name, link.name])
    assert names(tmp_path) == sorted(keep)
    assert (outside / "mine").exists()
    assert sweep_orphans(tmp_path / "missing") == []


def test_what_killed_writers_left_in_a_shared_folder_is_swept_when_it_is_old(
    tmp_path: Path,
) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from trainer.runs.atomic import temporary_name\n"
        "temporary_name(pathlib.Path(sys.argv[1])).write_bytes(b'half')\n"
        "os.kill(os.getpid(), 9)"
    )
    entry = tmp_path / "cache" / "ab" / "cdef.bin"
    entry.parent.mkdir(parents=True)
    killed = subprocess.run([sys.executable, "-c", code, str(entry)], cwd=PROJECT, check=False)
    assert killed.returncode == -9
    (orphan,) = entry.parent.iterdir()
    assert sweep_orphans(tmp_path / "cache", age=OLD, below=True) == []  # it may be being written

    entry.write_bytes(b"whole")
    mine = [entry.parent / name for name in (".tmpnotes", ".notes.tmp", "x.0123abcd.tmp")]
    (tmp_path / "elsewhere").mkdir()
    other = temporary_name(tmp_path / "elsewhere" / "file")
    (tmp_path / "cache" / "link").symlink_to(tmp_path / "elsewhere")
    folder = temporary_name(entry)
    folder.mkdir()
    for path in (*mine, other, folder / "inside"):
        path.touch()
    past = time.time() - OLD - 400
    for path in (entry, *mine, other, folder, orphan):
        os.utime(path, (past, past))
    assert sweep_orphans(tmp_path / "cache", age=OLD) == []  # none at the top
    swept = sweep_orphans(tmp_path / "cache", age=OLD, below=True)
    assert sorted(swept) == sorted([orphan, folder])
    assert sorted(entry.parent.iterdir()) == sorted([entry, *mine])
    assert other.exists()


def test_temporary_name_of_the_longest_name_is_possible(tmp_path: Path) -> None:
    for letter in ("a", "ü", "🐇"):
        long = letter * (255 // len(letter.encode()))
        write_bytes(tmp_path / long, b"x")
        assert (tmp_path / long).read_bytes() == b"x"


def test_a_missing_folder_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such path"), writing("the picture"):
        (tmp_path / "no" / "x.png").write_bytes(b"")
