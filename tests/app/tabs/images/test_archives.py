"""Zip files from anywhere: whole, or refused with a sentence and nothing outside the folder."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.tabs.images.archives import Limits, unpack
from app.tabs.images.uploads import store_uploads
from tests.app.sets_for_tests import upload
from tests.corpus.names import NAUGHTY
from tests.trainer.data.folders_for_tests import picture
from trainer.errors import UserError

Maker = Callable[[zipfile.ZipFile], None]


def make_zip(fill: Maker, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as zipped:
        fill(zipped)
    return buffer.getvalue()


def one(name: str, data: bytes = b"text", mode: int = 0) -> bytes:
    """A zip of one file, with any name and Unix mode."""
    info = zipfile.ZipInfo(name)
    info.filename = name  # as it is: the class would have made it tame
    info.external_attr = mode << 16
    return make_zip(lambda zipped: zipped.writestr(info, data, zipfile.ZIP_DEFLATED))


def encrypted() -> bytes:
    data = bytearray(one("a.txt"))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(signature) + offset
        data[at] |= 1
    return bytes(data)


def with_bad_checksum() -> bytes:
    data = make_zip(
        lambda zipped: zipped.writestr("a.png", b"twelve bytes"), method=zipfile.ZIP_STORED
    )
    return data.replace(b"twelve bytes", b"Twelve bytes", 1)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "path escape": (lambda: one("../../evil.png"), "outside the image set"),
    "path escape with backslashes": (lambda: one("..\\..\\evil.png"), "outside the image set"),
    "path escape further down": (lambda: one("a/b/../../../x.png"), "outside the image set"),
    "absolute": (lambda: one("/tmp/evil.png"), "outside the image set"),
    "drive": (lambda: one("C:\\evil.png"), "outside the image set"),
    "symlink": (lambda: one("a.png", b"/etc/passwd", 0o120777), "is a link or a device"),
    "pipe": (lambda: one("a.png", b"", 0o010644), "is a link or a device"),
    "encrypted": (encrypted, "encrypted"),
    "bad checksum": (with_bad_checksum, "damaged"),
    "ratio": (lambda: one("a.png", bytes(20_000_000)), "times its size"),
    "ratio of many small ones": (
        lambda: make_zip(
            lambda z: [z.writestr(f"{n}.png", bytes(1_000_000)) for n in range(70)]  # type: ignore[func-returns-value]
        ),
        "times its size",
    ),
    "folder outside": (lambda: one("../evil/", b""), "outside the image set"),
    "link that ends like a folder": (lambda: one("a/", b"", 0o120777), "is a link or a device"),
    "nested by name": (lambda: one("more.zip", b"whatever"), "archive in the archive"),
    "nested by content": (lambda: one("more.png", one("a.txt")), "archive in the archive"),
    "another packing": (
        lambda: make_zip(lambda z: z.writestr("a.png", b"x"), zipfile.ZIP_LZMA),
        "packed in a way",
    ),
    "cut off": (lambda: one("a.txt")[:-30], "damaged or no zip"),
    "text": (lambda: b"Dear diary,", "damaged or no zip"),
    "empty": (lambda: b"", "damaged or no zip"),
}


def refused(data: bytes, tmp_path: Path, limits: Limits | None = None) -> str:
    """The reason for which an upload of a picture and this archive is refused, leaving nothing."""
    files = upload(tmp_path / "sent", {"good.png": picture(1), "bad.zip": data})
    with pytest.raises(UserError) as caught:
        store_uploads(tmp_path / "deep" / "datasets", files, limits=limits)
    assert "bad.zip was not taken" in caught.value.message
    left = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    assert sorted(left) == sorted(file.path for file in files)
    return caught.value.message


@pytest.mark.parametrize("case", BAD)
def test_refused_whole(case: str, tmp_path: Path) -> None:
    make, reason = BAD[case]
    assert reason in refused(make(), tmp_path)
    assert not Path("/tmp/evil.png").exists()


def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    def fill(zipped: zipfile.ZipFile) -> None:
        for number in range(100_000):
            zipped.writestr(f"{number}.png", b"")

    assert "100,000 files" in refused(make_zip(fill, zipfile.ZIP_STORED), tmp_path)


def test_a_list_of_files_that_would_fill_the_memory(tmp_path: Path) -> None:
    """An end record that claims a list of 2 GB, in an archive that is so long (a sparse file)."""
    archive = tmp_path / "upload.zip"
    with archive.open("wb") as file:
        file.truncate(2_000_000_000)
        file.seek(0, os.SEEK_END)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 2_000_000_000, 0, 0))
    with pytest.raises(UserError, match="list of files is far too long"):
        unpack(archive, "big.zip", tmp_path, Limits())


def test_a_size_that_lies(tmp_path: Path) -> None:
    """The list says one byte, the data are a megabyte: no more than that byte is written."""
    data = bytearray(one("a.bin", os.urandom(1 << 20)))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.rindex(signature) if signature[2] == 1 else data.index(signature)
        data[at + offset : at + offset + 4] = struct.pack("<L", 1)
    archive, folder = tmp_path / "lies.zip", tmp_path / "staging"
    archive.write_bytes(data)
    folder.mkdir()
    with pytest.raises(UserError, match="damaged or no zip file"):
        unpack(archive, "lies.zip", folder, Limits())
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(members=2), "3 files; the limit is 2"),
        (Limits(total_bytes=5500), "GB; the limit"),
        (Limits(member_bytes=900), "MB; the limit"),
    ],
)
def test_limits(limits: Limits, reason: str, tmp_path: Path) -> None:
    def fill(zipped: zipfile.ZipFile) -> None:
        for number in range(3):
            zipped.writestr(f"{number}.txt", b"x" * 2000)

    assert reason in refused(make_zip(fill), tmp_path, limits)


def test_good_ones_are_unpacked_under_numbers(tmp_path: Path) -> None:
    names = [f"{name}/{name}.PNG" for name in NAUGHTY if name.isprintable() and ".." not in name]
    names = [name for name in names if not name.startswith((".", "a:")) and "\udcff" not in name]
    pictures = {name: picture(seed) for seed, name in enumerate(names)}
    junk = {"__MACOSX/._a.png": b"junk", ".DS_Store": b"junk", "x/.hidden.png": b"junk"}

    def fill(zipped: zipfile.ZipFile) -> None:
        zipped.writestr("empty folder/", "")
        for name, data in {**pictures, **junk}.items():
            zipped.writestr(name, data)

    archive, folder = tmp_path / "upload.zip", tmp_path / "staging"
    archive.write_bytes(make_zip(fill))
    folder.mkdir()
    members = unpack(archive, "upload.zip", folder, Limits())
    assert {member.name: member.path.read_bytes() for member in members} == pictures
    assert {path.name for path in folder.iterdir()} == {member.path.name for member in members}
    assert all(path.name[:6].isdecimal() and path.suffix == ".PNG" for path in folder.iterdir())


def test_a_name_may_begin_with_the_folder_that_it_is_in(tmp_path: Path) -> None:
    """As ``zip -r x.zip ./`` and some tools of Windows write them."""
    names = ["./a.png", "./b/./c.png", "d//e.png", "./.hidden/f.png", "././__MACOSX/g.png"]

    def holding(*names: str) -> bytes:
        def fill(zipped: zipfile.ZipFile) -> None:
            for name in names:
                zipped.writestr(name, b"x")

        return make_zip(fill)

    (tmp_path / "a.zip").write_bytes(holding(*names))
    (tmp_path / "out").mkdir()
    found = unpack(tmp_path / "a.zip", "a.zip", tmp_path / "out", Limits())
    assert [file.name for file in found] == ["a.png", "b/c.png", "d/e.png"]
