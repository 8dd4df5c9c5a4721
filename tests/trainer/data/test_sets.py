"""Image sets: every layout of folders, and everything that may be wrong with one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus.names import NAUGHTY
from tests.corpus.pictures import disguised, encode, pattern
from tests.trainer.data.folders_for_tests import about, captions_of, picture, put
from trainer.data.folders import folder_repeats
from trainer.data.names import display_name
from trainer.data.sets import scan_image_set
from trainer.errors import UserError

# -- layouts


def test_kohya_folders_give_repeats(tmp_path: Path) -> None:
    repeats = {
        "10_sks dog/a.png": 10,
        "10_sks dog/more/b.png": 10,
        "3_x/10_y/c.png": 10,
        "plain/d.png": 1,
        "0_unused/e.png": 0,
        "2024_summer/f.png": 1,
        "12_monkeys.png": 1,
    }
    files = {name: picture(seed) for seed, name in enumerate(repeats)}
    image_set = scan_image_set(put(tmp_path / "7_name of the set", files))
    found = {entry.name: entry.repeats for entry in image_set.entries}
    assert found == {name: count for name, count in repeats.items() if count}
    assert about(image_set, "10_sks dog", "10 times in an epoch")
    assert about(image_set, "0_unused", "left out")
    assert about(image_set, "2024_summer", "not repeated")


@pytest.mark.parametrize(
    ("folder", "repeats"),
    [
        ("1_x", 1),
        ("1000_x", 1000),
        ("1001_x", 1001),
        ("5_", 5),
        ("0_x", 0),
        ("0000000000012_x", 12),
        ("9" * 240 + "_x", 999_999_999),
        ("10", None),
        ("x_10", None),
        ("-3_x", None),
        ("2.5_x", None),
        ("٣_x", None),
        ("12_25_2023", None),
        ("2023_12_25 party", None),
        ("100_FUJI", None),
        ("101_0504", None),
        ("100_ohwx", 100),
        ("3_4_view", 3),
        ("20_1girl", 20),
    ],
)
def test_the_number_of_a_folder(folder: str, repeats: int | None) -> None:
    assert folder_repeats(folder) == repeats


def test_every_format_is_found(tmp_path: Path) -> None:
    suffixes = {one.lower(): one for one in ("JPEG", "PNG", "WEBP", "BMP", "AVIF", "GIF")}
    suffixes |= {"jpg": "JPEG", "JPG": "JPEG", "tif": "TIFF"}
    files = {
        f"a.{suffix}": picture(seed, kind) for seed, (suffix, kind) in enumerate(suffixes.items())
    }
    image_set = scan_image_set(put(tmp_path, files))
    found = {entry.name.rpartition(".")[2]: entry.header.format for entry in image_set.entries}
    assert found == suffixes
    for entry in image_set.entries:
        assert (entry.header.width, entry.header.height) == (96, 64)
        assert entry.read() == files[entry.name]


def test_links_are_followed_once(tmp_path: Path) -> None:
    root = put(tmp_path / "set", {"real/a.png": picture(1), "real/a.txt": "a"})
    elsewhere = put(tmp_path / "elsewhere", {"b.png": picture(2), "c.png": picture(3)})
    (root / "again").symlink_to(root / "real")
    (root / "loop").symlink_to(root)
    (root / "linked").symlink_to(elsewhere)
    (root / "d.png").symlink_to(elsewhere / "b.png")
    (root / "self.png").symlink_to(root / "self.png")
    (root / "gone.png").symlink_to(root / "nothing.png")
    image_set = scan_image_set(root)
    assert [entry.name for entry in image_set.entries] == [
        *("d.png", "linked/b.png", "linked/c.png", "real/a.png"),
    ]
    assert about(image_set, "again", "read already") and about(image_set, "loop", "read already")
    assert about(image_set, "self.png", "leads nowhere")
    assert about(image_set, "gone.png", "leads nowhere")


# -- captions never shift


@pytest.mark.parametrize("damaged", ["a.png", "b.png", "c.png"])
def test_captions_stay_with_their_pictures_when_one_is_damaged(
    damaged: str, tmp_path: Path
) -> None:
    files = {name: picture(seed) for seed, name in enumerate(["a.png", "b.png", "c.png"])}
    files[damaged] = files[damaged][:200]
    captions = {name.replace(".png", ".txt"): f"of {name}" for name in files}
    image_set = scan_image_set(put(tmp_path, {**files, **captions}))
    assert captions_of(image_set) == {name: f"of {name}" for name in files if name != damaged}
    assert image_set.left_out == (damaged,)
    assert about(image_set, damaged, "Left out. It is cut off")
    assert not about(image_set, damaged.replace("png", "txt"))


def test_orphans_and_odd_captions_are_reported(tmp_path: Path) -> None:
    files = {
        "a.png": picture(1),
        "a.txt": b"\xff\xfe" + "sixteen bits".encode("utf-16-le"),
        "b.png": picture(2),
        "b.txt": b" \n",
        "c.png": picture(3),
        "c.txt": b"word " * 200_000,
        "typo.txt": "lost",
    }
    image_set = scan_image_set(put(tmp_path, files))
    captions = captions_of(image_set)
    assert captions["a.png"] == "sixteen bits"
    assert captions["b.png"] is None
    assert len(captions["c.png"] or "") <= 10_000
    assert about(image_set, "typo.txt", "No picture beside it has its name")
    assert about(image_set, "b.txt", "empty")
    assert about(image_set, "c.txt", "longer than")


# -- names


def test_case_and_unicode_twins_are_reported(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    files = {
        "Cat.png": picture(1),
        "cat.png": picture(2),
        f"{composed}.png": picture(3),
        f"{apart}.png": picture(4),
    }
    captions = {"Cat.txt": "upper", "cat.txt": "lower", f"{apart}.txt": "apart"}
    root = put(tmp_path, {**files, **captions})
    if len(list(root.iterdir())) < 7:
        return  # a file system that takes twins for one has none
    image_set = scan_image_set(root)
    found = captions_of(image_set)
    assert (found["Cat.png"], found["cat.png"]) == ("upper", "lower")
    assert (found[f"{apart}.png"], found[f"{composed}.png"]) == ("apart", None)
    assert about(image_set, "cat.png", "differs from Cat.png")
    assert about(image_set, f"{composed}.png", "accents")


def test_hostile_names_are_read_and_shown_escaped(tmp_path: Path) -> None:
    names = [name for name in NAUGHTY if not name.startswith(".")]
    for seed, name in enumerate(names):
        put(tmp_path, {f"{name}.png": picture(seed), f"{name}.txt": f"caption {seed}"})
    image_set = scan_image_set(tmp_path)
    assert {entry.name: (entry.caption, entry.read()) for entry in image_set.entries} == {
        display_name(f"{name}.png"): (f"caption {seed}", picture(seed))
        for seed, name in enumerate(names)
    }
    for finding in image_set.findings:
        shown = str(finding).encode("utf-8").decode("utf-8")
        assert not any(unicodedata.category(character) == "Cc" for character in shown)


# -- what is refused or doubtful


def test_the_scan_survives_what_is_no_picture(tmp_path: Path) -> None:
    put(tmp_path, {"good.png": picture(1), "empty.png": b""})
    for name, data, _ in disguised():
        put(tmp_path, {name: data})
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "good.txt")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    image_set = scan_image_set(tmp_path)  # pytest's own limit ends one that waits or never ends
    assert [entry.name for entry in image_set.entries] == ["good.png"]
    for name, _, word in disguised():
        assert about(image_set, name, word)
    assert about(image_set, "empty.png", "empty")
    assert about(image_set, "folder.png", "folder named like a picture")
    for name in ("pipe.png", "good.txt", "zero.png"):
        assert about(image_set, name, "pipe, socket or device")
    assert about(image_set, "loop.png", "link that leads nowhere")
    assert len(image_set.left_out) == 1 + len(list(disguised()))


@contextlib.contextmanager
def without_root() -> Iterator[None]:
    """Permissions mean nothing to root: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_reported() -> None:
    # Not pytest's own folder: only its owner may enter that.
    root = Path(tempfile.mkdtemp())
    try:
        put(root, {f"{name}.png": picture(seed) for seed, name in enumerate("abc")})
        put(root, {"a.txt": "secret", "locked/d.png": picture(4), "metadata.csv": "file_name,text"})
        for name in ("a.txt", "b.png", "locked", "metadata.csv"):
            (root / name).chmod(0o000)
        root.chmod(0o755)
        scan_image_set(put(root / "warm", {"x.png": picture(9)}))  # import what is imported late
        with without_root():
            image_set = scan_image_set(root)
        assert [entry.name for entry in image_set.entries] == ["a.png", "c.png", "warm/x.png"]
        assert about(image_set, "b.png", "Left out. It cannot be opened .Permission denied")
        assert about(image_set, "locked", "cannot be read .Permission denied")
        assert about(image_set, "a.txt", "cannot be read .Permission denied")
        assert about(image_set, "metadata.csv", "cannot be read")
    finally:
        (root / "locked").chmod(0o755)
        shutil.rmtree(root)


def test_duplicates_are_reported_and_used(tmp_path: Path) -> None:
    original = pattern(192, 128, seed=3)
    files = {
        "a.png": encode(original, "PNG"),
        "b.png": encode(original, "PNG"),
        "c.jpg": encode(original, "JPEG", quality=40),
        "d.png": encode(original.resize((96, 64)), "PNG"),
        "e.png": picture(4),
        "f.png": picture(5),
    }
    image_set = scan_image_set(put(tmp_path, files))
    assert len(image_set.entries) == 6
    assert about(image_set, "b.png", "The same file several times: a.png = b.png.")
    assert about(image_set, "c.jpg", "Nearly the same as another: a.png = c.jpg, d.png.")
    assert about(image_set, "d.png", "Nearly the same as another: a.png = c.jpg, d.png.")
    assert not about(image_set, "e.png", "same") and not about(image_set, "f.png", "same")
    assert image_set.entries[0].id == image_set.entries[1].id


def test_animations_and_transparency_are_said_once(tmp_path: Path) -> None:
    frames = [pattern(seed=seed) for seed in range(2)]
    clear = pattern().convert("RGBA")
    clear.putalpha(100)
    opaque = pattern(seed=9).convert("RGBA")
    files = {
        "a.gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "b.png": encode(clear, "PNG"),
        "c.png": encode(opaque, "PNG"),
    }
    image_set = scan_image_set(put(tmp_path, files))
    assert [finding.name for finding in about(image_set, "", "first picture")] == ["a.gif"]
    assert [finding.name for finding in about(image_set, "", "Transparent")] == ["b.png"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no picture that can be used"),
        ({"a.txt": "only text"}, "holds no picture"),
        ({"a.png": b""}, r"a.png: Left out. The file is empty"),
        ({f"{name}.jpg": "text" for name in "abcdef"}, "There are 3 more findings"),
        ({"0_x/a.png": picture(1)}, "0 repeats"),
    ],
)
def test_nothing_usable_is_refused_with_the_rules(
    files: dict[str, bytes | str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as error:
        scan_image_set(put(tmp_path / "set", files) if files else tmp_path)
    assert ".txt files named like the pictures" in error.value.hint


@pytest.mark.parametrize("name", ["missing", "a.png", "x" * 300, "nul\0"])
def test_what_is_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    put(tmp_path, {"a.png": picture(1)})
    with pytest.raises(UserError, match=r"does not exist|is a file"):
        scan_image_set(tmp_path / name)


def test_too_many_pictures_are_refused(tmp_path: Path) -> None:
    put(tmp_path, {f"{index}.png": picture(index) for index in range(4)})
    assert len(scan_image_set(tmp_path, limit=4).entries) == 4
    with pytest.raises(UserError, match="more than 3 pictures"):
        scan_image_set(tmp_path, limit=3)


def test_a_changed_picture_is_not_read(tmp_path: Path) -> None:
    image_set = scan_image_set(put(tmp_path, {"a.png": picture(1), "b.png": picture(2)}))
    put(tmp_path, {"a.png": picture(7)})
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match=r"a.png has been changed"):
        image_set.entries[0].read()
    with pytest.raises(UserError, match=r"b.png: It cannot be opened"):
        image_set.entries[1].read()


# -- the set as a whole


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_nothing_is_written(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": picture(1), "a.txt": "a", "b.png": b"bad"})
    before = snapshot(tmp_path)
    scan_image_set(tmp_path)
    assert snapshot(tmp_path) == before


def test_a_scan_can_be_broken_off(tmp_path: Path) -> None:
    put(tmp_path, {f"{index}.png": picture(index) for index in range(5)})

    def stop(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_image_set(tmp_path, progress=stop)


def test_the_order_is_that_of_names(tmp_path: Path) -> None:
    names = ["b.png", "a/z.png", "B.png", "10.png", "9.png", "ä.png"]
    files = {name: picture(seed) for seed, name in enumerate(names)}
    image_set = scan_image_set(put(tmp_path, files))
    assert [entry.name for entry in image_set.entries] == sorted(names)


def test_a_metadata_caption_meets_a_sidecar(tmp_path: Path) -> None:
    rows = [{"file_name": "a.png", "text": "table"}, {"file_name": "b.png", "text": "table"}]
    files = {"a.png": picture(1), "b.png": picture(2), "a.txt": "sidecar"}
    table = "\n".join(map(json.dumps, rows))
    image_set = scan_image_set(put(tmp_path, {**files, "metadata.jsonl": table}))
    assert captions_of(image_set) == {"a.png": "sidecar", "b.png": "table"}
    assert about(image_set, "a.png", "different captions")
