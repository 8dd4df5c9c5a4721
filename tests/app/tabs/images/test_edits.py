"""Captions edited together, pictures removed, and all of it undone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tabs.images.captions import read_captions, save_caption, version_of
from app.tabs.images.edits import (
    MOST_ENTRIES,
    Edit,
    EditKind,
    apply_edit,
    history,
    preview,
    remove_picture,
    set_focus,
    undo,
)
from app.tabs.images.imagesets import SetFolder, find_set
from app.tabs.images.storage import copy_set
from tests.app.sets_for_tests import made, tree
from tests.trainer.data.folders_for_tests import picture, put
from trainer.data.buckets import Focus
from trainer.data.captions import clean_caption, contains_word
from trainer.data.sets import scan_image_set
from trainer.errors import UserError

A, B, C = "0001-a.png", "0002-b.png", "0003-c.png"


@pytest.fixture
def cars(tmp_path: Path) -> SetFolder:
    return made(tmp_path, {"a": "a red car", "b": "a car, a scarf", "c": None})


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (Edit("front", "ohwx"), "a car", "ohwx, a car"),
        (Edit("front", "ohwx"), "an OHWX car", "an OHWX car"),
        (Edit("front", "ohwx"), "", "ohwx"),
        (Edit("front", "photo, "), "a car", "photo, a car"),
        (Edit("front", "photo,"), "", "photo"),
        (Edit("end", ", white,"), "a car", "a car, white"),
        (Edit("end", "white background"), "", "white background"),
        (Edit("remove", "red"), "a red car, red, scarred", "a car, scarred"),
        (Edit("remove", "red"), "red", ""),
        (Edit("remove", "red", whole_words=False), "scarred red", "scar"),
        (Edit("replace", "car", "automobile"), "a Car in a scarf", "a automobile in a scarf"),
        (Edit("replace", "car", "x", whole_words=False), "car scarf", "x sxf"),
        (Edit("replace", "red car", "bus"), "a red  car", "a bus"),
        (Edit("replace", "car", r"\1 \g<0>"), "a car", r"a \1 \g<0>"),
        (Edit("replace", ".", "!", whole_words=False), "a.b", "a!b"),
        (Edit("replace", "(", "[", whole_words=True), "a (b", "a [b"),
        (Edit("replace", "car", ""), "a car here", "a here"),
        # Each line is edited by itself.
        (Edit("front", "ohwx"), "a red car\nblue", "ohwx, a red car\nohwx, blue"),
        (Edit("remove", "red"), "a red car\nblue", "a car\nblue"),
        (Edit("remove", "blue"), "a red car\nblue", "a red car"),
        (Edit("replace", "blue", "green"), "a red car\nblue", "a red car\ngreen"),
    ],
)
def test_edits(edit: Edit, before: str, after: str) -> None:
    assert edit.apply(before) == after
    changes = preview({"x.png": before, "y.png": "untouched thing, ohwx, white background"}, edit)
    shown = [(change.before, change.after) for change in changes if change.picture == "x.png"]
    assert shown == ([(before, after)] if before != after else [])


@given(st.sampled_from(["front", "end", "remove", "replace"]), st.text(max_size=12), st.text())
def test_edits_give_clean_captions(kind: EditKind, text: str, caption: str) -> None:
    try:
        changes = preview({"x": clean_caption(caption)}, Edit(kind, text, "other"))
    except UserError:
        assert not clean_caption(text)
        return
    for change in changes:
        assert change.after == clean_caption(change.after) != change.before
        if kind == "front":
            assert contains_word(change.after, clean_caption(text))


@pytest.mark.parametrize("text", ["", " ", "\u200b", "x" * 501])
def test_edits_of_nothing_and_of_too_much_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        preview({"x.png": "a"}, Edit("front", text))


def test_an_edit_and_its_undo(cars: SetFolder) -> None:
    before, seen = tree(cars.path), read_captions(cars)
    changes = apply_edit(cars, Edit("front", "ohwx"), seen)
    assert read_captions(cars) == {A: "ohwx, a red car", B: "ohwx, a car, a scarf", C: "ohwx"}
    assert len(changes) == 3
    assert "Undone in 3 captions" in undo(find_set(cars.path.parent, cars.id))
    assert read_captions(cars) == seen
    after = tree(cars.path)
    assert json.loads(after.pop(".rarebit/history.json")) == []
    assert after == before


def test_what_was_changed_later_is_spared(cars: SetFolder) -> None:
    """By undo, which names it; an edit of captions that have changed since is refused."""
    seen = read_captions(cars)
    apply_edit(cars, Edit("replace", "car", "bus"), seen)
    save_caption(cars, A, "typed later", version_of("a red bus"))
    now = tree(cars.path)
    with pytest.raises(UserError, match="changed since the preview"):
        apply_edit(cars, Edit("front", "ohwx"), seen)
    assert tree(cars.path) == now
    message = undo(cars)
    assert "Undone in 1 captions" in message and A in message
    assert read_captions(cars) == {A: "typed later", B: "a car, a scarf", C: ""}


def test_a_removed_picture_comes_back(cars: SetFolder) -> None:
    before = tree(cars.path)
    remove_picture(cars, A)
    assert sorted(read_captions(cars)) == [B, C]
    assert [entry.name for entry in scan_image_set(cars.path).entries] == [B, C]
    assert [done.what for done in history(cars)] == [f"{A} removed"]
    assert undo(cars) == f"{A} is back."
    after = tree(cars.path)
    after.pop(".rarebit/history.json")
    assert after == before


def test_undo_goes_back_step_by_step(cars: SetFolder) -> None:
    for number in range(MOST_ENTRIES + 3):
        apply_edit(cars, Edit("end", f"x{number}"), read_captions(cars))
    for _ in range(MOST_ENTRIES):
        undo(cars)
    assert read_captions(cars)[C] == "x0, x1, x2"
    with pytest.raises(UserError, match="nothing to undo"):
        undo(cars)


@pytest.mark.parametrize("content", ["not json", "{}", "[1, null, {}]", "[" * 100_000])
def test_a_damaged_history_is_an_empty_one(content: str, cars: SetFolder) -> None:
    (cars.hidden / "history.json").write_text(content)
    assert history(cars) == []


def test_a_history_of_an_earlier_version_is_read(cars: SetFolder) -> None:
    entry = {"what": "x", "picture": "", "folder": "", "captions": {A: ["before", "a red car"]}}
    (cars.hidden / "history.json").write_text(json.dumps([entry]))
    undo(cars)
    assert read_captions(cars)[A] == "before"


def test_a_forged_history_reaches_nothing_outside(cars: SetFolder, tmp_path: Path) -> None:
    put(tmp_path / "victim", {"secret.png": picture(5)})
    forged = {"what": "x", "picture": "../../../up.png", "folder": "../../../victim"}
    (cars.hidden / "history.json").write_text(json.dumps([{**forged, "captions": {}}]))
    with pytest.raises(UserError):
        undo(cars)
    assert (tmp_path / "victim" / "secret.png").exists()


def test_the_middle_of_a_crop_goes_with_its_picture(cars: SetFolder, tmp_path: Path) -> None:
    set_focus(cars, A, Focus(0.25, 0.5))
    copy = copy_set(tmp_path / "datasets", cars)
    entries = {entry.name: entry for entry in scan_image_set(copy.path).entries}
    assert [entries[name].focus for name in (A, B)] == [Focus(0.25, 0.5), None]
    assert (cars.path / "0001-a.focus").exists()
    remove_picture(cars, A)
    assert not [name for name in tree(cars.path) if name.startswith("0001")]
    undo(cars)
    assert scan_image_set(cars.path).entries[0].focus == Focus(0.25, 0.5)
    set_focus(cars, A, None)
    assert scan_image_set(cars.path).entries[0].focus is None


def test_turns_and_crops_are_undone(cars: SetFolder) -> None:
    """One by one, captions left as they are; what has changed on the disk since is left alone."""
    views = [Focus(0.25, 0.5), Focus(turns=1, mirrored=True), Focus(box=(0.1, 0, 0.9, 0.5)), None]
    for view in views:
        set_focus(cars, A, view)
        set_focus(cars, A, view)  # no change, and nothing to undo
    before = read_captions(cars)
    for view in (*views[2::-1], None):
        assert undo(cars) == f"Undone: crop of {A}."
        assert scan_image_set(cars.path).entries[0].focus == view
    assert not history(cars) and read_captions(cars) == before
    set_focus(cars, A, views[0])
    (cars.path / "0001-a.focus").write_text("0.1 0.1")
    assert "Left alone" in undo(cars)
    assert scan_image_set(cars.path).entries[0].focus == Focus(0.1, 0.1)
