"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import ast
import gc
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from trainer.system import collect_garbage_rarely

collect_garbage_rarely()

# What dozens of processes import is compiled once, whatever the environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# No test pulls the plug: what is written need not have reached the disk, where each wait for it
# takes milliseconds. Tests of what is flushed, and when, put their own in its place.
os.fsync = lambda fd: None

# As trainer/__main__.py has it: threads that wait on a busy machine do not spin.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# The same examples every time, and no complaint about a machine that is busy with other things.
settings.register_profile(
    "gate", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gate")

# A shell's background job is deaf to Ctrl-C, and so is all that it starts: tests that send one to a
# process of theirs would wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "playwright"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m fast``, files that need torch are not even imported, nor a folder's conftest.py."""
    if config.getoption("markexpr") != "fast":
        return None
    if collection_path.is_dir():
        return True if all(map(is_heavy, collection_path.rglob("test_*.py"))) else None
    return True if collection_path.suffix == ".py" and is_heavy(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as fast what needs no torch and is not marked as slow; files with slow tests go first.

    A file's tests run in one process (--dist loadfile): what comes last should be short.
    """
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_readme.py", item.path not in slow_files))
    for item in items:
        slow = item.get_closest_marker("slow") or item.get_closest_marker("browser")
        if not slow and not is_heavy(item.path):
            item.add_marker(pytest.mark.fast)


def pytest_collection_finish() -> None:
    """What was imported stays: no collection of garbage goes through it again."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile`` one process runs all files of the browser, which share a server."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "tests/browser" if file.startswith("tests/browser/") else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@cache
def is_heavy(path: Path) -> bool:
    """Whether importing a file imports torch or what comes with it, directly or through ours."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            heavy, ours = _imported(file)
            if heavy:
                return True
            waiting += ours
    return False


@cache
def _imported(file: Path) -> tuple[bool, list[Path]]:
    """Whether a file itself imports something heavy at once, and which of our files it imports."""
    names: list[str] = []
    waiting: list[ast.stmt] = ast.parse(file.read_bytes()).body
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Try):
            waiting += node.body
    places = [ROOT.joinpath(*name.split(".")) for name in names]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return any(name.partition(".")[0] in HEAVY for name in names), [*filter(Path.is_file, files)]


TinyBase = Callable[[Any], Path]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    """Gives the folder of a tiny base model, "sd1", "sd2", "sd2-v" or "sdxl", made once.

    Tests that change a folder must copy it first.
    """
    root = tmp_path_factory.mktemp("bases")

    def folder_of(name: Any) -> Path:
        from tests.tiny_models import make_tiny  # imports torch: only when it is needed

        return root / name if (root / name).is_dir() else make_tiny(name, root / name)

    return folder_of
