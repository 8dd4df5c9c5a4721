"""Texts of PNG files: read without decoding anything, whatever the file is."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trainer.data.png_text import MAX_TEXT, read_texts

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def test_what_pillow_writes_is_read(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "grün, Steps: 3")
    info.add_itxt("rarebit", '{"prompt": "日本 <b>"}')
    info.add_text("packed", "x" * 100, zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    assert read_texts(tmp_path / "a.png") == {
        "parameters": "grün, Steps: 3",
        "rarebit": '{"prompt": "日本 <b>"}',
    }


BOMB = zlib.compress(bytes(50_000_000))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", {}),
        (b"\xff\xd8\xff", {}),
        (SIGNATURE, {}),
        (SIGNATURE + b"\xff\xff\xff\xfftEXt", {}),
        (SIGNATURE + (2**31).to_bytes(4, "big") + b"IDAT" + b"x", {}),
        (SIGNATURE + chunk(b"tEXt", b"no separator"), {}),
        (SIGNATURE + chunk(b"iTXt", b"rarebit\0\1\0\0\0" + BOMB), {}),
        (SIGNATURE + chunk(b"zTXt", b"rarebit\0\0" + BOMB), {}),
        (SIGNATURE + chunk(b"iTXt", b"rarebit\0\0\0cut off"), {}),
        (SIGNATURE + chunk(b"tEXt", b"a\0" + b"x" * MAX_TEXT), {}),
        (SIGNATURE + chunk(b"tEXt", b"a\0b")[:-6], {}),
        (SIGNATURE + chunk(b"IEND", b"") + chunk(b"tEXt", b"a\0after"), {}),
        (SIGNATURE + chunk(b"tEXt", b"a\0first") + chunk(b"tEXt", b"a\0second"), {"a": "first"}),
        (SIGNATURE + chunk(b"iTXt", b"a\0\0\0de\0A\0\xff"), {"a": "\ufffd"}),
    ],
)
def test_any_file_is_survived(tmp_path: Path, data: bytes, expected: dict[str, str]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert read_texts(path) == expected


def test_a_file_of_many_chunks_is_left_in_time(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(SIGNATURE + chunk(b"teSt", b"") * 2000 + chunk(b"tEXt", b"a\0b"))
    assert read_texts(path) == {}
