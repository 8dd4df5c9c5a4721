"""The launcher, as a person meets it on a machine of their own.

The projects here are copies of launch.py beside tiny packages, taken from a package index in a
folder: nothing is downloaded.
"""

from __future__ import annotations

import ast
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

import launch
from tests import gate
from trainer.places import PROJECT

# Says what it was started with, and ends with a status of its own.
MODULE = """
import importlib.metadata, os, sys
print("{name}", sys.argv[1:], importlib.metadata.version("tinydep"), flush=True)
sys.exit(int(os.environ.get("STATUS", "0")))
"""
# A tool of the gate: the status comes from a variable, pytest ends with its closing line.
TOOL = """
import os, sys
print("{name}", sys.argv[1:])
if "{name}" == "pytest":
    print("=== 3 passed in 0.01s ===")
status = int(os.environ.get("STATUS_{name}", "0"))
if status < 0:
    sys.stdout.flush()
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def add_wheel(index: Path, name: str, version: str, modules: dict[str, str]) -> None:
    """Puts a package into an index."""
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version.replace('+', '_')}.dist-info".replace("_", "+")
    files = {f"{module}.py": text for module, text in modules.items()}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    links = "".join(f'<a href="{path.name}">{path.name}</a>' for path in folder.glob("*.whl"))
    (folder / "index.html").write_text(links)


class Project:
    """A copy of launch.py with packages of its own."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "project"
        self.index = root / "index"
        self.elsewhere = root / "elsewhere"
        for folder in (self.folder / "trainer", self.folder / "tests", self.elsewhere):
            folder.mkdir(parents=True)
        shutil.copy(PROJECT / "launch.py", self.folder)
        shutil.copy(PROJECT / "tests" / "gate.py", self.folder / "tests")
        (self.folder / "trainer" / "__main__.py").write_text(MODULE.format(name="trainer"))
        (self.folder / "tests" / "requirements.txt").write_text("tools==1.0\n")
        self.require("tinydep==1.0  # a reason\n")
        for version in ("1.0", "2.0"):
            add_wheel(self.index, "tinydep", version, {"tinydep": ""})
        add_wheel(self.index, "torch", "1.0", {"torch": "build = 'usual'"})
        tools = {name: TOOL.format(name=name) for name in ("ruff", "pyright", "pytest")}
        add_wheel(self.index, "tools", "1.0", tools)

    def require(self, text: str) -> None:
        (self.folder / "requirements.txt").write_text(text)

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PIP_", "PYTHON", "PYTEST", "VIRTUAL_ENV", "TORCH_INDEX"))
        }
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": self.index.as_uri()}
        return {**kept, **pip, **variables}

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.folder / "launch.py"), *arguments],
            cwd=self.elsewhere,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        with self.start(*arguments, **variables) as process:
            out, error = process.communicate()
        assert "Traceback" not in error
        return process.returncode, out, error


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after its first start."""
    project = Project(tmp_path_factory.mktemp("launch"))
    status, out, error = project.run("train", "--rank", "4", STATUS="7")
    assert status == 7, error
    assert "Making an environment in .venv" in out
    assert out.splitlines()[-1] == "trainer ['train', '--rank', '4'] 1.0"
    return project


@pytest.fixture
def project(installed: Project) -> Iterator[Project]:
    """The same project, put back as it was afterwards."""
    yield installed
    installed.require("tinydep==1.0  # a reason\n")
    shutil.rmtree(installed.folder / "app", ignore_errors=True)


# ------------------------------------------------------------------------------ starting


def test_second_start_only_starts(project: Project) -> None:
    assert project.run("generate", STATUS="3") == (3, "trainer ['generate'] 1.0\n", "")


def test_own_packages_win_over_those_of_the_current_folder(project: Project) -> None:
    # Python 3.10 looks into the current folder first, whatever one says.
    expected = "decoy\n" if sys.version_info < (3, 11) else "trainer ['fit'] 1.0\n"
    decoy = project.elsewhere / "trainer"
    decoy.mkdir()
    (decoy / "__main__.py").write_text("print('decoy')")
    try:
        assert project.run("fit")[1] == expected
    finally:
        shutil.rmtree(decoy)


def test_without_a_page_it_says_what_there_is(project: Project) -> None:
    for arguments in ([], ["ui"], ["--port", "7861"]):
        status, out, error = project.run(*arguments)
        assert (status, out) == (2, "")
        assert "has no web UI" in error and "launch.py --help" in error


def test_page_is_what_no_command_means(project: Project) -> None:
    (project.folder / "app").mkdir()
    (project.folder / "app" / "__main__.py").write_text(MODULE.format(name="app"))
    assert project.run()[1] == "app [] 1.0\n"
    assert project.run("ui", "--port", "1")[1] == "app ['--port', '1'] 1.0\n"
    assert project.run("--port", "1")[1] == "app ['--port', '1'] 1.0\n"
    assert project.run("--help")[1] == "trainer ['--help'] 1.0\n"


# ------------------------------------------------------------------------------ installing


def test_changed_requirements_are_installed(project: Project) -> None:
    project.require("tinydep==2.0\n")
    status, out, _ = project.run("train")
    assert status == 0
    assert "Installed in" in out and "anew" not in out
    assert out.splitlines()[-1] == "trainer ['train'] 2.0"
    project.require("tinydep==1.0\n")
    assert project.run("train")[1].splitlines()[-1] == "trainer ['train'] 1.0"


def test_half_made_environment_is_made_anew(project: Project) -> None:
    for path in (project.folder / ".venv" / "bin").glob("python*"):
        path.unlink()
    status, out, error = project.run("train")
    assert status == 0, error
    assert "not complete: making it anew" in out
    assert project.run("train")[1] == "trainer ['train'] 1.0\n"


def test_second_start_waits_for_the_first(project: Project) -> None:
    (project.folder / ".venv" / "rarebit-ready.json").unlink()
    with (project.folder / ".launch.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with project.start("train") as process:
            assert process.stdout is not None
            assert "waiting for it" in process.stdout.readline()
            assert process.poll() is None
            file.close()
            out, _ = process.communicate()
    assert out.splitlines()[-1] == "trainer ['train'] 1.0"


def test_two_starts_at_once_install_once(project: Project) -> None:
    (project.folder / ".venv" / "rarebit-ready.json").unlink()
    with project.start("train") as first, project.start("train") as second:
        outs = [process.communicate()[0] for process in (first, second)]
    assert [out.splitlines()[-1] for out in outs] == ["trainer ['train'] 1.0"] * 2
    assert sum("Installed in" in out for out in outs) == 1


def test_no_network_is_said_and_breaks_nothing(project: Project) -> None:
    project.require("tinydep==2.0\n")
    status, _, error = project.run(
        "train", PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="1"
    )
    assert status == 2
    assert error.startswith("There is no network, or the packages' server cannot be reached.\n")
    project.require("tinydep==1.0  # a reason\n")
    assert project.run("train")[1] == "trainer ['train'] 1.0\n"


def test_missing_build_is_said(project: Project) -> None:
    project.require("tinydep==3.0\n")
    status, _, error = project.run("train")
    assert status == 2
    assert "There is no build of tinydep==3.0 for Python" in error


@pytest.mark.parametrize(
    ("stop", "number"),
    [
        (os.killpg, signal.SIGINT),  # as Ctrl-C in a terminal does
        (os.kill, signal.SIGINT),
        (os.kill, signal.SIGTERM),
    ],
)
def test_stopping_an_installation_ends_pip_too(
    stop: Callable[[int, int], None], number: int, project: Project
) -> None:
    """While pip waits for a server that says nothing."""
    project.require("tinydep==2.0\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/simple"
        with project.start("train", PIP_INDEX_URL=url) as process:
            connection, _ = server.accept()
            stop(process.pid, number)
            _, error = process.communicate()
            while connection.recv(1_000_000):  # the request; and then the end, as pip is gone
                pass
            connection.close()
    assert (process.returncode, error) == (130, "\nStopped. The next start goes on from here.\n")
    project.require("tinydep==1.0  # a reason\n")
    assert project.run("train")[1] == "trainer ['train'] 1.0\n"


def test_torch_from_another_index(project: Project, tmp_path: Path) -> None:
    add_wheel(tmp_path, "torch", "1.0+special", {"torch": "build = 'special'"})
    project.require("tinydep==1.0\ntorch==1.0\n")
    site = next((project.folder / ".venv").rglob("site-packages"))
    url = tmp_path.as_uri()
    assert project.run("train")[0] == 0
    assert "usual" in (site / "torch.py").read_text()
    status, out, error = project.run("train", TORCH_INDEX_URL=url)
    assert status == 0, error
    assert "Installing torch 1.0 from TORCH_INDEX_URL" in out
    assert "special" in (site / "torch.py").read_text()
    for variables in ({"TORCH_INDEX_URL": url}, {}):
        assert project.run("train", **variables)[1] == "trainer ['train'] 1.0\n"
    assert "special" in (site / "torch.py").read_text()


# ------------------------------------------------------------------------------ the gate


def test_gate_runs_everything_and_ends_with_the_closing_line(project: Project) -> None:
    status, out, error = project.run("test")
    assert status == 0, error
    lines = out.splitlines()
    ran = [line for line in lines if line.startswith(("ruff", "pyright", "pytest"))]
    assert [line.split()[0] for line in ran] == ["ruff", "ruff", "pyright", "pytest"]
    assert ran[:2] == [
        "ruff ['format', '--check', '--quiet', '.']",
        "ruff ['check', '--quiet', '.']",
    ]
    summary = [line.split()[:2] for line in lines[-5:-1]]
    assert summary == [[name, "passed"] for name in ("format", "lint", "types", "tests")]
    assert lines[-1] == "=== 3 passed in 0.01s ==="


@pytest.mark.parametrize(
    ("statuses", "expected", "failed"),
    [
        ({"STATUS_pyright": "4"}, 4, ["types"]),
        ({"STATUS_pytest": "5"}, 5, ["tests"]),
        ({"STATUS_ruff": "1", "STATUS_pytest": "5"}, 1, ["format", "lint", "tests"]),
    ],
)
def test_gate_goes_on_after_a_failure(
    statuses: dict[str, str], expected: int, failed: list[str], project: Project
) -> None:
    status, out, _ = project.run("test", **statuses)
    assert status == expected
    summary = [line.split() for line in out.splitlines()[-5:-1]]
    assert [words[0] for words in summary if words[1] == "FAILED"] == failed
    assert out.splitlines()[-1] == "=== 3 passed in 0.01s ==="


def test_killed_check_is_not_taken_for_an_ended_one(project: Project) -> None:
    status, out, _ = project.run("test", STATUS_pytest="-9")
    assert status == 137
    assert out.splitlines()[-1] == "pytest was ended by signal 9"


@pytest.mark.parametrize(
    ("installed", "user", "ran"),
    [
        ({"chromium": "/usr/bin/chromium"}, 1000, []),
        ({"google-chrome": "/opt/chrome"}, 1000, []),
        ({"apt-get": "/usr/bin/apt-get"}, 0, ["update", "install"]),
        ({"apt-get": "/usr/bin/apt-get"}, 1000, None),
        ({}, 0, None),
    ],
)
def test_chromium_is_installed_where_that_needs_no_question(
    installed: dict[str, str], user: int, ran: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(gate.shutil, "which", installed.get)
    monkeypatch.setattr(gate.os, "geteuid", lambda: user)
    monkeypatch.setattr(gate, "run_logged", commands.append)
    if ran is None:
        with pytest.raises(launch.Trouble, match="need Chromium") as trouble:
            gate.get_chromium()
        assert gate.NO_BROWSER in trouble.value.hint
    else:
        gate.get_chromium()
    assert [command[1] for command in commands] == (ran or [])


@pytest.mark.parametrize(
    ("arguments", "needed"), [([], True), (["-k", "word"], True), ([gate.NO_BROWSER], False)]
)
def test_a_browser_is_needed_for_its_tests_alone(
    arguments: list[str], needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[bool] = []
    for name in ("OMP_NUM_THREADS", "PYTHONUNBUFFERED"):  # which it sets for the tests
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(gate, "get_chromium", lambda: got.append(True))
    monkeypatch.setattr(gate, "run_check", lambda *_, **__: (0, 0.0, ""))
    assert gate.run_gate(Path("python"), arguments) == 0
    assert got == [True] * needed


def test_arguments_of_test_go_to_pytest_alone(project: Project) -> None:
    status, out, _ = project.run("test", "-k", "two words", STATUS_pytest="1", STATUS_ruff="9")
    assert status == 1
    assert "pytest ['-k', 'two words']" in out
    assert "ruff" not in out and "FAILED" not in out
    assert out.splitlines()[-1] == "=== 3 passed in 0.01s ==="


def test_failed_test_tools_do_not_spoil_the_rest(project: Project) -> None:
    stamp = project.folder / ".venv" / "rarebit-ready.json"
    whole = stamp.read_text()
    tests = project.folder / "tests" / "requirements.txt"
    tests.write_text("tools==9.0\n")
    try:
        assert project.run("test")[0] == 2
        assert project.run("train")[1] == "trainer ['train'] 1.0\n"
    finally:
        tests.write_text("tools==1.0\n")
        stamp.write_text(whole)


# ------------------------------------------------------------------------------ in this process


def test_launcher_is_read_by_old_pythons() -> None:
    source = (PROJECT / "launch.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))
    assert "from __future__" not in source


def test_old_python_gets_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    assert launch.main(["train"]) == 2
    assert "needs Python 3.10 or newer, and this is 3.9." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "The disk is full."),
        ("[Errno 28] on /tmp after ReadTimeout", "The disk is full."),
        ("WARNING: Retrying ... NewConnectionError('Failed to establish')", "There is no network"),
        ("Temporary failure resolving 'deb.example.org'", "There is no network"),
        (
            "WARNING: ... [Errno -3] Temporary failure in name resolution\n"
            "ERROR: No matching distribution found for torch==2.13.0",
            "There is no network",
        ),
        ("SSLError(SSLCertVerificationError(1, 'CERTIFICATE_VERIFY_FAILED'", "certificate"),
        ("The virtual environment was not created ... ensurepip is not\navailable", "failed"),
        ("because ensurepip is not available.  On Debian/Ubuntu", "its ensurepip is missing"),
        ("/x/python: No module named pip", "has no pip"),
        ("ERROR: No matching distribution found for peft==9", "There is no build of peft==9"),
        ("PermissionError: [Errno 13] Permission denied: '/home/x'", "cannot be written to"),
        ("OSError: [Errno 30] Read-only file system", "cannot be written to"),
        ("something new", "The installation failed:\n  something new"),
    ],
)
def test_causes_are_said_in_plain_words(output: str, message: str) -> None:
    trouble = launch.explain(output)
    assert message in trouble.message
    assert trouble.hint and "{" not in trouble.message + trouble.hint


def test_failing_step_is_explained() -> None:
    code = "print('OSError: [Errno 28] No space left on device'); raise SystemExit(1)"
    with pytest.raises(launch.Trouble, match="disk is full"):
        launch.run_logged([sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.EACCES, "cannot be written"), (errno.ENOSPC, "disk is full"), (errno.EROFS, "cannot")],
)
def test_folder_that_takes_nothing(
    number: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for question in ("satisfied", "ready"):
        monkeypatch.setattr(launch, question, lambda _: False)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(launch.Trouble, match=message):
        launch.prepare()


def test_python_without_ensurepip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch, "VENV", tmp_path / ".venv")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(launch.Trouble, match="ensurepip is missing") as caught:
        launch.make_venv()
    assert "apt install python3-venv" in caught.value.hint
    assert not (tmp_path / ".venv").exists()


FILES = [PROJECT / "requirements.txt", PROJECT / "tests" / "requirements.txt"]


@pytest.mark.parametrize("file", FILES, ids=["run", "test"])
@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12), (3, 13)])
def test_requirements_are_pinned_once_for_every_python(
    version: tuple[int, int], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    ours = launch.requirements(file)
    lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    everything = [Requirement(line) for line in lines if line]
    environment = {"python_version": f"{version[0]}.{version[1]}"}
    theirs = [r for r in everything if r.marker is None or r.marker.evaluate(environment)]
    assert ours == [(r.name, str(r.specifier).removeprefix("==")) for r in theirs]
    assert len({name for name, _ in ours}) == len(ours) == len({r.name for r in everything})


@pytest.mark.parametrize("marker", ["", 'python_version < "3.11"', 'python_version >= "3.9"'])
def test_markers(marker: str) -> None:
    assert launch.holds(marker) == (not marker or Marker(marker).evaluate())


def test_marker_that_it_cannot_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="sys_platform"):
        launch.holds('sys_platform == "linux"')


def test_environment_that_has_everything_is_used(tmp_path: Path) -> None:
    assert launch.satisfied(FILES[:1])
    assert launch.prepare() == Path(sys.executable)
    file = tmp_path / "requirements.txt"
    for text in ("pytest==0.1\n", "not-there-at-all==1.0\n"):
        file.write_text(text)
        assert not launch.satisfied([file])


@pytest.fixture
def fake_venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `.venv` that looks complete, whose Python only says yes."""
    venv = tmp_path / ".venv"
    for name, path in (
        ("VENV", venv),
        ("STAMP", venv / "rarebit-ready.json"),
        ("UNFINISHED", venv / "rarebit-unfinished"),
    ):
        monkeypatch.setattr(launch, name, path)
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text("#!/bin/sh\nexit 0\n")
    (venv / "bin" / "python").chmod(0o755)
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    stamp = {"python": "3.11.7", "torch_index": "", **launch.fingerprints(FILES[:1])}
    (venv / "rarebit-ready.json").write_text(json.dumps(stamp))
    return venv


BIN, STAMP = "bin/python", "rarebit-ready.json"


@pytest.mark.parametrize(
    ("damage", "ready", "pip_works"),
    [
        ({}, True, True),
        ({"rarebit-unfinished": ""}, False, True),
        ({BIN: None}, False, False),
        ({"pyvenv.cfg": "version = 3.12.1\n"}, False, True),
        ({"pyvenv.cfg": None}, False, True),
        ({STAMP: "{"}, False, True),
        ({STAMP: None, BIN: "#!/bin/sh\nexit 1\n"}, False, False),
    ],
)
def test_what_makes_an_environment_ready(
    damage: dict[str, str | None], ready: bool, pip_works: bool, fake_venv: Path
) -> None:
    for name, text in damage.items():
        if text is None:
            (fake_venv / name).unlink()
        else:
            (fake_venv / name).write_text(text)
    assert launch.ready(FILES[:1]) == ready
    assert launch.pip_works() == pip_works
    assert not launch.ready(FILES)  # the tests' requirements have never been installed
