"""What is asked of models, what is made of their answers, and what is doubtful in captions."""

from __future__ import annotations

import pytest

from trainer.captioning.wording import Wording, check_wording, report_words, without_words
from trainer.errors import UserError

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("a dog on a sofa", "a dog on a sofa"),
        ("  **A dog**, on a _sofa_.  ", "A dog, on a sofa"),
        ("Sure! Here is the caption:\n\n> a dog on a sofa", "a dog on a sofa"),
        ("```\na dog on a sofa\n```", "a dog on a sofa"),
        ("- a dog\n- on a sofa\n", "a dog, on a sofa"),
        ("1. a dog\n2) a sofa", "a dog, a sofa"),
        ("<think>It is a <b>cat</b>?</think>a dog", "a dog"),
        ("<think>endless", ""),
        ("<|im_start|>a dog<|im_end|></s>", "a dog"),
        ('Caption: "a dog on a sofa"', "a dog on a sofa"),
        ("a dog &amp; a cat &lt;3", "a dog & a cat <3"),
        ("a dog, a dog, a sofa", "a dog, a sofa"),
        ("<script>alert(1)</script>a dog", "alert(1) a dog"),
        ("a\u202edog\x1b[31m", "adog[31m"),
        ("here we see a red car", "here we see a red car"),
        ("snake_case_tag, 1girl", "snake_case_tag, 1girl"),
        ("", ""),
        ("***", ""),
    ],
)
def test_answers_become_captions(answer: str, caption: str) -> None:
    assert Wording().finish(answer) == caption


@pytest.mark.parametrize(
    ("leave_out", "answer", "caption"),
    [
        (("blue",), "a blue car on a blue street", "a car on a street"),
        (("red hat",), "a man in a red hat, smiling", "a man, smiling"),
        (("car",), "a scarf, car", "a scarf"),
        ((), "a street with the lights on, ohwx", "a street with the lights on"),
        ((), "ohwx car on a street", "car on a street"),
        (("car",), "car", ""),
    ],
)
def test_words_are_left_out(leave_out: tuple[str, ...], answer: str, caption: str) -> None:
    assert Wording(trigger="ohwx", leave_out=leave_out).finish(answer) == caption


def test_long_answers_end_at_a_comma() -> None:
    assert Wording(words=5).finish("a dog on a sofa, behind it a window") == "a dog on a sofa"
    assert Wording(words=3).finish("a dog on a sofa") == "a dog on"


def test_instructions_say_what_to_leave_out() -> None:
    thing = Wording("thing", class_word="car", leave_out=("police",)).instruction
    assert "“car”" in thing and "police" in thing and "50 words" in thing
    assert "nothing of style" in Wording("style").instruction
    assert "“person”" in Wording("person").instruction
    own = Wording(class_word="car", prompt="What colour is the {class}?").instruction
    assert own == "What colour is the car?"


def test_report_and_its_remedy() -> None:
    captions = {
        f"{n}.png": f"a shiny car, {place}"
        for n, place in enumerate(["sea", "hill", "sky", "wood", ""])
    }
    captions["4.png"] = "a car, " + "far " * 60
    captions["5.png"] = ""
    report = report_words(captions, Wording(class_word="car"))
    assert report.common == {"shiny": 4}
    assert not report.swallowed and report.over_long == ("4.png",)
    every = {name: f"shiny {text}" for name, text in captions.items() if text}
    assert report_words(every, Wording(class_word="car")).swallowed == ("shiny",)
    cleaned = without_words(captions, ["shiny"])
    assert cleaned["0.png"] == "a car, sea" and cleaned["5.png"] == ""
    assert not report_words(cleaned, Wording(class_word="car")).common
    two = without_words({"a": "a red car. It is red\na dog. It barks"}, ["red"])
    assert two == {"a": "a car. It is\na dog. It barks"}


@pytest.mark.parametrize("wording", [Wording(words=0), Wording(prompt="x" * 5000)])
def test_wrong_wordings_are_refused(wording: Wording) -> None:
    with pytest.raises(UserError):
        check_wording(wording)
