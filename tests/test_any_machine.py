"""What would only work on Linux, and what is there for other machines."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import launch
from app.gate import Hosts
from tests.test_layers import calls, files
from trainer import system
from trainer.places import PROJECT
from trainer.training.processes import StopRequest

POSIX = {
    "os": {"getuid", "getppid", "killpg", "setsid", "fork", "sched_getaffinity", "uname", "mkfifo",
           "getpgid", "O_NONBLOCK", "geteuid", "nice", "wait4", "openpty", "sync", "chown"},
    "signal": {"SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "alarm",
               "setitimer", "pthread_kill", "sigwait"},
}  # fmt: skip
MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "syslog", "readline"}
GUARDS = ("os.name", "sys.platform", "IS_WINDOWS", "hasattr(", "except ImportError")
FOR_OTHERS = {
    # Only begun where a launcher of processes is, which Windows' part leaves out before.
    ("trainer/training/processes.py", "os.getppid"),
}


def posix_names(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in POSIX.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}", node
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names if alias.name in MODULES)


def guarded(tree: ast.AST, wanted: ast.AST, source: str) -> bool:
    """Whether a statement around it asks where it is."""
    for node in ast.walk(tree):
        around = isinstance(node, ast.If | ast.Try | ast.IfExp | ast.FunctionDef)
        if around and any(inner is wanted for inner in ast.walk(node)):
            text = ast.get_source_segment(source, node) or ""
            if any(guard in text for guard in GUARDS):
                return True
    return False


def test_what_windows_lacks_is_asked_for_first() -> None:
    found: list[str] = []
    for path in files("app", "trainer", "launch.py"):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        name = path.relative_to(PROJECT).as_posix()
        found += [
            f"{name}: {used}"
            for used, node in posix_names(tree)
            if (name, used) not in FOR_OTHERS and not guarded(tree, node, source)
        ]
    assert found == []
    assert [name for name, _ in posix_names(ast.parse("import os, fcntl\nos.fork()"))] == [
        "fcntl",
        "os.fork",
    ]


def test_texts_have_an_encoding() -> None:
    """Windows' own is another in every country."""
    found: list[str] = []
    for path in files("app", "trainer", "launch.py"):
        for name, call in calls(path):
            given = {one.arg for one in call.keywords}
            is_text = name.endswith((".read_text", ".write_text")) or (
                name.startswith("subprocess.") and "text" in given
            )
            if is_text and "encoding" not in given:
                found.append(f"{path.relative_to(PROJECT)}: {ast.unparse(call)[:80]}")
    assert found == []


def test_nothing_names_a_folder_that_only_linux_has() -> None:
    places = re.compile(r"""["'](/tmp|/var|/usr|/home|/etc|/proc)\b""")
    found = [
        f"{path.relative_to(PROJECT)}: {line.strip()}"
        for path in files("app", "trainer", "launch.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if places.search(line)
    ]
    assert found == []


# ------------------------------------------------------------------------------ Windows, faked


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "IS_WINDOWS", True)


def test_a_run_is_asked_to_stop_by_a_file(windows: None, tmp_path: Path) -> None:
    """Windows ends a process at once, whatever it would save."""
    request = tmp_path / ".stop"
    request.touch()  # left for a process before this one
    with StopRequest(request) as stop:
        stop.defer()
        assert not stop.requested
        system.ask_to_stop(os.getpid(), request)
        assert stop.requested


def test_a_file_that_is_read_is_waited_for(
    windows: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("new")
    target.write_text("old")
    replace, refusals = Path.replace, iter([True, True])

    def busy(self: Path, other: Path) -> Path:
        if next(refusals, False):
            raise PermissionError(13, "in use")
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", busy)
    system.replace_file(source, target)
    assert target.read_text() == "new"


def test_a_file_that_stays_in_use_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(self: Path, other: Path) -> Path:
        raise PermissionError(13, "in use")

    monkeypatch.setattr(Path, "replace", busy)
    with pytest.raises(PermissionError):
        system.replace_file(tmp_path / "a", tmp_path / "b")


# ------------------------------------------------------------------------------ builds of torch


@pytest.mark.parametrize(
    ("platform", "nvidia", "amd", "variable", "first", "words"),
    [
        ("linux", True, False, "", "", "CUDA"),
        ("linux", False, True, "", "rocm", "ROCm"),
        ("linux", True, True, "", "", "CUDA"),
        ("linux", False, False, "", "", "no card"),
        ("win32", True, False, "", "cu1", "CUDA"),
        ("win32", False, False, "", "", "no card"),
        ("darwin", False, False, "", "", "macOS"),
        ("darwin", True, True, "https://a.example/xpu", "https://a.example/xpu", "TORCH_INDEX_URL"),
    ],
)
def test_build_of_torch(
    platform: str,
    nvidia: bool,
    amd: bool,
    variable: str,
    first: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(launch.shutil, "which", lambda name: "found" if nvidia else None)
    monkeypatch.setattr(launch, "AMD_CARD", tmp_path if amd else tmp_path / "none")
    monkeypatch.setenv("TORCH_INDEX_URL", variable)
    indexes, reason = launch.torch_build()
    assert words in reason
    if not first:
        assert indexes == []
    else:
        assert indexes[0].removeprefix(launch.BUILDS).startswith(first)


def test_a_build_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def pip(arguments: list[str]) -> None:
        asked.append(arguments[2])
        if arguments[2] != "third":
            raise launch.Trouble("There is no build.")

    monkeypatch.setattr(launch, "pip", pip)
    monkeypatch.delenv("TORCH_INDEX_URL", raising=False)
    assert launch.install_torch("2.0", ["first", "third"], "for AMD cards") == "third"
    assert launch.install_torch("2.0", ["first", "second"], "for AMD cards") == ""
    assert "may not use the card" in capsys.readouterr().out
    assert asked == ["first", "third", "first", "second"]


# ------------------------------------------------------------------------------ files for others


def test_start_bat_starts_the_launcher() -> None:
    data = (PROJECT / "start.bat").read_bytes()
    assert data.count(b"\n") == data.count(b"\r\n") > 3
    assert b"launch.py %*" in data and b'cd /d "%~dp0"' in data


def test_dockerfile_copies_and_starts_what_is_there() -> None:
    """No Docker here: what each line names must exist, and what it starts must be a command."""
    lines = (PROJECT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and line[0].isupper()]
    known = {"FROM", "ARG", "ENV", "RUN", "USER", "WORKDIR", "COPY", "VOLUME", "EXPOSE"}
    assert {name for name, _ in steps} <= known | {"ENTRYPOINT", "CMD"}
    copied = [part for name, text in steps if name == "COPY" for part in text.split()[1:-1]]
    assert all((PROJECT / part).exists() for part in copied)
    last = dict(steps)
    command = [*json.loads(last["ENTRYPOINT"]), *json.loads(last["CMD"])]
    assert command[:3] == ["python", "launch.py", "ui"]
    options = subprocess.run(
        [sys.executable, "-m", "app", "--help"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert all(part in options for part in command if part.startswith("--"))
    assert "launch.prepare()" in last["RUN"] or any("launch.prepare()" in text for _, text in steps)
    assert callable(launch.prepare)


def notebook_cells() -> list[str]:
    notebook = json.loads((PROJECT / "docs" / "rarebit.ipynb").read_text(encoding="utf-8"))
    return ["".join(one["source"]) for one in notebook["cells"] if one["cell_type"] == "code"]


def test_cells_are_plain_python() -> None:
    """So that they can be run without a notebook, and are here."""
    assert len(notebook_cells()) == 4
    for source in notebook_cells():
        ast.parse(source)


@pytest.mark.slow
def test_the_notebook_trains_and_opens_the_page_through_a_proxy(tmp_path: Path) -> None:
    """One cell after the other, with Colab's module faked; then a request as its proxy sends it."""
    colab = tmp_path / "google" / "colab"
    colab.mkdir(parents=True)
    (colab / "output.py").write_text("def eval_js(code): return 'https://7.proxy.example/'\n")
    check = """
import http.client
def asked(origin):
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    body = f"username={USER}&password={PASSWORD}"
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Origin": origin}
    connection.request("POST", "/login", body, {**kind, "Host": f"localhost:{PORT}"})
    return connection.getresponse().status
print("STATUS", asked("https://7.proxy.example"), asked("https://another.example"))
page.terminate()
page.wait()
"""
    (tmp_path / "rarebit").symlink_to(PROJECT)  # as a cell of a fresh session has cloned it
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join([*notebook_cells(), check]), encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(PROJECT)])
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={
            **os.environ, "PYTHONPATH": path, "STEPS": "2", "PORT": "7893",
            "MORE": "--set evaluation.enabled=false --set previews.inference_steps=2 "
            "--set preservation.pictures=2",
            "RAREBIT_CACHE": str(tmp_path / "cache"), "RAREBIT_RUNS": str(tmp_path / "runs"),
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "first" / "adapter.safetensors").is_file()
    assert "Open https://7.proxy.example/ and log in as me" in done.stdout
    assert "STATUS 200 403" in done.stdout


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        ("https://7.proxy.example", True),
        ("https://7.PROXY.example", True),
        ("http://7.proxy.example", False),
        ("https://7.proxy.example:8443", False),
        ("https://proxy.example", False),
        ("null", False),
    ],
)
def test_origins_of_a_proxy(origin: str, shown: bool) -> None:
    """By TLS and without a port: another port of that name is another program."""
    assert Hosts.of("127.0.0.1", ("7.proxy.example",)).shows(origin) is shown
    assert not Hosts.of("127.0.0.1").shows(origin)
