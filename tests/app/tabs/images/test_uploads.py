"""Uploads become image sets, or nothing at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from app.files import Upload
from app.tabs.images import storage, uploads
from app.tabs.images.archives import Limits
from app.tabs.images.edits import remove_picture, undo
from app.tabs.images.imagesets import (
    HIDDEN,
    SetFolder,
    find_set,
    list_sets,
    read_notes,
    title_of,
)
from app.tabs.images.storage import copy_set
from app.tabs.images.uploads import store_uploads
from tests.app.sets_for_tests import stored, tree, upload
from tests.app.tabs.images.test_archives import make_zip
from tests.corpus.names import NAUGHTY
from tests.corpus.pictures import encode
from tests.trainer.data.folders_for_tests import picture, put
from trainer.data.buckets import Focus
from trainer.data.gather import scan_again
from trainer.data.sets import ImageSet
from trainer.errors import UserError
from trainer.places import PROJECT


def scan(image_set: SetFolder) -> ImageSet:
    return scan_again(image_set.path)


def captions(tmp_path: Path, set_id: str) -> dict[str, str | None]:
    image_set = scan(find_set(tmp_path / "datasets", set_id))
    return {entry.name: entry.caption for entry in image_set.entries}


def test_pictures_and_captions_are_stored_under_own_names(tmp_path: Path) -> None:
    files = {
        "Red Car.PNG": picture(1),
        "Red Car.txt": "a red car",
        "b.jpg": picture(2, "JPEG"),
        "b.jpg.txt": "\ufeffa blue one\n",
        "lonely.txt": "nobody's",
        "paper.pdf": b"%PDF",
    }
    result = stored(tmp_path, files, "My Cars!")
    assert result.image_set.id == "my-cars" and result.image_set.owned
    assert (result.pictures, result.captions) == (2, 2)
    assert captions(tmp_path, "my-cars") == {
        "0001-red-car.png": "a red car",
        "0002-b.jpg": "a blue one",
    }
    assert (result.image_set.path / "0001-red-car.png").read_bytes() == files["Red Car.PNG"]
    assert any("paper.pdf" in remark for remark in result.remarks)
    assert any("lonely.txt" in remark for remark in result.remarks)
    notes = read_notes(result.image_set)
    assert notes.title == "My Cars!"
    assert notes.names == {"0001-red-car.png": "Red Car.PNG", "0002-b.jpg": "b.jpg"}


@pytest.mark.parametrize("name", NAUGHTY)
def test_hostile_names(name: str, tmp_path: Path) -> None:
    result = stored(tmp_path, {f"{name}.png": picture(1), f"{name}.txt": "its caption"}, name)
    files = [path.name for path in result.image_set.path.iterdir() if path.name != HIDDEN]
    assert all(re.fullmatch(r"0001(-[a-z0-9-]+)?\.(png|txt)", file) for file in files)
    assert re.fullmatch(r"[a-z0-9-]{1,40}", result.image_set.id)
    assert [*captions(tmp_path, result.image_set.id).values()] == ["its caption"]
    (original,) = read_notes(result.image_set).names.values()
    kept = f"{name}.png".replace("/", "∕").encode("utf-8", "backslashreplace").decode()
    assert original == kept
    assert not (tmp_path / "canary").exists() and not Path("canary").exists()


def test_a_zip_keeps_folders_that_mean_something(tmp_path: Path) -> None:
    members = {
        "my set/10_Sks Dog/a.png": picture(1),
        "my set/10_Sks Dog/a.txt": "a dog",
        "my set/other/b.png": picture(2),
        "my set/metadata.csv": "file_name,text\nother/b.png,a house\n",
    }
    data = make_zip(lambda zipped: [zipped.writestr(*item) for item in members.items()])  # type: ignore[func-returns-value]
    result = stored(tmp_path, {"holiday pictures.zip": data}, "")
    assert result.image_set.id == "holiday-pictures"
    found = scan(result.image_set)
    assert {entry.name: (entry.caption, entry.repeats) for entry in found.entries} == {
        "10_sks-dog/0001-a.png": ("a dog", 10),
        "other/0002-b.png": ("a house", 1),
    }


def test_several_at_once_do_not_mix(tmp_path: Path) -> None:
    def zipped(seed: int, caption: str) -> bytes:
        members = {"a.png": picture(seed), "a.txt": caption}
        return make_zip(lambda z: [z.writestr(*item) for item in members.items()])  # type: ignore[func-returns-value]

    files = {"one.zip": zipped(1, "in one"), "two.zip": zipped(2, "in two"), "a.png": picture(3)}
    result = stored(tmp_path, files)
    assert captions(tmp_path, result.image_set.id) == {
        "0001-a.png": None,
        "one/0002-a.png": "in one",
        "two/0003-a.png": "in two",
    }


def test_adding_goes_on_counting(tmp_path: Path) -> None:
    first = stored(tmp_path, {"a.png": picture(1), "b.png": picture(2)}).image_set
    (first.path / "0002-b.png").unlink()  # its number is not given again
    more = upload(tmp_path / "more", {"c.png": picture(3), "c.txt": "third"})
    store_uploads(tmp_path / "datasets", more, into=first)
    assert captions(tmp_path, first.id) == {"0001-a.png": None, "0003-c.png": "third"}
    assert read_notes(first).names["0003-c.png"] == "c.png"


def nothing_left(root: Path) -> bool:
    return not root.exists() or not [*root.iterdir()]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(pictures=2), "3 pictures; the limit is 2"),
        (Limits(total_bytes=1000), "the limit of an upload"),
        (Limits(spare_bytes=1 << 60), "There is no room"),
    ],
)
def test_over_a_limit(limits: Limits, message: str, tmp_path: Path) -> None:
    files = {f"{number}.png": picture(number) for number in range(3)}
    with pytest.raises(UserError, match=message):
        store_uploads(tmp_path / "datasets", upload(tmp_path / "sent", files), limits=limits)
    assert nothing_left(tmp_path / "datasets")


def test_1001_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture(1))
    with pytest.raises(UserError, match=r"1,001 pictures; the limit is 1,000"):
        store_uploads(tmp_path / "datasets", [Upload(path, f"{n}.png") for n in range(1001)])
    assert nothing_left(tmp_path / "datasets")


@pytest.mark.parametrize("into", [False, True], ids=["a new set", "an old one"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_the_disk_fills_up(
    code: int, into: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = stored(tmp_path, {"old.png": picture(9)}).image_set if into else None
    before = tree(tmp_path / "datasets")
    copyfile, calls = shutil.copyfile, []

    def fill_up(source: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 3:
            raise OSError(code, os.strerror(code))
        return copyfile(source, target)

    monkeypatch.setattr(storage.shutil, "copyfile", fill_up)
    files = {f"{number}.png": picture(number) for number in range(4)}
    with pytest.raises(UserError, match="could not be saved"):
        store_uploads(tmp_path / "datasets", upload(tmp_path / "more", files), into=old)
    assert len(calls) == 3
    assert tree(tmp_path / "datasets") == before


def test_what_cannot_be_moved_in_takes_the_rest_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = stored(tmp_path, {"old.png": picture(9), "old.txt": "old"}).image_set
    before = tree(old.path)
    move = uploads.move_new

    def fail_late(source: Path, target: Path) -> None:
        if target.name.startswith("0003"):
            raise OSError(errno.EIO, "broken")
        move(source, target)

    monkeypatch.setattr(uploads, "move_new", fail_late)
    files = {"a.png": picture(1), "a.txt": "a", "b.png": picture(2)}
    with pytest.raises(UserError):
        store_uploads(tmp_path / "datasets", upload(tmp_path / "more", files), into=old)
    assert tree(old.path) == before


def test_no_picture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no picture among the files.*letter\.doc"):
        stored(tmp_path, {"letter.doc": b"x", "a.txt": "y"})
    assert nothing_left(tmp_path / "datasets")


@pytest.mark.parametrize("into", [False, True], ids=["a new set", "an old one"])
def test_where_no_picture_can_be_used_nothing_is_stored(into: bool, tmp_path: Path) -> None:
    old = stored(tmp_path, {"old.png": picture(9)}).image_set if into else None
    before = tree(tmp_path / "datasets")
    sent = upload(tmp_path / "more", {"a.heic": b"x", "b.jpg": b"<html>", "c.png": b""})
    with pytest.raises(UserError, match="no picture can be used") as caught:
        store_uploads(tmp_path / "datasets", sent, into=old)
    assert all(
        name in caught.value.hint for name in ("a.heic", "b.jpg", "c.png: The file is empty")
    )
    assert tree(tmp_path / "datasets") == before


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"notes.txt": "x"}, "notes.txt: No picture"),
        ({"clip.MP4": b"x"}, "Not stored, being a video: clip.MP4. Take single pictures"),
        ({"IMG_1.MOV": b"x", "a.pdf": b"x"}, "a video: IMG_1.MOV"),
        ({"a.pdf": b"x", "b.psd": b"x"}, "neither picture nor caption: a.pdf, b.psd"),
    ],
)
def test_what_is_left_out_is_named_once(
    files: dict[str, bytes | str], said: str, tmp_path: Path
) -> None:
    """Alone, where nothing is stored, and beside pictures, in the lasting line."""
    with pytest.raises(UserError) as caught:
        stored(tmp_path, files)
    assert caught.value.message.count(said) == 1
    result = stored(tmp_path / "mixed", {**files, "good.png": picture(1)})
    assert " ".join(result.remarks).count(said) == 1


def test_broken_pictures_are_stored_and_named_by_the_check(tmp_path: Path) -> None:
    result = stored(tmp_path, {"good.png": picture(1), "bad.png": picture(2)[:100]})
    found = scan(result.image_set)
    assert found.left_out == ("0001-bad.png",)


# -- captions and masks find their pictures


def grey(seed: int) -> bytes:
    return encode(Image.new("L", (96, 64), 200 + seed), "PNG")


def zip_of(files: Mapping[str, bytes | str]) -> bytes:
    return make_zip(lambda zipped: [zipped.writestr(*item) for item in files.items()])  # type: ignore[func-returns-value]


PAIRS: dict[str, tuple[dict[str, bytes | str], dict[str, tuple[str | None, int | None]], str]] = {
    # what is dropped; of the stored pictures the caption and the seed of the mask; what is said
    "ours": ({"cat.png": picture(1), "cat.mask.png": grey(1)}, {"0001-cat.png": (None, 1)},
        "Masks of pictures"),
    "OneTrainer": (
        {"a.png": picture(1), "a-masklabel.png": grey(1), "b.png": picture(2), "a.txt": "one"},
        {"0001-a.png": ("one", 1), "0002-b.png": (None, None)}, ""),
    "a zip with a folder": (
        {"x.zip": zip_of({"s/cat.png": picture(1), "s/masks/cat.png": grey(1), "s/cat.txt": "c"})},
        {"0001-cat.png": ("c", 1)}, ""),
    "a zip with folders side by side": ({"x.zip": zip_of(
        {"images/A b.png": picture(1), "mask/A b.jpg": grey(1), "captions/A b.txt": "c"})},
        {"images/0001-a-b.png": ("c", 1)}, ""),
    "two of one stem": ({"a.png": picture(1), "a.jpg": picture(2, "JPEG"), "a.png.txt": "p",
        "a.jpg.mask.png": grey(1)}, {"0001-a.jpg": (None, 1), "0002-a.png": ("p", None)}, ""),
    "a picture named like a mask": (
        {"gas_mask.png": picture(1), "b.png": picture(2), "gas_mask.txt": "g"},
        {"0001-b.png": (None, None), "0002.png": ("g", None)}, "Named like a mask"),
    "a mask without a picture": ({"a.png": picture(1), "b.mask.png": grey(1)},
        {"0001-a.png": (None, None)}, "b.mask.png: A mask, but no picture"),
}  # fmt: skip


def pairs_of(image_set: SetFolder) -> dict[str, tuple[str | None, bytes | None]]:
    return {
        entry.name: (entry.caption, entry.mask.path.read_bytes() if entry.mask else None)
        for entry in scan(image_set).entries
    }


@pytest.mark.parametrize("layout", PAIRS)
def test_uploads_stay_paired(layout: str, tmp_path: Path) -> None:
    """In the stored set, in a copy of it, and when they are added to another set."""
    files, expected, said = PAIRS[layout]
    result = stored(tmp_path, files)
    wanted = {
        name: (caption, None if seed is None else grey(seed))
        for name, (caption, seed) in expected.items()
    }
    assert pairs_of(result.image_set) == wanted
    assert said in " ".join(result.remarks)
    assert (result.pictures, result.masks) == (
        len(wanted),
        sum(mask is not None for _, mask in wanted.values()),
    )
    copy = copy_set(tmp_path / "datasets", result.image_set)
    assert sorted(pairs_of(copy).values(), key=repr) == sorted(wanted.values(), key=repr)
    other = stored(tmp_path / "other", {"z.png": picture(9)}).image_set
    store_uploads(other.path.parent, upload(tmp_path / "again", files), into=other)
    added = {name: pair for name, pair in pairs_of(other).items() if "z.png" not in name}
    assert sorted(added.values(), key=repr) == sorted(wanted.values(), key=repr)


def test_a_removed_picture_takes_its_mask_along(tmp_path: Path) -> None:
    image_set = stored(tmp_path, {"a.png": picture(1), "a_mask.png": grey(1), "b.png": picture(2)})
    before = pairs_of(image_set.image_set)
    remove_picture(image_set.image_set, "0001-a.png")
    assert [*pairs_of(image_set.image_set)] == ["0002-b.png"]
    assert not scan(image_set.image_set).findings or "mask" not in str(
        scan(image_set.image_set).findings
    )
    undo(image_set.image_set)
    assert pairs_of(image_set.image_set) == before


LATER: dict[str, tuple[dict[str, bytes | str], dict[str, tuple[str | None, int | None]], str]] = {
    # what is dropped onto 0001-0.png (old), 0002-b-c.png; the pairs; what is said
    "by the name that it came with": ({"B c.txt": "late"}, {"2": ("late", None)}, ""),
    "by its present name": ({"0002-b-c.txt": "late"}, {"2": ("late", None)}, ""),
    "a mask": ({"0_mask.png": grey(3)}, {"1": ("old", 3)}, ""),
    "another caption": ({"0.txt": "new"}, {"1": ("new", None)}, "Undo brings the old one back"),
    "a table": ({"captions.csv": "file_name,caption\n0.png,new\nB c.png,late"},
        {"1": ("new", None), "2": ("late", None)}, ""),
    "in a zip": ({"x.zip": zip_of({"captions/B c.txt": "late", "masks/B c.png": grey(4)})},
        {"2": ("late", 4)}, ""),
    "new ones of the same name": ({"0.png": picture(7), "0.txt": "of the new one"},
        {"3": ("of the new one", None)}, ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", LATER)
def test_captions_and_masks_come_later(kind: str, tmp_path: Path) -> None:
    files, changed, said = LATER[kind]
    first = {"0.png": picture(1), "0.txt": "old", "B c.png": picture(2)}
    image_set = stored(tmp_path, first).image_set
    before = pairs_of(image_set)
    result = store_uploads(image_set.path.parent, upload(tmp_path / "x", files), into=image_set)
    after = pairs_of(image_set)
    for name in after:
        caption, seed = changed.get(name[3], before.get(name, (None, None)))
        mask = grey(seed) if isinstance(seed, int) else seed
        assert after[name] == (caption, mask)
    assert len(after) == (3 if "3" in changed else 2)
    assert said in " ".join(result.remarks)
    if kind == "another caption":
        undo(image_set)
        assert pairs_of(image_set) == before


def test_files_of_one_name_are_never_mixed_up(tmp_path: Path) -> None:
    """As a browser sends several folders: a name says nothing any more of where it was."""
    sent = [
        *upload(tmp_path / "a", {"1.png": picture(1), "1.txt": "one", "2.png": picture(2)}),
        *upload(tmp_path / "b", {"1.png": picture(3), "1.txt": "other", "2.png": picture(2)}),
        *upload(tmp_path / "c", {"3.png": picture(4), "3.txt": "three"}),
        *upload(tmp_path / "d", {"3.png": picture(5)}),
    ]
    result = store_uploads(tmp_path / "datasets", sent)
    found = captions(tmp_path, result.image_set.id)
    names = ("0001-2.png", "0002-1.png", "0003-3.png", "0004-1.png", "0005-3.png")
    assert found == dict.fromkeys(names)
    said = " ".join(result.remarks)
    assert "1.txt came 2 times, with different content" in said
    assert "3.txt: Several pictures have its name" in said and "twin" not in said
    assert "2.png came 2 times, and is stored once" in said


# -- copies


def test_a_copy_of_each_bundled_set(tmp_path: Path) -> None:
    for image_set in list_sets(PROJECT / "datasets"):
        if image_set.owned:
            continue
        before = tree(image_set.path)
        copy = copy_set(tmp_path, image_set)
        assert copy.owned and copy.id.startswith("a-copy-of-")
        old, new = scan(image_set), scan(copy)
        facts = [
            [(entry.id, entry.name, entry.caption, entry.repeats) for entry in one.entries]
            for one in (old, new)
        ]
        assert facts[0] == facts[1]
        assert tree(image_set.path) == before
        assert (copy.path / "LICENSE").is_file()


def test_a_copy_of_a_wild_folder(tmp_path: Path) -> None:
    """Captions in a table, twins that would share a caption file, names that break programs."""
    files = {
        "a.png": picture(1),
        "a.jpg": picture(2, "JPEG"),
        "a.txt": "both",
        "x <script>.png": picture(3),
        "metadata.jsonl": '{"file_name": "x <script>.png", "text": "from the table"}\n',
        "broken.png": b"no picture",
    }
    root = tmp_path / "datasets"
    put(root / "wild", files)
    copy = copy_set(root, find_set(root, "wild"))
    found = {entry.name: entry.caption for entry in scan(copy).entries}
    assert found == {"0002-a.png": "both", "0003-x-script.png": "from the table", "a.jpg": "both"}
    assert len({(copy.path / name).with_suffix(".txt") for name in found}) == 3


@pytest.mark.parametrize("set_id", ["../other", "/etc", "", ".", "..", ".rarebit", "a/b", "wild\0"])
def test_an_id_is_never_a_path(set_id: str, tmp_path: Path) -> None:
    put(tmp_path / "datasets" / "wild", {"a.png": picture(1)})
    put(tmp_path / "other", {"a.png": picture(1)})
    put(tmp_path / "datasets" / ".rarebit", {"a.png": picture(1)})
    with pytest.raises(UserError, match="no image set"):
        find_set(tmp_path / "datasets", set_id)


def test_two_uploads_at_once_get_two_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins while the first is being written."""
    write, started = storage.write_pictures, []

    def write_and_interrupt(*args: object, **options: object) -> dict[str, str]:
        if not started:
            started.append(True)
            stored(tmp_path / "again", {"b.png": picture(2)})
            second = upload(tmp_path / "second", {"b.png": picture(2)})
            store_uploads(tmp_path / "datasets", second, title="test")
        return write(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(uploads, "write_pictures", write_and_interrupt)
    stored(tmp_path, {"a.png": picture(1)})
    assert [one.id for one in list_sets(tmp_path / "datasets")] == ["test", "test-2"]


def test_uploads_into_one_set_at_once_are_all_kept(tmp_path: Path) -> None:
    into = stored(tmp_path, {"old.png": picture(9)}).image_set
    sent = [upload(tmp_path / f"more-{seed}", {"a.png": picture(seed)}) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda files: store_uploads(into.path.parent, files, into=into), sent))
    assert len({entry.id for entry in scan(into).entries}) == len(read_notes(into).names) == 5


def test_a_file_that_has_come_by_itself_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as by a second page on the same image sets."""
    into = stored(tmp_path, {"old.png": picture(9)}).image_set
    monkeypatch.setattr(uploads, "_next_number", lambda _: 1)
    (into.path / "0001-a.txt").write_text("mine")
    before = tree(into.path)
    files = upload(tmp_path / "more", {"a.png": picture(1), "a.txt": "theirs"})
    with pytest.raises(UserError, match="could not be saved"):
        store_uploads(into.path.parent, files, into=into)
    assert tree(into.path) == before


def test_a_copy_keeps_class_pictures_and_splits(tmp_path: Path) -> None:
    root = tmp_path / "datasets"
    lying = {
        "img/5_ohwx man/a.png": picture(1),
        "reg/1_man/Élan b.png": picture(2),
        "reg/1_man/Élan b.txt": "a man",
        "reg/test/c.png": picture(3),
        "data/a/b/c/d/validation/d.png": picture(4),
    }
    put(root / "wild", lying)
    original = find_set(root, "wild")
    before = scan(original)
    copy = copy_set(root, original)
    after = scan(copy)
    assert after.class_folders == before.class_folders == {"reg": 2}
    assert after.splits == before.splits
    assert len(after.entries) == len(before.entries) == 1
    kept = tree(copy.path)
    assert kept["data/a/b/c/d/validation/d.png"] == lying["data/a/b/c/d/validation/d.png"]
    assert kept["reg/1_man/Élan b.txt"] == b"a man"
    assert kept["reg/test/c.png"] == lying["reg/test/c.png"]


@pytest.mark.parametrize("way", ["single", "zip", "later"])
def test_chosen_cuts_come_along(way: str, tmp_path: Path) -> None:
    pictures = {"Red Car.png": picture(1), "b.jpg": picture(2, "JPEG")}
    focuses = {"Red Car.focus": "0.5 0.2\n", "b.jpg.focus": "1 0", "lost.focus": "0 0"}
    files: dict[str, bytes | str] = {**pictures, **focuses}
    if way == "zip":
        result = stored(tmp_path, {"all.zip": zip_of(files)})
    else:
        result = stored(tmp_path, files if way == "single" else dict(pictures))
    if way == "later":
        sent = upload(tmp_path / "later", focuses)
        result = store_uploads(tmp_path / "datasets", sent, into=result.image_set)
    assert result.focuses == 2
    assert [one for one in result.remarks if "lost.focus" in one]
    image_set = scan(result.image_set)
    assert [entry.focus for entry in image_set.entries] == [Focus(0.5, 0.2), Focus(1, 0)]
    assert not [one for one in image_set.findings if "focus" in one.name]


@pytest.mark.parametrize(
    ("folder", "roles"),
    [
        ("reg", {"reg": 1}),
        ("set/1_Reg/a/b/c/d", {"1_reg": 1}),
        ("tést", {}),
        ("Réģ/a", {}),
        ("a/b/c/d", {}),
    ],
)
def test_folders_of_uploads_keep_what_they_mean(
    folder: str, roles: dict[str, int], tmp_path: Path
) -> None:
    names = (f"{folder}/a.png", "img/b.png")
    members = {name: picture(number) for number, name in enumerate(names)}
    fill = make_zip(lambda zipped: [zipped.writestr(*one) for one in members.items()])  # type: ignore[func-returns-value]
    image_set = scan(stored(tmp_path, {"all.zip": fill}).image_set)
    assert {**image_set.class_folders, **image_set.splits} == roles
    assert len(image_set.entries) == 2 - len(roles)


def test_a_set_is_named_after_what_was_dropped(tmp_path: Path) -> None:
    """The picture's name, then with the date, then with a number; a typed one is numbered."""
    titles: list[str] = []
    for seed, title in enumerate(("", "", "", "cat", "cat")):
        sent = upload(tmp_path / str(seed), {"0.txt": "nobody's", "Miez 1.png": picture(seed)})
        made = store_uploads(tmp_path / "datasets", sent, title=title)
        titles.append(title_of(made.image_set))
    today = time.strftime("%Y-%m-%d")
    assert titles == ["Miez 1", f"Miez 1 {today}", f"Miez 1 {today} 2", "cat", "cat 2"]


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["01"], "pictures"),
        (["IMG_2044"], "pictures"),
        (["img of tom"], "img of tom"),
        (["kohya_3"], "kohya_3"),
        (["kohya_3", "broken"], "pictures"),
        (["my cat (1)", "my cat (2)", "my cat"], "my cat"),
        (["IMG_1", "IMG_2"], "pictures"),
    ],
)
def test_a_set_is_named_after_what_all_are_called(
    names: list[str], title: str, tmp_path: Path
) -> None:
    sent = upload(tmp_path / "sent", {f"{name}.png": picture(n) for n, name in enumerate(names)})
    made = store_uploads(tmp_path / "datasets", sent)
    assert title_of(made.image_set) == title
