"""One caption: saved as typed, into a copy where a set is read only, never over another tab's."""

from __future__ import annotations

import copy
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tabs.images.captions import (
    NOTHING,
    CaptionConflict,
    CaptionSession,
    read_caption,
    save_caption,
    version_of,
)
from app.tabs.images.edits import Edit, apply_edit, remove_picture
from app.tabs.images.imagesets import (
    SetFolder,
    SetNotes,
    find_set,
    list_sets,
    picture_path,
    read_notes,
    write_notes,
)
from app.tabs.images.uploads import store_uploads
from tests.app.sets_for_tests import made, tree, upload
from tests.trainer.data.folders_for_tests import picture, put
from trainer.data.captions import clean_lines
from trainer.data.sets import scan_image_set
from trainer.errors import UserError

A = "0001-a.png"
RED = version_of("a red car")


@pytest.fixture
def cars(tmp_path: Path) -> SetFolder:
    return made(tmp_path, {"a": "a red car", "b": "a car"})


@pytest.fixture
def bundled(tmp_path: Path) -> SetFolder:
    files = {"a.png": picture(1), "a.txt": "a car", "b <i>.png": picture(2)}
    return find_set(put(tmp_path / "sets" / "bundled", files).parent, "bundled")


@pytest.mark.parametrize(
    ("typed", "saved"),
    [
        ("a blue car", b"a blue car\n"),
        ("  two\n\n lines \u202e", b"two\nlines\n"),
        ("Ä 猫 <script>alert(1)</script>", "Ä 猫 <script>alert(1)</script>\n".encode()),
        ("", None),
        ("   ", None),
    ],
)
def test_a_caption_is_an_ordinary_file(typed: str, saved: bytes | None, cars: SetFolder) -> None:
    after = save_caption(cars, A, typed, RED)
    file = cars.path / "0001-a.txt"
    assert (file.read_bytes() if file.exists() else None) == saved
    assert after == read_caption(cars, A)
    found = {entry.name: entry.caption for entry in scan_image_set(cars.path).entries}
    assert found[A] == (clean_lines(typed) or None)


def test_the_same_text_is_no_conflict_and_a_deleted_one_is(cars: SetFolder) -> None:
    save_caption(cars, A, "equal", RED)
    assert save_caption(cars, A, " equal ", RED) == "equal"
    (cars.path / "0001-a.txt").unlink()
    with pytest.raises(CaptionConflict) as caught:
        save_caption(cars, A, "mine", version_of("equal"))
    assert caught.value.saved == ""


def test_many_at_once_one_wins(cars: SetFolder) -> None:
    results, barrier = [], threading.Barrier(8)

    def save(number: int) -> None:
        barrier.wait()
        try:
            results.append(save_caption(cars, A, f"number {number}", RED))
        except CaptionConflict as conflict:
            results.append(conflict)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = [result for result in results if isinstance(result, str)]
    assert len(results) == 8 and texts == [read_caption(cars, A)]


@given(st.text(max_size=60))
def test_versions_are_equal_exactly_for_equal_captions(text: str) -> None:
    assert version_of(text) == version_of(clean_lines(text))
    assert version_of(text + "x") != version_of(text)
    assert (version_of(text) == NOTHING) == (clean_lines(text) == "")


@pytest.mark.parametrize("name", ["../0001-a.png", "/etc/passwd", "", "0001-a.txt", ".rarebit/x"])
def test_a_name_is_never_a_path(name: str, cars: SetFolder) -> None:
    for act in (picture_path, read_caption, remove_picture):
        with pytest.raises(UserError, match="has no picture"):
            act(cars, name)
    with pytest.raises(UserError, match="has no picture"):
        save_caption(cars, name, "x", NOTHING)


def test_sets_of_others_are_never_written_to(bundled: SetFolder, tmp_path: Path) -> None:
    before = tree(bundled.path)
    write_notes(bundled, SetNotes(trigger="ohwx", class_word="car"))
    assert read_notes(bundled).trigger == "ohwx"
    more = upload(tmp_path / "more", {"c.png": picture(3)})
    for act in (
        lambda: save_caption(bundled, "a.png", "x", version_of("a car")),
        lambda: apply_edit(bundled, Edit("front", "x"), {"a.png": "a car"}),
        lambda: remove_picture(bundled, "a.png"),
        lambda: store_uploads(bundled.path.parent, more, into=bundled),
    ):
        with pytest.raises(UserError, match="read only"):
            act()
    assert tree(bundled.path) == before


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"names": 3, "trigger": 5}', '{"names": {"a": 1}}', "[" * 100_000]
)
def test_damaged_notes_are_empty_ones(content: str, cars: SetFolder) -> None:
    (cars.hidden / "set.json").write_text(content)
    assert read_notes(cars) == SetNotes()


# -- the session of one tab


def test_typing_and_leaving(cars: SetFolder) -> None:
    """A late request changes nothing: the page was left before an older one arrived."""
    root, session = cars.path.parent, CaptionSession()
    session.see(cars, A, "a red car")
    for text, stamp, state in (
        ("a red car", 1, "unchanged"),
        ("a blue car", 2, "saved"),
        ("newest", 20, "saved"),
        ("older", 19, "late"),
    ):
        assert session.save(root, cars.id, A, text, "a red car", stamp).state == state
    assert read_caption(cars, A) == "newest"


def test_two_sessions(cars: SetFolder) -> None:
    """Fault 39: the other is told and shown what is there; then either can be chosen."""
    root, one, other = cars.path.parent, CaptionSession(), CaptionSession()
    for session in (one, other):
        session.see(cars, A, "a red car")
    assert one.save(root, cars.id, A, "from one", "a red car", 1).state == "saved"
    outcome = other.save(root, cars.id, A, "from the other", "a red car", 1)
    assert (outcome.state, outcome.saved) == ("conflict", "from one")
    assert read_caption(cars, A) == "from one"
    assert other.overwrite(root, cars.id, A, "from the other").state == "saved"
    assert read_caption(cars, A) == "from the other"
    assert one.save(root, cars.id, A, "again", "a red car", 2).state == "conflict"


@pytest.mark.parametrize(("meanwhile", "state"), [(None, "saved"), ("theirs", "conflict")])
def test_a_session_that_has_forgotten_goes_by_what_was_loaded(
    meanwhile: str | None, state: str, cars: SetFolder
) -> None:
    if meanwhile:
        (cars.path / "0001-a.txt").write_text(meanwhile)
    assert (
        CaptionSession().save(cars.path.parent, cars.id, A, "mine", "a red car", 1).state == state
    )


def test_the_first_edit_copies(bundled: SetFolder) -> None:
    root, session, before = bundled.path.parent, CaptionSession(), tree(bundled.path)
    session.see(bundled, "a.png", "a car")
    assert session.save(root, "bundled", "a.png", "a car", "a car", 1).state == "unchanged"
    assert [one.id for one in list_sets(root)] == ["bundled"]
    first = session.save(root, "bundled", "a.png", "a bus", "a car", 2)
    assert (first.state, first.copied, first.image_set.id) == ("saved", True, "a-copy-of-bundled")
    assert session.save(root, "bundled", "a.png", "a b", "a car", 1).state == "late"
    second = session.save(root, "bundled", "a.png", "a bus!", "a car", 3)
    assert (second.state, second.copied) == ("saved", False)
    renamed = session.save(root, "bundled", "b <i>.png", "new", "", 4)
    assert renamed.picture == "0002-b-i.png"
    assert read_caption(first.image_set, "a.png") == "a bus!"
    assert read_caption(first.image_set, renamed.picture) == "new"
    assert tree(bundled.path) == before
    assert len(list_sets(root)) == 2
    session.opened(bundled)  # chosen again, it means that set, and not the copy
    again = session.save(root, "bundled", "a.png", "a tram", "a car", 5)
    assert again.image_set.id == "a-copy-of-bundled-2"


def test_a_session_can_be_given_to_each_tab() -> None:
    assert copy.deepcopy(CaptionSession()) == CaptionSession()


def test_a_choice_that_is_told_twice_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    session = CaptionSession()
    choices = [("a", ""), ("a", ""), ("b", "a"), ("a", "b")]
    assert [session.is_told_again(*one) for one in choices] == [False, True, False, False]
    now += 10
    assert not session.is_told_again("a", "b"), "chosen again, since the first was refused"
