"""The header of a safetensors file, checked before any library sees the file.

The format (https://github.com/huggingface/safetensors, "Format"): eight bytes of little-endian
length, a JSON object of that length, then the tensors' bytes, which must cover the rest of the file
exactly. The library itself accepts duplicate keys and hundreds of thousands of empty tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from trainer.errors import UserError

MAX_HEADER_BYTES = 16 * 2**20
"""Far above real files (0.3 MB for SDXL; some megabytes with a picture in the metadata)."""
MAX_TENSORS = 50_000
MAX_BRACKETS = 8 * MAX_TENSORS
"""Bounds how many objects and lists the JSON parser can make of a header."""
MAX_DIMENSIONS = 8

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2,
    "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip

_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer: the weights were not downloaded"),
    (b"PK\x03\x04", "a zip archive or PyTorch checkpoint (pickle), renamed"),
    (b"GGUF", "a GGUF file, renamed"),
    (b"\x1f\x8b", "a gzip archive, renamed"),
    (b"\x89HDF", "an HDF5 file, renamed"),
)
_HINT = "Download the .safetensors version of the file again from where it is published."


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: its number format, shape, and bytes [begin, end) behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a safetensors file holds; `data_start` is the first byte behind the header."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    data_start: int


class _Malformed(ValueError):
    """A header that breaks the format; the text says how."""


def read_header(path: Path) -> SafetensorsHeader:
    """Reads and checks a safetensors header without reading tensors.

    Raises:
        UserError: the file is absent, is something else under a wrong name, or breaks the format.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file.", "Give the path of a .safetensors file.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(512)
            foreign = _foreign_kind(start)
            if foreign:
                raise UserError(f"{path} is not a safetensors file: it is {foreign}.", _HINT)
            length = _header_length(start, size)
            file.seek(8)
            return _parse(file.read(length), size - 8 - length, 8 + length)
    except _Malformed as problem:
        raise UserError(f"{path} is a damaged safetensors file: {problem}.", _HINT) from None
    except OSError as problem:
        raise UserError(f"{path} cannot be read: {problem.strerror}.") from None


def _foreign_kind(start: bytes) -> str | None:
    """What other kind of file this is, from its first bytes; None if it may be safetensors."""
    if not start:
        return "empty"
    for magic, kind in _FOREIGN:
        if start.startswith(magic):
            return kind
    # A header of 640 bytes begins like a pickle of protocol 2; only the JSON tells them apart.
    pickled = start[0] == 0x80 and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if pickled and start[8:9] != b"{":
        return "a PyTorch checkpoint (pickle), renamed"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page: the download gave an error or login page"
    if text.startswith(b"{"):
        return "a JSON text, such as an error message of a download"
    return None


def _header_length(start: bytes, size: int) -> int:
    if size < 10 or len(start) < 9:
        raise _Malformed("it ends before its header")
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{":
        raise _Malformed("it has no JSON header")
    if length > size - 8:
        raise _Malformed(f"its header claims {length} bytes, the file has {size}")
    if length > MAX_HEADER_BYTES:
        raise _Malformed(f"its header has {length} bytes, more than {MAX_HEADER_BYTES}")
    return length


def _parse(header: bytes, data_size: int, data_start: int) -> SafetensorsHeader:
    if header.count(b'"data_offsets"') > MAX_TENSORS:
        raise _Malformed(f"it lists more than {MAX_TENSORS} tensors")
    if header.count(b"[") + header.count(b"{") > MAX_BRACKETS:
        raise _Malformed("its header is too complex")
    try:
        content = json.loads(
            header.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_no_negative_zero,
        )
    except _Malformed:
        raise
    except (ValueError, RecursionError):  # JSON and UTF-8 errors are ValueErrors
        raise _Malformed("its header is not valid JSON") from None
    if not isinstance(content, dict):
        raise _Malformed("its header is not a JSON object")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise _Malformed("its metadata is not a table of texts")
    _check_texts([*content, *metadata, *metadata.values()])
    tensors = {name: _entry(name, value) for name, value in content.items()}
    _check_coverage(tensors, data_size)
    return SafetensorsHeader(tensors, metadata, data_start)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Malformed(f"{_short(double)} appears twice")
    return result


def _no_constant(text: str) -> NoReturn:
    raise _Malformed(f"its header holds {text}")


def _no_negative_zero(text: str) -> int:
    """A whole number; -0, which the library refuses, is as unfit as any below it."""
    return -1 if text.startswith("-") else int(text)


def _check_texts(texts: Iterable[str]) -> None:
    """Halves of a pair of surrogates, which JSON's escapes can write and no UTF-8 can."""
    try:
        for text in texts:
            text.encode("utf-8")
    except UnicodeEncodeError:
        raise _Malformed("its header is not valid JSON") from None


def _entry(name: str, value: object) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _Malformed(f"the entry of {_short(name)} is not dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _Malformed(f"{_short(name)} has the unknown number format {_short(str(dtype))}")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise _Malformed(f"the shape of {_short(name)} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _Malformed(f"the place of {_short(name)} is not two offsets")
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise _Malformed(f"the shape of {_short(name)} does not match its {end - begin} bytes")
    # Beside a zero the other sizes take no byte, but strides are computed of them all the same.
    if math.prod(size or 1 for size in shape) >= 2**63:
        raise _Malformed(f"the shape of {_short(name)} is beyond all numbers")
    return TensorEntry(dtype, tuple(shape), begin, end)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_coverage(tensors: dict[str, TensorEntry], data_size: int) -> None:
    position = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            problem = "overlaps another tensor" if entry.begin < position else "follows a hole"
            raise _Malformed(f"{_short(name)} {problem}")
        position = entry.end
    if position != data_size:
        problem = "is cut short" if position > data_size else "has bytes behind the last tensor"
        raise _Malformed(f"it {problem} ({data_size} bytes of tensors, {position} announced)")


def _short(text: str) -> str:
    """A name from the file, safe to show."""
    shown = text if len(text) <= 120 else text[:117] + "..."
    return ascii(shown)
