"""A training opens with what ``check-images`` says, no more and no less."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, small_config, train_small
from trainer.commands.cli import main
from trainer.events import ImagesRead, Warned


def test_training_says_what_check_images_says(
    tiny_base: TinyBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAREBIT_CACHE", str(tmp_path / "cache"))
    images = make_images(tmp_path / "images")
    (images / "0.txt").write_text("a thing, " * 100)
    (images / "1.txt").unlink()
    (images / "cut.png").write_bytes((images / "2.png").read_bytes()[:90])
    Image.new("L", (32, 32), 255).save(images / "3.mask.png")
    base = tiny_base("sd1")
    words = {"captions__trigger": "man", "captions__class_word": "thing"}
    config = small_config(base, images, images__masks="files", training__steps=1, **words)

    collected = train_small(config, tmp_path / "run")[1]
    arguments = ["check-images", str(images), "--base", str(base), "--resolution", "32"]
    arguments += ["--trigger", "man", "--class-word", "thing", "--masks", "files", "--json"]
    capsys.readouterr()
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)

    opened = collected.of(ImagesRead)
    assert opened[0].summary == (
        "4 pictures, 1 left out, 3 captions, 1 over 75 tokens, 1 cut, masks 1 of 4"
    )
    said = [event.message.partition(": ")[2] for event in collected.of(Warned)]
    graver = [one["message"] for one in report["findings"] if one["severity"] != "note"]
    assert said == graver
    for words_of in ("cut off", "225 tokens", "No mask", "No caption", "trigger word 'man'"):
        assert any(words_of in message for message in said), words_of
