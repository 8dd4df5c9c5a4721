"""What is not ours is neither changed nor deleted."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, measure_quickly, small_config
from trainer.commands.cli import main
from trainer.config.file import write_config


def everything_of(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, time of change and content's hash of all that lies in a folder, by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        name = str(path.relative_to(folder))
        found[name] = (facts.st_mode, facts.st_mtime_ns, hashlib.sha256(data).hexdigest())
    return found


def test_commands_only_read_the_image_set(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image set, the base model and the folder that the commands are started in."""
    measure_quickly(monkeypatch)
    monkeypatch.setenv("RAREBIT_CACHE", str(tmp_path / "ours" / "cache"))
    yours = tmp_path / "yours"
    yours.mkdir()
    monkeypatch.chdir(yours)
    base = shutil.copytree(tiny_base("sd1"), yours / "base")
    images = make_images(yours / "images", count=3)
    (images / "sub").mkdir()
    shutil.copy(images / "0.png", images / "sub" / "copy.png")
    (images / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    (images / "notes.md").write_text("mine")
    (images / "link.png").symlink_to(images / "1.png")
    config = small_config(
        base,
        images,
        training__steps=2,
        images__flip=True,
        evaluation__enabled=True,
        evaluation__board=0,
    )
    file = tmp_path / "ours" / "config.toml"
    file.parent.mkdir()
    write_config(file, config)
    before = everything_of(yours)

    run = str(tmp_path / "ours" / "run")
    assert main(["check-images", str(images), "--base", str(base), "--trigger", "ohwx"]) == 0
    assert main(["train", "--config", str(file), "--run", run]) == 0
    assert main(["resume", run]) == 0
    assert main(["evaluate", run, "--json"]) == 0
    assert main(["trigger", "ohwx", "--base", str(base), "--images", str(images)]) == 0
    adapter = str(Path(run) / "adapter.safetensors")
    assert main(["adapter", "verify", adapter]) == 0
    assert everything_of(yours) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_image_set_is_enough(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", count=2)
    images.chmod(0o555)
    try:
        assert main(["check-images", str(images), "--trigger", "ohwx"]) == 0
    finally:
        images.chmod(0o755)


def test_a_refused_training_takes_no_folder_that_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An existing folder given as run is refused, whatever is in it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    images = make_images(tmp_path / "images", count=1)
    arguments = ["train", "--images", str(images), "--trigger", "ohwx", "--run", str(folder)]
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert (folder / "thesis.txt").read_text() == "years of work"
