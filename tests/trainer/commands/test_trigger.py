"""``trigger`` on the command line, its JSON, and what the page asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TinyBase
from tests.trainer.commands.asking import asked
from tests.trainer.runs_for_tests import make_images
from trainer.commands.cli import main
from trainer.commands.worker import verb_table
from trainer.generation.studio import Studio
from trainer.triggers.lab import TriggerLab, open_lab


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Word lists and measurements are made once for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAREBIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        open_lab.cache_clear()
        yield


def test_json_is_as_the_design_says(capsys: pytest.CaptureFixture[str]) -> None:
    answer = asked(capsys, "trigger", "ohwx", "sks", "", "--count", "3")
    assert set(answer) == {"words", "suggestions"}
    assert [one["word"] for one in answer["words"]] == ["ohwx", "sks", ""]
    assert [one["verdict"] for one in answer["words"]] == ["good", "weak", "taken"]
    assert answer["words"][0]["pieces"] == [{"text": "ohwx</w>", "id": 47993}]
    assert len(answer["suggestions"]) == 3
    for one in answer["words"] + answer["suggestions"]:
        assert set(one) == {"word", "verdict", "pieces", "reads_like", "reasons", "known_as"}
        assert one["reasons"]


def test_text_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trigger", "sks", "\x1b[31mred", "--class-word", "car"]) == 0
    text = capsys.readouterr().out
    assert "sks: weak" in text and "rifle" in text and "48136" in text
    assert "Use instead" in text
    assert "\x1b" not in text


def test_without_words_it_suggests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = make_images(tmp_path / "images")
    assert main(["trigger", "--images", str(images)]) == 0
    assert "Suggestions" in capsys.readouterr().out


def test_pictures_have_the_same_seeds(
    tiny_base: TinyBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures"
    base = str(tiny_base("sd1"))
    assert main(["trigger", "../sks", "ohwx", "--base", base, "--pictures", str(out)]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == [f"{w}-00000{s}.png" for w in ("01-sks", "02-ohwx") for s in (1, 2, 3, 4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]
    assert "8 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ohwx", "--base", "no-such-model"], "no-such-model"),
        (["--images", "/no/such/folder"], "/no/such/folder"),
        (["--count", "0"], "--count 0"),
        (["a"] * 101, "101 words"),
        (["--pictures", "somewhere"], "needs a word"),
    ],
)
def test_mistakes_are_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trigger", *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors and "Traceback" not in errors


def test_another_base(tiny_base: TinyBase, capsys: pytest.CaptureFixture[str]) -> None:
    answer = asked(capsys, "trigger", "ohwx", "dog", "--base", tiny_base("sdxl"))
    assert [one["verdict"] for one in answer["words"]] == ["good", "taken"]


def test_the_verbs_of_the_page_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    verbs: Any = verb_table(Studio())
    arguments = {"base": "tiny-emoji", "class_word": "car", "images": None}
    suggested = verbs["trigger.suggest"](arguments, lambda *_: None)
    assert {one["verdict"] for one in suggested} == {"good"} and len(suggested) == 5
    monkeypatch.setattr(TriggerLab, "suggest", None)  # what judging costs no time for
    judged = verbs["trigger.judge"]({**arguments, "words": ["-rf", "dog"]}, lambda *_: None)
    assert [one["word"] for one in judged] == ["-rf", "dog"]
