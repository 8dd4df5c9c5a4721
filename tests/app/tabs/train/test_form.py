"""What the Train form counts: of one subject or several, that which is shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

from app.forms import CONCEPTS, form_values, mistakes_by_field, read_form
from app.tabs.images.imagesets import find_set, subjects_in
from app.tabs.train.form import SINGLE, TrainForm
from app.tabs.train.tab import _add_prompt, _choose_set
from tests.trainer.data.folders_for_tests import picture, put
from trainer.config.fields import all_fields
from trainer.config.file import ConfigError
from trainer.config.presets import QUESTIONS
from trainer.config.schema import TrainingConfig

LINES = "cats | ohwx | cat\ndogs | zkrv | dog | 2"


@pytest.fixture(scope="module")
def form() -> Iterator[TrainForm]:
    with gr.Blocks():
        yield TrainForm(gr.BrowserState({}))


@pytest.mark.parametrize("kind", QUESTIONS["kind"].answers)
def test_what_is_hidden_does_not_count_and_stays(form: TrainForm, kind: str) -> None:
    shown = dict(zip(form.names, form_values(TrainingConfig()), strict=True))
    shown |= dict(zip(SINGLE, ("cars", "sks", "car"), strict=True)) | {CONCEPTS: LINES}
    answers = {"kind": kind, "length": "quick", "hold": None}
    config = form.read(*shown.values(), *answers.values())
    if kind == "several":
        assert [one.trigger for one in config.concepts] == ["ohwx", "zkrv"]
        assert [one.repeats for one in config.concepts] == [1, 2]
        assert config.captions.trigger == ""
    else:
        assert not config.concepts and config.captions.trigger == "sks"


def test_a_subject_without_a_word_is_asked_for_one() -> None:
    shown = form_values(TrainingConfig())[:-1]
    with pytest.raises(ConfigError) as caught:
        read_form([*shown, "cats | ohwx\ndogs"])
    said = mistakes_by_field(caught.value)[CONCEPTS]
    assert said == "Line 2, trigger: give a rare word behind the first |, such as ohwx."


def test_no_explanation_of_the_page_names_a_paper(form: TrainForm) -> None:
    told = [str(getattr(field, "info", "")) for field in form.fields.values()]
    assert not [text for text in told if "arXiv" in text]
    assert any("arXiv" in field.description for field in all_fields().values())


def test_a_set_of_folders_is_as_many_subjects(tmp_path: Path) -> None:
    put(tmp_path / "both", {"bear/a.png": picture(1), "bird/b.png": picture(2)})
    put(tmp_path / "one", {"a.png": picture(1), "more/b.png": picture(2)})
    both = subjects_in(find_set(tmp_path, "both"))
    assert [path.name for path in both] == ["bear", "bird"]
    assert [path.name for path in subjects_in(find_set(tmp_path, "one"))] == ["one"]


def test_a_choice_that_is_told_twice_changes_nothing() -> None:
    """The second time the words of before come with it, which would be noted with the new set."""
    assert set(map(str, _choose_set("cats", "cats", "zwx", "dog"))) == {str(gr.skip())}


def test_words_that_a_choice_leaves_as_they_are_are_not_sent() -> None:
    """More may have been typed since, which an answer on its way would undo."""
    _, *shown, trigger, class_word, _ = _choose_set("cats", "", "zwx", "")
    assert list(map(str, shown)) == [str(gr.skip())] * 2 and (trigger, class_word) == ("zwx", "")


@pytest.mark.parametrize(
    ("known", "then"),
    [("", "on the moon"), ("a car\n\nb", "a car\nb\non the moon"), ("on the moon", "on the moon")],
    ids=["none", "two", "there already"],
)
def test_a_drawn_prompt_stands_among_those_of_the_previews(known: str, then: str) -> None:
    assert _add_prompt(("on the moon", 1.0), {"previews.prompts": known}) == then
