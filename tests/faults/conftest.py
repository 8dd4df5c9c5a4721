"""The stage on which runs are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.places import PROJECT

UMASK = 0o027


class Stage:
    """`tests.faults.stage` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "RAREBIT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        self._log = (folder / "stage.log").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.stage"],
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            umask=UMASK,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One request; paths become text."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"do": do, **arguments}
        self._process.stdin.write(json.dumps(request, default=str) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self.log()
        return json.loads(answer)

    def log(self) -> str:
        """What it has said, the end of it."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-3000:]

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()  # closes its input
        self._log.close()


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Shared by all tests that kill; they run in one process for its sake."""
    stage = Stage(tmp_path_factory.mktemp("stage"))
    yield stage
    stage.close()
