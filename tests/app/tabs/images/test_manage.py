"""Image sets are renamed and deleted; no others are, and none that a run learns from."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.tabs.images import manage
from app.tabs.images.imagesets import (
    delete_set,
    find_set,
    free_title,
    list_sets,
    rename_set,
    set_choices,
    title_at,
    title_of,
)
from tests.app.sets_for_tests import stored
from tests.trainer.data.folders_for_tests import picture
from trainer import places
from trainer.config.file import with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.runs.layout import create_run
from trainer.runs.status import own_status, write_status


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(places, "DATASETS", tmp_path / "datasets")
    monkeypatch.setattr(places, "RUNS", tmp_path / "runs")
    return tmp_path / "datasets"


def put(root: Path, tmp_path: Path, title: str) -> None:
    made = stored(tmp_path / title.replace(" ", "-"), {"a.png": picture(1)}, title).image_set
    root.mkdir(exist_ok=True)
    made.path.rename(root / made.id)


def test_a_set_is_called_what_somebody_typed(root: Path, tmp_path: Path) -> None:
    put(root, tmp_path, "my cat")
    cat = find_set(root, "my-cat")
    assert (free_title(root, "my cat"), free_title(root, "dog")) == ("my cat 2", "dog")
    rename_set(root, cat, " Mimi ")
    assert set_choices() == [("Mimi", "my-cat")]  # runs know the folder, which keeps its name
    rename_set(root, cat, "mimi")  # its own name, in other letters
    assert title_of(cat) == title_at(root / "my-cat") == "mimi"
    assert title_at(Path("datasets/somebody's")) == "somebody's"


@pytest.mark.parametrize(("title", "said"), [("", "empty"), ("My Cat", "Another image set")])
def test_a_name_that_cannot_be_is_refused(
    root: Path, tmp_path: Path, title: str, said: str
) -> None:
    put(root, tmp_path, "my cat")
    put(root, tmp_path, "dog")
    with pytest.raises(UserError, match=said):
        rename_set(root, find_set(root, "dog"), title)


def test_a_set_that_came_from_elsewhere_is_left_alone(root: Path) -> None:
    (root / "bundled").mkdir(parents=True)
    for change in (delete_set, lambda one: rename_set(root, one, "mine")):
        with pytest.raises(UserError, match="read only"):
            change(find_set(root, "bundled"))
    assert (root / "bundled").is_dir()


def test_deleting_takes_the_set_and_nothing_else(root: Path, tmp_path: Path) -> None:
    put(root, tmp_path, "my cat")
    put(root, tmp_path, "dog")
    delete_set(find_set(root, "my-cat"))
    assert [one.id for one in list_sets(root)] == ["dog"]
    assert {path.name for path in root.iterdir()} == {"dog"}


def test_what_a_run_learns_from_is_not_deleted(root: Path, tmp_path: Path) -> None:
    put(root, tmp_path, "dog")
    run = create_run(places.RUNS, "ohwx")
    write_config(run.config, with_values(TrainingConfig(), {"images.path": str(root / "dog")}))
    write_status(run, own_status("training", 1, 9))
    with pytest.raises(UserError, match="ohwx learns from dog"):
        manage._check_unused(find_set(root, "dog"))
    write_status(run, own_status("finished", 9, 9))
    manage._check_unused(find_set(root, "dog"))
