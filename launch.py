#!/usr/bin/env python3
"""Rarebit's one entry: prepares the environment, then runs a command in it.

    python launch.py                 the web UI
    python launch.py train …         any command; `python launch.py --help` lists them
    python launch.py test            installs what the tests need and runs all checks
    python launch.py test -k word    runs only pytest, with these arguments

Standard library only, and a syntax that old Pythons can read, so that they get a sentence instead
of a traceback. The environment is `.venv` beside this file, unless the one that this is started in
satisfies requirements.txt exactly. Which build of torch suits this machine is chosen when it is
installed (`torch_build`); TORCH_INDEX_URL names another package index to take it from.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple  # as old Pythons can read them

OLDEST = (3, 10)
HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
STAMP = VENV / "rarebit-ready.json"  # says what is installed; written when all of it is
UNFINISHED = VENV / "rarebit-unfinished"  # there while it is being changed
PIPED: Dict[str, Any] = {"stdout": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
say = partial(print, flush=True)
AMD_CARD = Path("/dev/kfd")
BUILDS = "https://download.pytorch.org/whl/"  # of torch, for each kind of card

# What pip or the system says -> what is wrong, and the way out. The first that fits counts.
CAUSES = (
    (
        r"No space left on device|Errno 28|not enough space on the disk|disk quota",
        "The disk is full.",
        "Free about 6 GB on the disk that holds {here} (and in the folder for temporary files, "
        "which the variable TMPDIR can move), then start again.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError",
        "The package index could not be trusted: its certificate was refused.",
        "Behind a company's proxy, give pip its certificate with the variable PIP_CERT. "
        "Otherwise check this machine's clock.",
    ),
    (
        r"NewConnectionError|name resolution|getaddrinfo failed|Name or service not known"
        r"|nodename nor servname|Network is unreachable|ConnectTimeout|ReadTimeout|ProxyError"
        r"|Connection refused|Connection reset|Max retries exceeded|RemoteDisconnected"
        r"|No route to host|failure resolving",
        "There is no network, or the packages' server cannot be reached.",
        "Connect this machine and start again; what has been downloaded is kept. Behind a proxy, "
        "set HTTPS_PROXY.",
    ),
    (
        r"ensurepip is not available|No module named '?ensurepip",
        "This Python cannot make environments with pip: its ensurepip is missing.",
        "On Debian and Ubuntu: sudo apt install python3-venv python3-pip. Elsewhere: install "
        "Python from its own installer.",
    ),
    (r"No module named '?pip", "The environment has no pip.", "Delete {venv} and start again."),
    (
        r"No matching distribution found for (?P<what>\S+)",
        "There is no build of {what} for Python {python} on this system.",
        "Start with another Python from 3.10 to 3.13: python3.12 launch.py …",
    ),
    (
        r"Permission denied|Errno 13|Errno 30|Read-only file system|WinError 5\b",
        "The folder {here} cannot be written to.",
        "Move Rarebit to a folder of your own, or make this one writable.",
    ),
)


class Trouble(Exception):
    """Something that the person at the keyboard can put right."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = message, hint


def main(arguments: Sequence[str]) -> int:
    """Prepares the environment and runs the command; returns its exit status."""
    try:
        if sys.version_info < OLDEST:
            raise Trouble(
                "Rarebit needs Python 3.10 or newer, and this is %d.%d." % sys.version_info[:2],
                "Install a newer one and start again with it, such as: python3.12 launch.py",
            )
        return dispatch(list(arguments))
    except Trouble as trouble:
        sys.stderr.write("".join(f"{line}\n" for line in trouble.args if line))
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. The next start goes on from here.\n")
        return 130


def dispatch(arguments: List[str]) -> int:
    """Chooses what to run by the first argument."""
    command = arguments[0] if arguments else "ui"
    if command == "test":
        return replace_process(prepare(tests=True), ["-m", "tests.gate", *arguments[1:]])
    rest = arguments[1:] if command == "ui" else arguments
    option = command.startswith("-") and command not in ("-h", "--help", "--version")
    if command == "ui" or option:
        if not (HERE / "app").is_dir():
            raise Trouble(
                "This copy of Rarebit has no web UI (the folder app/ is not there).",
                "The command line is there: python launch.py --help lists its commands.",
            )
        return replace_process(prepare(), ["-m", "app", *rest])
    return replace_process(prepare(), ["-m", "trainer", *arguments])


# ------------------------------------------------------------------------------ environment


def prepare(tests: bool = False) -> Path:
    """Makes sure of an environment that has everything; returns its Python."""
    folders = [HERE, HERE / "tests"] if tests else [HERE]
    files = [folder / "requirements.txt" for folder in folders]
    if satisfied(files):
        return Path(sys.executable)
    if not ready(files):
        try:
            with only_one():
                if not ready(files):  # another start may have done it meanwhile
                    install(files)
        except OSError as error:
            raise explain(f"{error} (Errno {error.errno})") from error
    return venv_python()


def satisfied(files: Sequence[Path]) -> bool:
    """Whether the environment that this runs in has exactly what the files ask for."""
    import importlib.metadata  # here, since Python 3.7 has no such module

    if UNFINISHED.exists() and Path(sys.prefix) == VENV:
        return False
    pairs = [pair for file in files for pair in requirements(file)]
    version = importlib.metadata.version
    try:  # 2.13.0+cpu is a build of 2.13.0
        return all(version(name).split("+")[0] == wanted for name, wanted in pairs)
    except importlib.metadata.PackageNotFoundError:
        return False


def requirements(file: Path) -> List[Tuple[str, str]]:
    """The (name, version) pairs of a file that hold for this Python."""
    pairs = []
    for line in file.read_text(encoding="utf-8").splitlines():
        requirement, _, marker = line.partition("#")[0].partition(";")
        name, _, version = requirement.partition("==")
        if name.strip() and holds(marker.strip()):
            pairs.append((name.partition("[")[0].strip(), version.strip()))
    return pairs


def holds(marker: str) -> bool:
    """Whether an environment marker is true here; only comparisons of python_version are used."""
    if not marker:
        return True
    match = re.fullmatch(r'python_version\s*(<|>=)\s*"(\d+)\.(\d+)"', marker)
    if match is None:
        raise ValueError(f"launch.py cannot read the marker: {marker}")
    newer = sys.version_info[:2] >= (int(match.group(2)), int(match.group(3)))
    return newer == (match.group(1) == ">=")


def venv_python() -> Path:
    """The Python of `.venv`."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def ready(files: Sequence[Path]) -> bool:
    """Whether `.venv` is complete for these files, judged by its stamp."""
    wanted = fingerprints(files)
    if os.environ.get("TORCH_INDEX_URL"):
        wanted["torch_index"] = os.environ["TORCH_INDEX_URL"]
    complete = venv_python().exists() and not UNFINISHED.exists()
    return complete and wanted.items() <= read_stamp().items()


def read_stamp() -> Dict[str, str]:
    """What `.venv` says about itself; empty if it is not finished, or has another Python."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
        return stamp if stamp["python"] == venv_version() else {}
    except (OSError, ValueError, KeyError):
        return {}


def venv_version() -> str:
    """The version of the Python that `.venv` was made with, such as 3.11.7."""
    text = (VENV / "pyvenv.cfg").read_text(encoding="utf-8")
    return "".join(re.findall(r"^version(?:_info)?\s*=\s*(\S+)", text, re.MULTILINE)[:1])


def fingerprints(files: Sequence[Path]) -> Dict[str, str]:
    """The files' SHA-256, by what the stamp calls them."""
    names = {HERE: "requirements", HERE / "tests": "tests"}
    return {names[file.parent]: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# ------------------------------------------------------------------------------ installation


def install(files: Sequence[Path]) -> None:
    """Makes or mends `.venv` and installs into it."""
    start = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends pip too, as Ctrl-C does
    if UNFINISHED.exists() or not pip_works():
        make_venv()
    stamp = read_stamp()
    index = stamp.get("torch_index", "")
    indexes, reason = torch_build()
    version = dict(requirements(files[0])).get("torch", "")
    if not indexes:
        say(f"Taking torch's usual build {reason}.")
    elif index not in indexes or stamp.get("torch", version) != version:
        index = install_torch(version, indexes, reason)
    say("Installing what Rarebit needs (a few minutes, and about 6 GB, the first time).")
    pip([argument for file in files for argument in ("-r", str(file))])
    done = {"python": venv_version(), "torch_index": index, "torch": version, **fingerprints(files)}
    STAMP.write_text(json.dumps(done, indent=1), encoding="utf-8")
    UNFINISHED.unlink(missing_ok=True)
    say(f"Installed in {time.monotonic() - start:.0f} s.")


def torch_build() -> Tuple[List[str], str]:
    """The package indexes of torch for this machine, the best first; [] for the usual; and why."""
    if os.environ.get("TORCH_INDEX_URL"):
        return [os.environ["TORCH_INDEX_URL"]], "from TORCH_INDEX_URL"
    if sys.platform == "darwin":
        return [], "for macOS (with Apple's GPUs)"
    kinds, reason = "", "(no card of NVIDIA's or AMD's was found)"
    if shutil.which("nvidia-smi"):
        # For Windows the usual build knows processors alone.
        kinds = "cu130 cu128 cu126" if sys.platform == "win32" else ""
        reason = "for NVIDIA cards (CUDA)"
    elif sys.platform == "linux" and AMD_CARD.exists():
        kinds, reason = "rocm7.2 rocm7.1 rocm7.0 rocm6.4", "for AMD cards (ROCm)"
    return [BUILDS + kind for kind in kinds.split()], reason


def install_torch(version: str, indexes: Sequence[str], reason: str) -> str:
    """Installs the first build that is there; returns its index, or "" where none is."""
    for index in indexes:
        say(f"Installing torch {version} {reason}")
        try:
            pip(["--force-reinstall", "--index-url", index, f"torch=={version}"])
            return index
        except Trouble:
            if os.environ.get("TORCH_INDEX_URL"):
                raise
    say(f"{BUILDS} has no torch {version} {reason}: the usual build may not use the card.")
    return ""


def pip_works() -> bool:
    """Whether `.venv` has a Python that starts, with a whole pip."""
    check = [str(venv_python()), "-m", "pip", "--version"]
    return venv_python().exists() and not subprocess.run(check, capture_output=True).returncode


def make_venv() -> None:
    """Makes `.venv` anew; what is left of an unfinished one goes."""
    if VENV.exists():
        say("The environment in .venv is not complete: making it anew.")
        shutil.rmtree(VENV)
    else:
        say("Making an environment in .venv")
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise explain("No module named ensurepip")
    VENV.mkdir()
    UNFINISHED.touch()
    # Not sys.executable, which may lie in the folder that has just gone.
    python = getattr(sys, "_base_executable", None) or sys.executable
    run_logged([python, "-m", "venv", str(VENV)])
    UNFINISHED.unlink()


def pip(arguments: Sequence[str]) -> None:
    """Runs `pip install` in `.venv`."""
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    run_logged([str(venv_python()), "-m", "pip", "install", *options, *arguments])


def run_logged(command: Sequence[str]) -> None:
    """Runs a step of the installation, showing downloads; explains what goes wrong.

    Raises:
        Trouble: it failed.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop("PYTHONPATH", None)
    lines: List[str] = []
    with subprocess.Popen(command, env=environment, stderr=subprocess.STDOUT, **PIPED) as process:
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                show_progress(line)
        except BaseException:
            process.terminate()  # rather than leave it at work without the lock
            process.wait()
            raise
    if process.returncode:
        raise explain("\n".join(lines))


def show_progress(line: str) -> None:
    """Picks what is worth seeing from pip's output."""
    download = re.match(r"\s*Downloading (\S+)(.*\((\d.*B)\))?", line[:300])
    if download and not download.group(1).endswith(".metadata"):
        name = download.group(1).rpartition("/")[2]
        say(f"  {name} {download.group(3) or ''}".rstrip())
    elif line.startswith("Installing collected packages"):
        UNFINISHED.touch()  # until here, pip has changed nothing
        say("  unpacking")


def explain(output: str) -> Trouble:
    """Finds the cause in what a program said."""
    places = {"here": HERE, "venv": VENV, "python": "%d.%d" % sys.version_info[:2], "what": ""}
    for pattern, message, hint in CAUSES:
        match = re.search(pattern, output, re.IGNORECASE)
        if match:
            places.update(match.groupdict())
            return Trouble(message.format(**places), hint.format(**places))
    shown = "\n".join(f"  {line}" for line in output.splitlines()[-15:])
    return Trouble(f"The installation failed:\n{shown}", "Starting again is safe.")


@contextmanager
def only_one() -> Iterator[None]:
    """Keeps two starts from installing at the same time: the second waits."""
    with (HERE / ".launch.lock").open("a") as file:
        if not lock(file.fileno()):
            say("Another start is preparing the environment: waiting for it.")
            while not lock(file.fileno()):
                time.sleep(0.2)
        yield  # closing the file, or dying, gives the lock back


def lock(descriptor: int) -> bool:
    """Takes the lock on an open file, unless another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


# ------------------------------------------------------------------------------ running


def environment_for_rarebit() -> Dict[str, str]:
    """Lets Python find the packages beside this file, from whatever folder this is started in."""
    rest = os.environ.get("PYTHONPATH")
    return {
        "PYTHONUTF8": "1",  # Windows' own encoding lacks letters of captions
        **os.environ,
        "PYTHONPATH": str(HERE) + (os.pathsep + rest if rest else ""),
        "PYTHONSAFEPATH": "1",  # and not something of the same name in that folder
    }


def replace_process(python: Path, arguments: Sequence[str]) -> int:
    """Goes on as another Python; returns only on Windows, where that is not possible."""
    command = [str(python), *arguments]
    sys.stdout.flush()
    if os.name != "nt":
        os.execve(command[0], command, environment_for_rarebit())
    with subprocess.Popen(command, env=environment_for_rarebit()) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the command has it too, and ends in its own way


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
