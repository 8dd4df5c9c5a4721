"""Grids: the arithmetic, what is drawn once, and the sheet."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.tabs.generate import grid
from app.tabs.generate.drawing import AdapterSetting, Settings
from app.tabs.generate.grid import GridCell, GridPlan
from tests.app.drawing_for_tests import Machine
from trainer.data.images import read_texts
from trainer.errors import UserError

ROWS = (("cat", "cat"), ("cat at step 50", "cat@50"))


def test_the_base_model_is_drawn_once_for_each_prompt() -> None:
    plan = GridPlan(ROWS, (0.0, 0.5, 1.0), ("one", "two"))
    cells = plan.cells()
    assert len(cells) == len(set(cells)) == 2 + 2 * 2 * 2
    assert {cell for cell in cells if not cell.adapter} == {
        GridCell("one", "", 0.0),
        GridCell("two", "", 0.0),
    }
    assert plan.arithmetic() == (
        "2 adapters × 3 strengths × 2 prompts = 12 pictures, 10 of them different: "
        "at strength 0 every adapter is the base model"
    )
    assert GridPlan(ROWS[:1], (1.0,), ("one",)).arithmetic() == (
        "1 adapter × 1 strength × 1 prompt = 1 picture"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0, 0.5, 1", (0.0, 0.5, 1.0)), ("1;1 -0.5", (1.0, -0.5)), ("", ()), (" , ", ())],
)
def test_strengths_are_read(text: str, expected: tuple[float, ...]) -> None:
    assert grid.read_strengths(text) == expected


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (("0,5", "0, 0,5, 1", "1,2,3"), "one number or two"),
        (("one", "nan", "0.5, inf", "11", "0.5.1"), "is no strength"),
    ],
)
def test_what_is_no_strength_is_named(texts: tuple[str, ...], said: str) -> None:
    for text in texts:
        with pytest.raises(UserError, match=said):
            grid.read_strengths(text)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (GridPlan((), (1.0,), ("a",)), "no adapter"),
        (GridPlan(ROWS, (), ("a",)), "no strength"),
        (GridPlan(ROWS, (1.0,), ()), "no prompt"),
        (
            GridPlan(ROWS, tuple(map(float, range(1, 9))), tuple("abcd")),
            "64 pictures. A grid has at",
        ),
    ],
)
def test_too_little_and_too_much_are_refused(plan: GridPlan, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan.check()


def test_the_largest_grid_is_allowed() -> None:
    GridPlan(ROWS, tuple(map(float, range(1, 11))), tuple("abc")).check()


def test_a_plan_is_read_from_the_form(machine: Machine) -> None:
    plan = grid.read_plan(["cat@50", "cat@50"], "1", "one\n\n  two \none")
    assert plan == GridPlan((("cat at step 50", "cat@50"),), (1.0,), ("one", "two"))


def test_a_cell_keeps_the_forms_seed_and_size() -> None:
    form = Settings("x", "bad", (AdapterSetting("other"),), count=4, seed=7, width=64)
    one = AdapterSetting("cat", 0.5)
    cell = grid.settings_of(GridCell("one", "cat", 0.5), form)
    assert cell == Settings("one", "bad", (one,), count=1, seed=7, width=64)
    assert grid.settings_of(GridCell("one", "", 0.0), form).adapters == ()


def test_every_picture_is_in_its_place(machine: Machine) -> None:
    plan = GridPlan(ROWS, (0.0, 1.0), ("a prompt", "another " * 60))
    drawn: dict[GridCell, Path] = {}
    for number, cell in enumerate(plan.cells()[:-1]):
        path = machine.root / f"{number}.png"
        Image.new("RGB", (16, 16), (40 * number, 10, 200)).save(path)
        drawn[cell] = path
    sheet = grid.save_sheet(plan, drawn, Settings("x", seed=5))
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for number, cell in enumerate(drawn):
        places = 2 if not cell.adapter else 1  # the base model stands in both rows
        found = (pixels == (40 * number, 10, 200)).all(axis=1).sum()
        assert math.isclose(found, places * 160 * 160, rel_tol=0.02), cell
    facts = json.loads(read_texts(sheet)["rarebit"])
    assert (facts["prompt"], facts["seed"]) == ("a prompt", 5)
    assert facts["grid"]["strengths"] == [0.0, 1.0]
