"""How long the README's first training takes, in CPU seconds of one thread.

    python -m benchmarks.first_command

It is run as it stands there, without what earlier runs have cached. The README says the minutes,
and a test compares them with what is written to ``benchmarks/results/first_command.json``. CPU
seconds, since a machine that does something else as well says little by its clock.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from trainer.places import PROJECT
from trainer.runs.atomic import write_text

RESULT = PROJECT / "benchmarks/results/first_command.json"


def first_command() -> str:
    """The first training of the README, without ``python launch.py``."""
    found = re.search(r"^python launch\.py (train .+)$", (PROJECT / "README.md").read_text(), re.M)
    assert found is not None
    return found[1]


def machine() -> str:
    """The processor's name, as Linux gives it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor()


def main() -> None:
    """Runs it and writes what it took."""
    command = first_command()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "trainer", *shlex.split(command), "--run", f"{folder}/run"],
            env={**os.environ, "OMP_NUM_THREADS": "1", "RAREBIT_CACHE": f"{folder}/cache"},
            cwd=PROJECT,
            check=True,
        )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "command": command,
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "machine": machine(),
        "threads": 1,
        "torch": torch.__version__,
    }
    write_text(RESULT, f"{json.dumps(found, indent=1)}\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
