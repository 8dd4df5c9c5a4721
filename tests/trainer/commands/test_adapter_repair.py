"""``adapter tune``, ``together`` and ``resize --keep-likeness``: as documented, and as refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import TinyBase
from tests.trainer.commands.asking import asked
from tests.trainer.commands.test_adapter import ALL_DOCUMENTED
from tests.trainer.runs_for_tests import make_images, measure_quickly, small_config, train_small
from trainer.commands.cli import main
from trainer.lora.metadata import CONFIG_KEY
from trainer.lora.reading import read_adapter
from trainer.lora.writing import write_adapter

MEASURED = [line for line in ALL_DOCUMENTED if "--images" in line]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch)
        yield


@pytest.fixture(scope="module")
def trained(tiny_base: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, a run of theirs, and two adapters as other trainers leave them."""
    folder = tmp_path_factory.mktemp("repair")
    make_images(folder / "pictures")
    (folder / "my-base").symlink_to(tiny_base("sd1"))
    config = small_config(folder / "my-base", folder / "pictures", training__steps=12)
    result, _ = train_small(config, folder / "run")
    own = read_adapter(result.run.adapter)
    metadata = {key: value for key, value in own.metadata.items() if key != CONFIG_KEY}
    for name in ("cat", "style"):
        write_adapter(replace(own, metadata=metadata), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("line", MEASURED, ids=" ".join)
def test_documented_commands(
    folder: Path, capsys: pytest.CaptureFixture[str], line: list[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.glob("*.safetensors")}
    found = asked(capsys, *line)
    assert Path(found["file"]).is_file() and Path(found["file"]) not in before
    assert "works in diffusers" in found["works"]
    assert all(path.read_bytes() == content for path, content in before.items())
    if line[1] != "resize":
        assert Path(found["board"]).is_file()
    if line[1] == "tune":
        assert found["after"]["likeness"] >= 0.97 * found["before"]["likeness"] > 0
        assert found["after"]["class_drift"] < found["before"]["class_drift"]
        metadata = read_adapter(Path(found["file"])).metadata
        assert json.loads(metadata["rarebit.tuned"]) == found["strengths"]
    if line[1] == "together":
        assert found["shares"][found["best"]] >= found["shares"]["addition"]
    capsys.readouterr()
    assert main(line) == 2  # what is there now is not replaced
    assert "exists already" in capsys.readouterr().err


def test_a_run_knows_its_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapter", "tune", "run/adapter.safetensors", "--out", "a.safetensors"]) == 0
    said = capsys.readouterr().out
    assert "Before and after" in said and "a.board.png" in said and "train --start-from" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tune cat.safetensors --base my-base", "measured on pictures"),
        ("tune cat.safetensors --images nowhere --base my-base", "nowhere is not there"),
        ("tune cat.safetensors --images pictures --keep 2", "--keep can't be 2"),
        ("tune cat.safetensors --images pictures --only style --base my-base", "Diffusion XL"),
        ("tune cat.safetensors --images pictures", "does not fit tiny-emoji"),
        ("together cat.safetensors", "This needs two adapters"),
        ("together cat.safetensors style.safetensors --images pictures", "--images 1 times"),
        ("resize cat.safetensors --out a.safetensors --rank 1 --keep-likeness 0.9", "needs one of"),
    ],
)
def test_refused(folder: Path, capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    before = {path.name for path in folder.iterdir()}
    assert main(["adapter", *line.split()]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert {path.name for path in folder.iterdir()} == before
