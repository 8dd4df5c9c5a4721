"""FAULTS 17 and 18: what calls itself safetensors and is not, and headers that break the format."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from trainer.errors import UserError
from trainer.models.safetensors_header import MAX_TENSORS, read_header


def entry(begin: int, end: int, dtype: str = "F32", shape: list[Any] | None = None) -> str:
    sizes = [(end - begin) // 4] if shape is None else shape
    return json.dumps({"dtype": dtype, "shape": sizes, "data_offsets": [begin, end]})


def header(*entries: tuple[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in entries) + "}"


def packed(text: str | bytes, data: int = 0, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data)


def empty_tensors(count: int) -> bytes:
    nothing = entry(0, 0)
    return packed("{" + ",".join(f'"{number}":{nothing}' for number in range(count)) + "}")


def single(tensor: str, data: int = 4) -> bytes:
    """A file of one tensor."""
    return packed(header(("a", tensor)), data)


FOUR = entry(0, 4)  # a tensor of four bytes
GOOD = header(("a", entry(0, 8)), ("b", entry(8, 12)))

MALFORMED: dict[str, tuple[bytes, str]] = {
    "length of 2^63": (packed(GOOD, 12, 2**63), "header too large"),
    "broken JSON": (packed(GOOD[:-1]), "invalid JSON"),
    "too deep": (packed('{"a":' + "[" * 50_000 + "]" * 50_000 + "}"), "recursion limit"),
    "too many brackets": (packed('{"a":[' + "[]," * 500_000 + "[]]}"), "invalid type"),
    "number of many digits": (single(FOUR.replace("[1]", f"[{'9' * 6000}]")), "out of range"),
    "NaN in a shape": (single(FOUR.replace("[1]", "[NaN]")), "expected"),
    "overlap": (packed(header(("a", entry(0, 8)), ("b", entry(4, 12))), 12), "tensor `b`"),
    "trailing bytes": (packed(GOOD, 13), "longer than its header says"),
    "cut short": (packed(GOOD, 11), "is cut short"),
    "unknown format": (single(entry(0, 8, "F99"), 8), "unknown variant `F99`"),
    "nothing, of 2^124": (single(entry(0, 0, shape=[0, 2**62, 2**62]), 0), "beyond all"),
    "half a surrogate pair": (packed('{"__metadata__":{"title":"\\ud800"}}'), "hex escape"),
    "huge shape": (single(entry(0, 8, shape=[2**62, 2**62]), 8), "overflow"),
    "extra field": (single(FOUR[:-1] + ',"x":1}'), "is not dtype, shape"),
    "duplicate tensors": (packed(header(("a", entry(0, 8)), ("a", entry(0, 8))), 8), "a appears"),
    "a long name": (packed(header(("a" * 501, FOUR)), 4), "a name of 501 characters"),
    "one of many twice": (
        packed(header(*((f"{n}", entry(0, 0)) for n in range(40_000)), ("39999", entry(0, 0)))),
        "39999 appears twice",
    ),
    "a million tensors": (empty_tensors(1_000_000), "more than 16777216 bytes"),
    "a hundred thousand tensors": (empty_tensors(100_000), f"more than {MAX_TENSORS} tensors"),
}

FOREIGN: dict[str, tuple[bytes, str]] = {
    "zip checkpoint": (b"PK\x03\x04" + bytes(100), "pickle"),
    "pickle, protocol 2": (b"\x80\x02}q\x00(X" + bytes(100), "pickle"),
    "pickle, protocol 5": (b"\x80\x05\x95" + bytes(100), "pickle"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(100), "GGUF"),
    "git-lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "git-lfs pointer",
    ),
    "HTML page": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "web page"),
    "JSON message": (b'{"error": "Repository not found"}', "JSON text"),
    "empty": (b"", "empty"),
}


def refusal(path: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        read_header(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_headers_are_refused_quickly_in_little_memory(case: str, tmp_path: Path) -> None:
    content, reason = MALFORMED[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    started = time.process_time()
    assert reason in refusal(path).message
    # CPU seconds, far more than a busy machine needs: looking at every pair takes minutes.
    assert time.process_time() - started < 15.0


@pytest.mark.parametrize(
    "case", ["length of 2^63", "too many brackets", "a million tensors", "too deep"]
)
def test_memory_stays_flat(case: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(MALFORMED[case][0])
    tracemalloc.start()
    try:
        refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", FOREIGN)
def test_other_kinds_of_file_are_named(case: str, tmp_path: Path) -> None:
    content, kind = FOREIGN[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert kind in refusal(path).message


def test_absent_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert "is not a file" in refusal(tmp_path / "absent.safetensors").message
    assert "is not a file" in refusal(tmp_path).message


def test_names_from_the_file_are_shown_escaped_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(header(("\u202e<b>\n" + "x" * 5000, entry(4, 8))), 8))
    message = refusal(path).message
    assert "\\u202e" in message
    assert len(message) < 500


def test_real_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros((), dtype=torch.bfloat16)}
    tensors["empty"] = torch.zeros(0, 4)
    save_file(tensors, path, {"title": "x"})
    read = read_header(path)
    shapes = {name: found.shape for name, found in read.tensors.items()}
    assert shapes == {"a": (2, 3), "b": (), "empty": (0, 4)}
    assert read.metadata == {"title": "x"}
    assert read.tensors["b"].dtype == "BF16"
    begin = read.tensors["a"].begin
    assert path.read_bytes()[begin : begin + 24] == tensors["a"].numpy().tobytes()


@pytest.mark.parametrize("length", [0x280, 0x380, 0x8B1F, 0x7B20, 0x17B20, 0x3C0A])
def test_header_lengths_that_look_like_other_files(tmp_path: Path, length: int) -> None:
    path, header = tmp_path / "a.safetensors", b'{"__metadata__":{"a":"b"}}'
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length))
    assert read_header(path).metadata == {"a": "b"}
