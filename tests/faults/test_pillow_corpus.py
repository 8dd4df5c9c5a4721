"""Pillow's own collection of test pictures, every file of it: a picture, or one clear sentence.

The collection comes with Pillow's source package. It is fetched by pip into the cache folder once,
and never committed. RAREBIT_PILLOW_SOURCE names a source package that is there already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

from trainer.places import PROJECT, cache_folder

pytestmark = [pytest.mark.corpus, pytest.mark.timeout(900)]

FETCH_SECONDS = 300
MOST_SECONDS = 5.0
MOST_BYTES = 300e6

# What happens to each file, on its own line; memory is measured from file to file.
PROGRAM = """
import json, pathlib, resource, sys, time
from trainer.data.images import ImageProblem, inspect_image, load_alpha, load_rgb

def peak():
    try:  # the kernel's high-water mark can be set back
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass

def high_water():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

root = pathlib.Path(sys.argv[1])
for path in sorted(path for path in root.rglob("*") if path.is_file()):
    told = {"file": path.relative_to(root).as_posix(), "read": None, "problem": None}
    peak()
    before, started = high_water(), time.process_time()
    try:
        header = inspect_image(path).header
        rgb = load_rgb(path)
        assert rgb.size == (header.width, header.height), (rgb.size, header)
        assert rgb.mode == "RGB"
        load_alpha(path)
        told["read"] = list(rgb.size)
    except ImageProblem as problem:
        told["problem"] = str(problem)
    except BaseException as error:
        told["defect"] = f"{type(error).__name__}: {error}"
    told["seconds"] = time.process_time() - started
    told["grown"] = high_water() - before
    print(json.dumps(told))
"""


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder Tests/images of the pinned Pillow's source package."""
    name = f"pillow-{version('pillow')}"
    package = _package(name)
    folder = tmp_path_factory.mktemp("pillow")
    with tarfile.open(package) as archive:
        wanted = [m for m in archive.getmembers() if m.name.startswith(f"{name}/Tests/images/")]
        archive.extractall(folder, members=wanted, filter="data")
    return folder / name / "Tests" / "images"


def _package(name: str) -> Path:
    if given := os.environ.get("RAREBIT_PILLOW_SOURCE"):
        return Path(given)
    folder = cache_folder() / "test-pictures"
    package = folder / f"{name}.tar.gz"
    if not package.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", "pillow", "--retries", "1", "--timeout", "20"]
        command += ["--dest", str(folder), name.replace("-", "==")]
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=FETCH_SECONDS)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"{name}'s source package could not be fetched: {error}")
    return package


def test_each_file_is_a_picture_or_one_sentence(collection: Path) -> None:
    """Never another exception, never over 5 seconds, never over 300 MB more memory."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(collection)],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    # All came to an answer: not even a crash of a decoder ended the program.
    assert done.returncode == 0, (told[-1:], done.stderr[-2000:])
    assert len(told) == sum(path.is_file() for path in collection.rglob("*")) > 800

    assert [one for one in told if "defect" in one] == []
    assert [one for one in told if one["seconds"] > MOST_SECONDS] == []
    assert [one for one in told if one["grown"] > MOST_BYTES] == []
    refused = [one for one in told if one["problem"] is not None]
    assert all("\n" not in one["problem"] and len(one["problem"]) < 300 for one in refused)
    assert all(one["problem"] for one in refused)
    # Neither everything nor nothing is a picture that can be trained on.
    assert len(told) - len(refused) > 300
    assert len(refused) > 200
    print(f"{len(told)} files: {len(told) - len(refused)} pictures, {len(refused)} refused")
