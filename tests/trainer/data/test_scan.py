"""Class pictures and splits of public sets: known by their folders, and never trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.data.folders_for_tests import about, captions_of, picture, put
from trainer.data.folders import folder_words, special_folders
from trainer.data.sets import scan_image_set

ROLES = {
    # names; behind "=" the folder that takes one out
    "kohya's project": "img/10_ohwx/a.png; reg/1_dog/b.png=reg",
    "inside a folder of repeats": "10_x/a.png; 10_x/reg/b.png=10_x/reg",
    "British": "a.png; regularisation/b.png=regularisation",
    "of a notebook": "a.png; Regularization_Images/b.png=Regularization_Images",
    "diffusers": "instance_images/a.png; class_images/b.png=class_images",
    "bare class beside instance": "instance/a.png; class/b.png=class",
    "bare class alone": "class/a.png; other/b.png",
    "only reg": "reg/a.png; reg/b.png",
    "a name that only begins so": "Regina/a.png; regatta/b.png; c.png",
    "splits": "train/a.png; test/b.png=test; validation/x/c.png=validation",
    "short split": "train/a.png; val/b.png=val",
    "split beside pictures": "a.png; test_images/b.png=test_images",
    "only test": "test/a.png",
    "what a trainer drew": "img/a.png; model/sample/x_01.png=model/sample; samples/b.png=samples",
    "only samples": "samples/a.png",
    "testimony": "testimony/a.png; b.png; valley/c.png",
    "tables": "data/train-00000-of-00001.parquet; "
    "data/test-00000-of-00001.parquet=data/test-00000-of-00001.parquet",
}


@pytest.mark.parametrize("case", ROLES)
def test_roles_are_told_by_folders(case: str) -> None:
    pairs = [one.partition("=") for one in ROLES[case].split("; ")]
    found = special_folders([name for name, _, _ in pairs])
    assert {name: folder for name, (_, folder) in found.items()} == {
        name: folder for name, _, folder in pairs if folder
    }


def test_their_files_are_neither_trained_on_nor_doubted(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "img/10_ohwx dog/a.png": picture(1),
        "img/10_ohwx dog/a.txt": "a dog on grass",
        "reg/1_dog/b.png": picture(2),
        "reg/1_dog/b.txt": "a dog",
        "test/c.png": picture(3),
        "test/c.txt": "a cat",
        "test/metadata.jsonl": '{"file_name": "c.png", "text": "x"}',
    }
    image_set = scan_image_set(put(tmp_path, files))
    assert captions_of(image_set) == {"img/10_ohwx dog/a.png": "a dog on grass"}
    assert (image_set.class_folders, image_set.splits) == ({"reg": 1}, {"test": 1})
    assert [one.severity for one in about(image_set, "reg", "class pictures")] == ["note"]
    assert about(image_set, "test", "not trained on")
    assert not about(image_set, "", "No picture beside it")


def test_a_run_in_the_set_is_not_trained_on(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "run/previews/b.png": picture(2)}
    for name in ("config.toml", "events.jsonl"):
        files[f"run/{name}"] = b""
    image_set = scan_image_set(put(tmp_path, files))
    assert [one.name for one in image_set.entries] == ["a.png"]
    assert [one.severity for one in about(image_set, "run", "folder of a run")] == ["warning"]


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["10_ohwx cat", "5_zwx dog"], "warning"),
        (["10_ohwx cat", "5_ohwx cat closeup"], ""),
        (["10_ohwx cat", "100_FUJI", "12_25_2023"], ""),
        (["10_ohwx cat", "other"], ""),
    ],
)
def test_folders_of_different_subjects(folders: list[str], said: str, tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {f"{one}/a.png": picture(n) for n, one in enumerate(folders)}
    found = about(scan_image_set(put(tmp_path, files)), "", "different subjects")
    assert [one.severity for one in found] == [said] * bool(said)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("1_regularisation/a.png", ""),
        ("1_dog/a.png", "dog"),
        ("1_old_dog/x/a.png", "old dog"),
        ("dog/a.png", ""),
        ("a.png", ""),
    ],
)
def test_what_a_folder_calls_its_pictures(name: str, words: str) -> None:
    assert folder_words(name) == words
