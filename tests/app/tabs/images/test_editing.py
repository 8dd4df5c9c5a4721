"""One tab's saves: in order, into a copy where a set is read only, never over another tab's."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from app.tabs.images.captionfiles import read_caption
from app.tabs.images.editing import Session
from app.tabs.images.imagesets import SetFolder, find_set, list_sets
from tests.app.sets_for_tests import made, tree
from tests.trainer.data.folders_for_tests import picture, put

A = "0001-a.png"


@pytest.fixture
def cars(tmp_path: Path) -> SetFolder:
    return made(tmp_path, {"a": "a red car", "b": "a car"})


def text_of(image_set: SetFolder, name: str = A) -> str:
    return read_caption(image_set, name).text


def test_typing_and_leaving(cars: SetFolder) -> None:
    root, session = cars.path.parent, Session()
    session.see(cars, A, "a red car")
    assert session.save(root, cars.id, A, "a red car", "a red car", 1).state == "unchanged"
    assert session.save(root, cars.id, A, "a blue car", "a red car", 2).state == "saved"
    assert session.save(root, cars.id, A, "a blue car!", "a red car", 3).state == "saved"
    assert text_of(cars) == "a blue car!"


def test_a_late_request_changes_nothing(cars: SetFolder) -> None:
    """The page was left with the newest text before an older one arrived."""
    root, session = cars.path.parent, Session()
    session.see(cars, A, "a red car")
    assert session.save(root, cars.id, A, "newest", "a red car", 20).state == "saved"
    assert session.save(root, cars.id, A, "older", "a red car", 19).state == "late"
    assert text_of(cars) == "newest"


def test_two_sessions(cars: SetFolder) -> None:
    """Fault 39: the other is told and shown what is there; then either can be chosen."""
    root, one, other = cars.path.parent, Session(), Session()
    for session in (one, other):
        session.see(cars, A, "a red car")
    assert one.save(root, cars.id, A, "from one", "a red car", 1).state == "saved"
    outcome = other.save(root, cars.id, A, "from the other", "a red car", 1)
    assert (outcome.state, outcome.saved) == ("conflict", "from one")
    assert text_of(cars) == "from one"
    assert other.overwrite(root, cars.id, A, "from the other").state == "saved"
    assert text_of(cars) == "from the other"
    assert one.save(root, cars.id, A, "again", "a red car", 2).state == "conflict"


@pytest.mark.parametrize(("meanwhile", "state"), [(None, "saved"), ("theirs", "conflict")])
def test_a_session_that_has_forgotten_goes_by_what_was_loaded(
    meanwhile: str | None, state: str, cars: SetFolder
) -> None:
    root = cars.path.parent
    if meanwhile:
        (cars.path / "0001-a.txt").write_text(meanwhile)
    assert Session().save(root, cars.id, A, "mine", "a red car", 1).state == state


@pytest.fixture
def bundled(tmp_path: Path) -> SetFolder:
    files = {"a.png": picture(1), "a.txt": "a car", "b <i>.png": picture(2)}
    return find_set(put(tmp_path / "sets" / "bundled", files).parent, "bundled")


def test_the_first_edit_copies(bundled: SetFolder) -> None:
    root, session, before = bundled.path.parent, Session(), tree(bundled.path)
    session.see(bundled, "a.png", "a car")
    assert session.save(root, "bundled", "a.png", "a car", "a car", 1).state == "unchanged"
    assert [one.id for one in list_sets(root)] == ["bundled"]
    first = session.save(root, "bundled", "a.png", "a bus", "a car", 2)
    assert (first.state, first.copied, first.image_set.id) == ("saved", True, "a-copy-of-bundled")
    late = session.save(root, "bundled", "a.png", "a b", "a car", 1)
    assert late.state == "late"
    second = session.save(root, "bundled", "a.png", "a bus!", "a car", 3)
    assert (second.state, second.copied) == ("saved", False)
    renamed = session.save(root, "bundled", "b <i>.png", "new", "", 4)
    assert renamed.picture == "0002-b-i.png"
    assert text_of(first.image_set, "a.png") == "a bus!"
    assert text_of(first.image_set, renamed.picture) == "new"
    assert tree(bundled.path) == before
    assert len(list_sets(root)) == 2


def test_choosing_the_read_only_set_again_means_that_set(bundled: SetFolder) -> None:
    root, session = bundled.path.parent, Session()
    session.save(root, "bundled", "a.png", "a bus", "a car", 1)
    session.opened(bundled)
    again = session.save(root, "bundled", "a.png", "a tram", "a car", 2)
    assert again.image_set.id == "a-copy-of-bundled-2"


def test_a_session_can_be_given_to_each_tab() -> None:
    assert copy.deepcopy(Session()) == Session()
