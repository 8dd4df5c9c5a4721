"""The gate: formatting, lint, types and all tests; ``python launch.py test`` runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch import HERE, PIPED, Trouble, environment_for_rarebit, run_logged, say

NO_BROWSER = "--ignore=tests/browser"


def main(arguments: Sequence[str]) -> int:
    """Runs the gate; returns its exit status."""
    try:
        return run_gate(Path(sys.executable), arguments)
    except Trouble as trouble:
        sys.stderr.write(f"{trouble.message}\n{trouble.hint}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped.\n")
        return 130


def run_gate(python: Path, arguments: Sequence[str]) -> int:
    """Runs all checks, or only pytest if there are arguments; the first failure's exit status.

    The last line is pytest's own closing line.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run in parallel
    os.environ["PYTHONUNBUFFERED"] = "1"
    if sys.stdout.isatty():
        os.environ.setdefault("FORCE_COLOR", "1")
    checks = {
        "format": ["ruff", "format", "--check", "--quiet", "."],
        "lint": ["ruff", "check", "--quiet", "."],
        "types": ["pyright", "--pythonpath", str(python)],
    }
    workers = max(1, min(4, os.cpu_count() or 1))  # each takes about 1 GB
    parallel = ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]
    parallel += ["--durations", "25"]
    tests = ["pytest", *(arguments or parallel)]
    if (HERE / "tests" / "browser").is_dir() and NO_BROWSER not in arguments:
        get_chromium()
    results: list[tuple[str, int, float]] = []
    for name, command in () if arguments else checks.items():
        results.append((name, *run_check(python, command)[:2]))
    status, seconds, closing = run_check(python, tests, hold_last=True)
    results.append(("tests", status, seconds))
    if not arguments:
        for name, result, seconds in results:
            say(f"{name:8} {'passed' if result == 0 else 'FAILED'}  {seconds:6.1f} s")
    if closing:
        say(closing)
    return next((result for _, result, _ in results if result), 0)


def run_check(
    python: Path, command: Sequence[str], hold_last: bool = False
) -> tuple[int, float, str]:
    """Runs a module and passes its output on; gives exit status, seconds and the line held back."""
    say(f"$ python -m {' '.join(command)}")
    start = time.monotonic()
    held = ""
    full = [str(python), "-m", *command]
    with subprocess.Popen(
        full, cwd=str(HERE), env=environment_for_rarebit(), **(PIPED if hold_last else {})
    ) as process:
        for line in process.stdout or ():
            if held:
                say(held)
            held = line.rstrip("\n")
    status = process.returncode
    if status < 0:
        held = f"{held}\n{command[0]} was ended by signal {-status}".lstrip()
        status = 128 - status
    return status, time.monotonic() - start, held


def get_chromium() -> None:
    """Installs the browser that the tests drive, where that can be done without asking."""
    if any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise Trouble(
            "The browser tests need Chromium, and it is not installed.",
            "On Debian: sudo apt-get install chromium. Or run the other tests only: "
            f"python launch.py test {NO_BROWSER}",
        )
    say("Installing Chromium for the browser tests")
    run_logged([apt, "update", "-q"])
    run_logged([apt, "install", "-q", "-y", "--no-install-recommends", "chromium"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
