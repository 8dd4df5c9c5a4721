"""What Generate shows of a drawing: pairs of one seed, sheets that a stop leaves unfinished."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from app.client import Stopped
from app.shared import for_scripts
from app.tabs.generate import draw, drawing, grid, tab
from app.tabs.generate.drawing import AdapterSetting, Settings
from app.tabs.generate.form import GenerateForm, read_form
from tests.app.drawing_for_tests import Machine
from trainer.errors import UserError

FORM = Settings("ohwx car", adapters=(AdapterSetting("cat"),), count=2, seed=7)


@pytest.fixture(scope="module")
def form() -> Iterator[GenerateForm]:
    with gr.Blocks():
        yield GenerateForm(gr.BrowserState([]))


def last_update(form: GenerateForm, work: draw.Work) -> dict[Any, Any]:
    return list(draw.show_drawing(form, "me", [], work))[-1]


def test_every_seed_is_drawn_with_and_without(machine: Machine, form: GenerateForm) -> None:
    last = last_update(form, partial(draw.draw_pictures, FORM, True))
    asked = [(arguments["seed"], len(arguments["adapters"])) for _, arguments in machine.asked]
    assert asked == [(7, 1), (7, 0)]
    pairs = last[form.pairs]
    files = [[name.rpartition("/")[2] for name in pair] for pair in pairs]
    assert files == [["001-0.png", "002-0.png"], ["001-1.png", "002-1.png"]]
    # What is downloaded as a whole is what was wanted; the base model's stand in the slider.
    assert len(last[form.pictures].value) == 2
    assert last[form.remembered] == [name for name, _ in pairs]
    assert "Done" in last[form.status]


@pytest.mark.parametrize(
    ("settings", "compare"),
    [(FORM, False), (Settings("a car", count=2), True)],
    ids=["not asked for", "no adapter"],
)
def test_nothing_is_compared_where_there_is_nothing_to_compare(
    machine: Machine, form: GenerateForm, settings: Settings, compare: bool
) -> None:
    last = last_update(form, partial(draw.draw_pictures, settings, compare))
    assert len(machine.asked) == 1
    assert [base for _, base in last[form.pairs]] == ["", ""]


def test_a_stopped_grid_keeps_what_was_drawn(machine: Machine, form: GenerateForm) -> None:
    def stop_at_third(number: int) -> None:
        if number == 3:
            raise Stopped

    machine.before = stop_at_third
    plan = grid.read_plan(["cat", "cat@50"], "0, 0.5, 1", "one\ntwo")
    work = partial(draw.draw_grid, FORM, plan)
    last = last_update(form, work)
    assert "Stopped" in last[form.status]
    names = last[form.remembered]
    assert len(names) == 1
    assert drawing.picture_of(names[0]) is not None
    assert last[form.pairs] == [[names[0], ""]]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("No <b>room</b>.", "Make some."), "No &lt;b&gt;room&lt;/b&gt;.<br>Make some."),
        (RuntimeError("secret detail"), "a fault of Rarebit"),
    ],
)
def test_what_went_wrong_stands_where_the_pictures_would(
    machine: Machine, form: GenerateForm, error: Exception, said: str
) -> None:
    def fail(number: int) -> None:
        raise error

    machine.before = fail
    last = last_update(form, partial(draw.draw_pictures, FORM, True))
    assert said in last[form.status]
    assert "secret" not in last[form.status]
    assert form.remembered not in last


def test_the_arithmetic_of_a_grid_is_told(machine: Machine) -> None:
    told = draw.plan_in_words
    assert told([], "1", "a", "") == ""
    assert "1 adapter × 2 strengths × 1 prompt = 2 pictures" in told(["cat"], "0.5, 1", "", "a")
    assert "is no strength" in told(["cat"], "much", "", "a")
    assert "at most 60" in told(["cat", "cat@50"], " ".join(map(str, range(-10, 11))), "a\nb", "")


def test_the_api_takes_adapters_by_name(machine: Machine) -> None:
    files = draw.generate("a", "cat:0.5\n\ncat@50:1:0", count=2, seed=5)
    _, arguments = machine.asked[0]
    strengths = [(one["strength"], one["text_encoder_strength"]) for one in arguments["adapters"]]
    assert strengths == [(0.5, None), (1.0, 0.0)]
    assert all(Path(file).is_file() for file in files)
    with pytest.raises(UserError, match="17 pictures"):
        draw.generate("a", count=17)


@pytest.mark.parametrize(
    ("wrong", "said"), [({"count": "3"}, "count: "), ({"seed": None}, "seed: ")]
)
def test_wrong_types_are_refused_by_name(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(gr.Error, match=said):
        for_scripts(draw.generate)("a", **wrong)


def test_the_form_says_what_is_in_it(form: GenerateForm) -> None:
    rows: list[Any] = ["cat", 0.5, 0.25, "", 1.0, 1.0, None, 1, 1, "file/a.safetensors", 1, 2]
    plain: list[Any] = ["a", None, "", 3, 0, 25, 5, None, 96]
    assert len(form.settings) == len(plain) + 1 + len(rows)
    expected = Settings("a", "", (), "tiny-emoji", 3, 0, 25, 5.0, 0, 96)
    together = read_form([*plain, False, *rows])
    assert together.__dict__ | {"adapters": ()} == expected.__dict__
    assert together.adapters == (
        AdapterSetting("cat", 0.5),
        AdapterSetting("file/a.safetensors", 1.0),
    )
    apart = read_form([*plain, True, *rows])
    assert [one.text_encoder_strength for one in apart.adapters] == [0.25, 2.0]


@pytest.mark.parametrize(
    ("seed", "width", "height", "said"),
    [(-1, 0, 0, "Seed is -1"), (2**31, 0, 0, "Seed is"), (1, 5000, 0, "Width is 5000"),
     (1, 0, -8, "Height is -8")],
)  # fmt: skip
def test_a_number_out_of_range_is_named(seed: int, width: int, height: int, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        read_form(["a", "", "", 1, seed, 25, 5, width, height, False])
    assert "Give a number from 0 to" in refused.value.hint


def test_an_empty_seed_is_a_new_one() -> None:
    plain = ["a", "", "", 1, None, 25, 5, 0, 0, False]
    assert len({read_form(plain).seed for _ in range(5)}) > 1


def test_a_reloaded_form_is_as_it_was_without_what_is_gone(
    machine: Machine, form: GenerateForm
) -> None:
    plain: list[Any] = ["a", "b", "tiny-emoji", 3, 7, 20, 4, 0, 0, True]
    rows: list[Any] = ["cat", 0.5, 0.25, "gone", 1.0, 1.0, "", 1.0, 1.0, "", 1.0, 1.0]
    recalled = tab._recall([*plain, *rows])
    assert len(recalled) == len(form.settings) + len(form.rows) - 1
    assert recalled[:10] == plain and recalled[11:13] == [0.5, 0.25]
    assert [recalled[at].value for at in (10, 13)] == ["cat", ""]
    for other in ({}, [], None, "a"):
        assert len(tab._recall(other)) == len(recalled)
