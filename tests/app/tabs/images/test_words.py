"""Words and captions as the worker judges them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gradio as gr
import pytest

from app import client as service
from app.tabs.images import words as images_words
from app.tabs.images.imagesets import SetNotes, find_set, read_notes, write_notes
from app.tabs.images.layout import html
from tests.app.tabs.images.test_setview import harmless
from tests.trainer.data.folders_for_tests import picture, put
from trainer import places
from trainer.errors import UserError

Answer = Callable[[object], list[tuple[str, dict[str, object]]]]


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Makes the worker answer; gives what it was asked. There is a set named cars."""
    put(tmp_path / "cars", {"a.png": picture(1)})
    monkeypatch.setattr(places, "DATASETS", tmp_path)

    def prepare(value: object) -> list[tuple[str, dict[str, object]]]:
        asked = []

        def call(verb: str, arguments: dict[str, object], timeout: float) -> object:
            asked.append((verb, arguments))
            if isinstance(value, UserError):
                raise value
            return value

        monkeypatch.setattr(service, "call", call)
        return asked

    return prepare


def test_captions_are_measured(answer: Answer, tmp_path: Path) -> None:
    write_notes(find_set(tmp_path, "cars"), SetNotes(trigger="ohwx"))
    asked = answer({"cut_captions": ["<b>.png"]})
    waiting, (words, _) = images_words.measure("cars", "tiny-emoji")
    assert waiting[0] == ""
    assert "1 caption of more tokens" in words and "&lt;b&gt;.png" in words
    arguments = {"folder": str(tmp_path / "cars"), "base": "tiny-emoji", "trigger": "ohwx"}
    assert asked == [("check-images", arguments)]


@pytest.mark.parametrize(
    ("count", "said"), [(0, "Every caption is read whole"), (25, "and 5 more")]
)
def test_too_long_captions_in_words(count: int, said: str) -> None:
    assert said in harmless(html("measured", [f"{n}.png" for n in range(count)])).text


def test_a_worker_that_cannot(answer: Answer) -> None:
    answer(UserError("The device is busy.", "Wait."))
    *_, (words, _) = images_words.measure("cars", "tiny-emoji")
    assert "The device is busy." in words
    *_, (verdict, _) = images_words.judge("cars", "ohwx", "", "tiny-emoji")
    assert "No verdict: The device is busy." in str(verdict)
    *_, (_, verdict, _) = images_words.suggest("cars", "", "", "tiny-emoji")
    assert "No verdict: The device is busy." in str(verdict)


def test_a_word_is_judged_and_words_are_suggested(answer: Answer, tmp_path: Path) -> None:
    """By verbs of their own: a verdict, which every pause in typing asks for, suggests nothing."""
    judged = {"word": "ohwx", "verdict": "good", "reads_like": ["ox"], "reasons": ["It is rare."]}
    judged["known_as"] = "the weather in Ohio"
    judged["pieces"] = [{"text": "oh", "id": 1}, {"text": "wx</w>", "id": 2}]
    asked = answer([judged])
    (waiting, _), (verdict, _) = images_words.judge("cars", "ohwx", "car", "tiny-emoji")
    assert "Looking at “ohwx”" in str(waiting)
    head, why = " ".join(harmless(str(verdict)).text.split()).split(" Why ")
    assert head == "Good ohwx Nobody else means anything by it."
    for part in ("The base model reads oh + wx.", "Nearest to: ox.", "It is rare."):
        assert part in why
    *_, (choices, _, _) = images_words.suggest("cars", "", "car", "tiny-emoji")
    assert isinstance(choices, gr.Radio) and choices.choices == [
        ("ohwx – known elsewhere as the weather in Ohio", "ohwx")
    ]
    about = {"base": "tiny-emoji", "class_word": "car", "images": str(tmp_path / "cars")}
    assert asked == [("trigger.judge", {**about, "words": ["ohwx"]}), ("trigger.suggest", about)]
    assert [said for said, _ in images_words.judge("cars", " ", "", "tiny-emoji")] == [""]


def test_a_doubtful_word_gets_one_line_and_a_better_word(answer: Answer) -> None:
    judged = {"word": "cat", "verdict": "taken", "pieces": [], "reads_like": []}
    asked = answer([{**judged, "reasons": ["It is a word.", "number 2368"], "known_as": ""}])
    *_, (_, better) = images_words.judge("cars", "cat", "", "tiny-emoji")
    assert isinstance(better, gr.Radio) and better.label == "A better word"
    assert [verb for verb, _ in asked] == ["trigger.judge", "trigger.suggest"]
    assert asked[1][1]["count"] == 1


def test_words_are_noted_with_their_set(answer: Answer, tmp_path: Path) -> None:
    assert images_words.remember("cars", " ohwx\n", "car") == ("ohwx", "car")
    assert images_words.take("zwx", "cars", "car") == ("zwx", "zwx", "car")
    assert read_notes(find_set(tmp_path, "cars")) == SetNotes(trigger="zwx", class_word="car")
    assert images_words.remember("", "x", "y") == ("x", "y")


@pytest.mark.parametrize(
    ("chosen", "former", "words", "expected"),
    [
        ("cats", "cars", ("ohwx", "car"), ("zwx", "cat")),  # those of the set
        ("cats", "", ("", ""), ("zwx", "cat")),
        ("new", "cars", ("ohwx", "car"), ("", "")),  # never another set's
        ("new", "cars", ("bnha", "car"), ("bnha", "")),  # but what was typed
        ("new", "gone", ("bnha", "dog"), ("bnha", "dog")),
        ("elsewhere/dogs", "cars", ("bnha", "car"), ("bnha", "")),
    ],
)
def test_words_follow_a_set_that_another_tab_chose(
    chosen: str,
    former: str,
    words: tuple[str, str],
    expected: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places, "DATASETS", tmp_path)
    for name in ("cars", "cats", "new"):
        put(tmp_path / name, {"a.png": picture(1)})
    write_notes(find_set(tmp_path, "cars"), SetNotes(trigger="ohwx", class_word="car"))
    write_notes(find_set(tmp_path, "cats"), SetNotes(trigger="zwx", class_word="cat"))
    assert images_words.of_chosen(chosen, former, *words) == expected
    if chosen == "new":
        notes = read_notes(find_set(tmp_path, "new"))
        assert (notes.trigger, notes.class_word) == expected
