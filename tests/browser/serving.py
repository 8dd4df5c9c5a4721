"""The page as people start it, in a process of its own, on folders of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from trainer.places import PROJECT
from trainer.runs.layout import RunFolder, list_runs
from trainer.runs.status import Status, effective_status

START_SECONDS = 240.0
NOWHERE = "http://127.0.0.1:1"  # nothing answers there: the page has to do without a network


class Server:
    """A server that can be killed and started again at the same address; `with` starts and ends it.

    Args:
        options: of the command, beside its port.

    Attributes:
        root: holds the runs, image sets, adapters and pictures.
        hub_port: where it looks for the Hugging Face hub; nothing answers there but a test's own.
        url: of the page.
    """

    def __init__(self, root: Path, *options: str) -> None:
        self.root, self.runs, self.datasets = root, root / "runs", root / "datasets"
        with socket.socket() as probe, socket.socket() as other:
            probe.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            self.port, self.hub_port = probe.getsockname()[1], other.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._options = ["--port", str(self.port), "--no-browser", *options]
        self._process: subprocess.Popen[bytes] | None = None
        shutil.copytree(PROJECT / "datasets" / "police-car", self.datasets / "police-car")

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the server, which has to succeed, and whatever it has started."""
        assert self._process is not None
        self._process.terminate()
        try:
            assert self._process.wait(60) == 0, self.log()[-3000:]
        finally:
            self.kill()
            for run in list_runs(self.runs):
                status = effective_status(run)
                if status is not None and _runs_here(status.pid):
                    psutil.Process(status.pid).kill()

    def start(self) -> None:
        """Returns when the page is there."""
        names = ("runs", "datasets", "adapters", "pictures", "cache", "servers")
        names += ("captioners", "maskers")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment |= {f"RAREBIT_{name.upper()}": str(self.root / name) for name in names}
        environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
        environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{self.hub_port}", "HF_HUB_OFFLINE": "0"}
        with (self.root / "server.log").open("ab") as log:
            before = len(self.log())
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app", *self._options],
                cwd=PROJECT,
                env=environment,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while "Rarebit is at" not in self.log()[before:]:
            running = self._process.poll() is None and time.monotonic() < deadline
            assert running, f"the page did not start:\n{self.log()[-3000:]}"
            time.sleep(0.1)

    def kill(self) -> None:
        """As a crash would: without a chance to say goodbye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def log(self) -> str:
        """What the server has said."""
        return (self.root / "server.log").read_text(errors="replace")

    def run(self, name: str) -> RunFolder:
        """A run's folder."""
        return RunFolder(self.runs / name)

    def status(self, name: str) -> Status:
        """What a run does now."""
        status = effective_status(self.run(name))
        assert status is not None
        return status


def _runs_here(pid: int) -> bool:
    try:
        return "trainer" in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
