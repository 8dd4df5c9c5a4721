"""Captions of the page's sets: saved as typed, edited together, undone."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tabs.images import history
from app.tabs.images.captionfiles import (
    NOTHING,
    CaptionConflict,
    picture_path,
    read_caption,
    read_captions,
    save_caption,
    version_of,
)
from app.tabs.images.captions_edit import Edit, EditKind, apply_edit, preview
from app.tabs.images.imagesets import SetFolder, find_set, read_notes, write_notes
from tests.app.sets_for_tests import made, tree
from tests.trainer.data.folders_for_tests import picture, put
from trainer.data.captions import clean_caption, contains_word
from trainer.data.sets import scan_image_set
from trainer.errors import UserError

A, B, C = "0001-a.png", "0002-b.png", "0003-c.png"


@pytest.fixture
def cars(tmp_path: Path) -> SetFolder:
    return made(tmp_path, {"a": "a red car", "b": "a car, a scarf", "c": None})


# -- one caption


@pytest.mark.parametrize(
    ("typed", "saved"),
    [
        ("a blue car", b"a blue car\n"),
        ("  two\nlines \u202e", b"two lines\n"),
        ("Ä 猫 <script>alert(1)</script>", "Ä 猫 <script>alert(1)</script>\n".encode()),
        ("", None),
        ("   ", None),
    ],
)
def test_a_caption_is_an_ordinary_file(typed: str, saved: bytes | None, cars: SetFolder) -> None:
    before = read_caption(cars, A)
    after = save_caption(cars, A, typed, before.version)
    file = cars.path / "0001-a.txt"
    assert (file.read_bytes() if file.exists() else None) == saved
    assert after == read_caption(cars, A)
    found = {entry.name: entry.caption for entry in scan_image_set(cars.path).entries}
    assert found[A] == (clean_caption(typed) or None)


def test_two_tabs_never_overwrite_silently(cars: SetFolder) -> None:
    """Fault 39: the second to save is told, and shown what the first one wrote."""
    seen = read_caption(cars, A)
    mine = save_caption(cars, A, "from one tab", seen.version)
    with pytest.raises(CaptionConflict) as caught:
        save_caption(cars, A, "from the other", seen.version)
    assert caught.value.saved == mine
    assert read_caption(cars, A).text == "from one tab"
    assert save_caption(cars, A, "from the other", mine.version).text == "from the other"


def test_the_same_text_is_no_conflict(cars: SetFolder) -> None:
    seen = read_caption(cars, A)
    save_caption(cars, A, "equal", seen.version)
    assert save_caption(cars, A, " equal ", seen.version).text == "equal"


def test_many_at_once_one_wins(cars: SetFolder) -> None:
    seen, results = read_caption(cars, A), []
    barrier = threading.Barrier(8)

    def save(number: int) -> None:
        barrier.wait()
        try:
            results.append(save_caption(cars, A, f"number {number}", seen.version).text)
        except CaptionConflict as conflict:
            results.append(conflict)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = [result for result in results if isinstance(result, str)]
    assert len(results) == 8 and texts == [read_caption(cars, A).text]


def test_a_caption_deleted_elsewhere_is_a_conflict(cars: SetFolder) -> None:
    seen = read_caption(cars, A)
    (cars.path / "0001-a.txt").unlink()
    with pytest.raises(CaptionConflict) as caught:
        save_caption(cars, A, "mine", seen.version)
    assert caught.value.saved.version == NOTHING


@given(st.text(max_size=60))
def test_versions_are_equal_exactly_for_equal_captions(text: str) -> None:
    assert version_of(text) == version_of(clean_caption(text))
    assert version_of(text + "x") != version_of(text)
    assert (version_of(text) == NOTHING) == (clean_caption(text) == "")


@pytest.mark.parametrize("name", ["../0001-a.png", "/etc/passwd", "", "0001-a.txt", ".rarebit/x"])
def test_a_name_is_never_a_path(name: str, cars: SetFolder) -> None:
    for act in (picture_path, read_caption, history.remove_picture):
        with pytest.raises(UserError, match="has no picture"):
            act(cars, name)
    with pytest.raises(UserError, match="has no picture"):
        save_caption(cars, name, "x", NOTHING)


def test_sets_of_others_are_never_written_to(tmp_path: Path) -> None:
    put(tmp_path / "bundled", {"a.png": picture(1), "a.txt": "a"})
    bundled, before = find_set(tmp_path, "bundled"), tree(tmp_path / "bundled")
    for act in (
        lambda: save_caption(bundled, "a.png", "x", version_of("a")),
        lambda: apply_edit(bundled, Edit("front", "x"), {"a.png": "a"}),
        lambda: history.remove_picture(bundled, "a.png"),
    ):
        with pytest.raises(UserError, match="read only"):
            act()
    write_notes(bundled, read_notes(bundled).__class__(trigger="ohwx", class_word="car"))
    assert read_notes(bundled).trigger == "ohwx"
    assert tree(tmp_path / "bundled") == before


# -- many captions


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (Edit("front", "ohwx"), "a car", "ohwx, a car"),
        (Edit("front", "ohwx"), "an OHWX car", "an OHWX car"),
        (Edit("front", "ohwx"), "", "ohwx"),
        (Edit("front", "photo, "), "a car", "photo, a car"),
        (Edit("front", "photo,"), "", "photo"),
        (Edit("end", ", white,"), "a car", "a car, white"),
        (Edit("end", "white background"), "a car", "a car, white background"),
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
    ],
)
def test_edits(edit: Edit, before: str, after: str) -> None:
    assert edit.apply(before) == after
    changes = preview({"x.png": before, "y.png": "untouched thing, ohwx, white background"}, edit)
    shown = [(change.before, change.after) for change in changes if change.picture == "x.png"]
    assert shown == ([(before, after)] if before != after else [])


@given(st.sampled_from(["front", "end", "remove", "replace"]), st.text(max_size=12), st.text())
def test_edits_give_clean_captions(kind: EditKind, text: str, caption: str) -> None:
    cleaned = clean_caption(caption)
    try:
        changes = preview({"x": cleaned}, Edit(kind, text, "other"))
    except UserError:
        assert not clean_caption(text)
        return
    for change in changes:
        assert change.after == clean_caption(change.after) != change.before
        if kind == "front":
            assert contains_word(change.after, clean_caption(text))


def test_an_edit_and_its_undo(cars: SetFolder) -> None:
    before = tree(cars.path)
    seen = read_captions(cars)
    changes = apply_edit(cars, Edit("front", "ohwx"), seen)
    assert read_captions(cars) == {A: "ohwx, a red car", B: "ohwx, a car, a scarf", C: "ohwx"}
    assert len(changes) == 3
    assert "Undone in 3 captions" in history.undo(find_set(cars.path.parent, cars.id))
    assert read_captions(cars) == seen
    after = tree(cars.path)
    assert after.pop(".rarebit/history.json") == b"[]\n"
    assert after == before


def test_undo_spares_what_was_changed_later(cars: SetFolder) -> None:
    apply_edit(cars, Edit("replace", "car", "bus"), read_captions(cars))
    save_caption(cars, A, "typed later", read_caption(cars, A).version)
    message = history.undo(cars)
    assert "Undone in 1 captions" in message and A in message
    assert read_captions(cars) == {A: "typed later", B: "a car, a scarf", C: ""}


def test_an_edit_of_what_has_changed_since_is_refused(cars: SetFolder) -> None:
    seen = read_captions(cars)
    save_caption(cars, B, "changed", read_caption(cars, B).version)
    now = tree(cars.path)
    with pytest.raises(UserError, match="changed since the preview"):
        apply_edit(cars, Edit("front", "ohwx"), seen)
    assert tree(cars.path) == now


@pytest.mark.parametrize("text", ["", " ", "\u200b", "x" * 501])
def test_edits_of_nothing_and_of_too_much_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        preview({"x.png": "a"}, Edit("front", text))


# -- removed pictures


def test_a_removed_picture_comes_back(cars: SetFolder) -> None:
    before = tree(cars.path)
    history.remove_picture(cars, A)
    assert sorted(read_captions(cars)) == [B, C]
    assert [entry.name for entry in scan_image_set(cars.path).entries] == [B, C]
    assert [entry.what for entry in history.entries(cars)] == [f"{A} removed"]
    assert history.undo(cars) == f"{A} is back."
    after = tree(cars.path)
    after.pop(".rarebit/history.json")
    assert after == before


def test_undo_goes_back_step_by_step(cars: SetFolder) -> None:
    before = read_captions(cars)
    for number in range(history.KEPT + 3):
        apply_edit(cars, Edit("end", f"x{number}"), read_captions(cars))
    for _ in range(history.KEPT):
        history.undo(cars)
    assert read_captions(cars)[C] == "x0, x1, x2"
    with pytest.raises(UserError, match="nothing to undo"):
        history.undo(cars)
    assert before[C] == ""


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "{}",
        "[1, null, {}]",
        '[{"what": 3, "picture": "", "folder": "", "captions": {}}]',
        "[" * 100_000,
    ],
)
def test_a_damaged_history_is_an_empty_one(content: str, cars: SetFolder) -> None:
    (cars.hidden / "history.json").write_text(content)
    assert history.entries(cars) == []


def test_a_forged_history_reaches_nothing_outside(cars: SetFolder, tmp_path: Path) -> None:
    put(tmp_path / "victim", {"secret.png": picture(5)})
    forged = {"what": "x", "picture": "../../../up.png", "folder": "../../../victim"}
    (cars.hidden / "history.json").write_text(json.dumps([{**forged, "captions": {}}]))
    with pytest.raises(UserError):
        history.undo(cars)
    assert (tmp_path / "victim" / "secret.png").exists()


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"names": 3, "trigger": 5}', '{"names": {"a": 1}}']
)
def test_damaged_notes_are_empty_ones(content: str, cars: SetFolder) -> None:
    (cars.hidden / "set.json").write_text(content)
    assert read_notes(cars).trigger == "" and read_notes(cars).names == {}
