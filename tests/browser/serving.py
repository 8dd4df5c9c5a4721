"""The page as people start it, in a process of its own, on folders of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from trainer.places import PROJECT
from trainer.runs.layout import RunFolder, list_runs
from trainer.runs.status import Status, effective_status

START_SECONDS = 240.0


class Server:
    """A server that can be killed and started again at the same address.

    Attributes:
        root: holds the runs, image sets, adapters and pictures.
        url: of the page.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        shutil.copytree(PROJECT / "datasets" / "police-car", self.datasets / "police-car")

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def process(self) -> psutil.Process:
        """The server's own."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def start(self) -> None:
        """Returns when the page answers."""
        folders = {
            f"RAREBIT_{name.upper()}": str(self.root / name)
            for name in ("runs", "datasets", "adapters", "pictures", "cache")
        }
        environment = {**os.environ, **folders, "OMP_NUM_THREADS": "1"}
        # The answer may come from nowhere but this machine.
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "app", "--port", str(self.port), "--no-browser"]
        with (self.root / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=PROJECT, env=environment, stdout=log, stderr=log
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(self.url, timeout=10) as answer:
                    assert answer.status == 200
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise AssertionError(f"the page did not start:\n{self.log()[-3000:]}")

    def kill(self) -> None:
        """As a crash would: without a chance to say goodbye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ends the server and whatever it has started."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        for run in list_runs(self.runs):
            status = effective_status(run)
            if status is not None and _runs_here(status.pid):
                psutil.Process(status.pid).kill()

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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
