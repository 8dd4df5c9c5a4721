"""What a safetensors file says of itself, without reading its tensors.

The library checks the format (https://github.com/huggingface/safetensors, "Format"). Checked here
is what it lets pass: names that stand twice, more tensors than memory can list, and sizes beyond
all numbers. Files of other kinds are named, since a download often gives one.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open

from trainer.errors import UserError

MAX_HEADER_BYTES = 16 * 2**20
"""Far above real files (0.3 MB for SDXL; some megabytes with a picture in the metadata)."""
MAX_TENSORS = 50_000
MAX_NAME = 500
"""Characters of a tensor's name, so that patterns over names are quick, whatever they are."""
_MAX_DIMENSIONS = 8

_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer: the weights were not downloaded"),
    (b"PK\x03\x04", "a zip archive or PyTorch file (pickle), renamed"),
    (b"GGUF", "a GGUF file, renamed"),
)
_UNCOVERED = "incomplete metadata, file not fully covered"  # the library's words
_HINT = "Download the .safetensors version of the file again from where it is published."


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: its number format as safetensors names it, and its first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a safetensors file holds; `data_start` is the first byte behind the header."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    data_start: int


def read_header(path: Path) -> SafetensorsHeader:
    """Reads and checks a safetensors header without reading tensors.

    Raises:
        UserError: the file is absent, is something else under a wrong name, or breaks the format.
    """
    if not path.is_file():
        inside = path / "adapter.safetensors"
        hint = f"Give {inside}." if inside.is_file() else "Give the path of a .safetensors file."
        raise UserError(f"{path} is not a file.", hint)
    try:
        with path.open("rb") as file:
            start = file.read(512)
            if foreign := _foreign_kind(start):
                raise UserError(f"{path} is not a safetensors file: it is {foreign}.", _HINT)
            file.seek(8)
            length = int.from_bytes(start[:8], "little")
            text = file.read(min(length, MAX_HEADER_BYTES + 1))
        if len(text) > MAX_HEADER_BYTES:
            raise ValueError(f"its header has more than {MAX_HEADER_BYTES} bytes")
        if text.count(b'"data_offsets"') > MAX_TENSORS:
            raise ValueError(f"it lists more than {MAX_TENSORS} tensors")
        with cast(Any, safe_open(path, framework="numpy")) as opened:
            metadata: dict[str, str] = opened.metadata() or {}
        content = json.loads(text, object_pairs_hook=_unique)
        content.pop("__metadata__", None)
        tensors = {name: _entry(name, value, 8 + length) for name, value in content.items()}
        return SafetensorsHeader(tensors, metadata, 8 + length)
    except OSError as problem:
        hint = "Check that you may read it."
        raise UserError(f"{path} cannot be read: {problem.strerror}.", hint) from None
    except (ValueError, SafetensorError) as problem:
        said = str(problem).removeprefix("Error while deserializing header: ")
        said = said.replace(_UNCOVERED, "it is cut short, or longer than its header says")
        raise UserError(f"{path} is a damaged safetensors file: {_short(said)}.", _HINT) from None


def _foreign_kind(start: bytes) -> str | None:
    """What other kind of file this is, from its first bytes; None if it may be safetensors."""
    if not start:
        return "empty"
    # Some lengths of a header begin as other files do: what follows them tells these apart.
    if int.from_bytes(start[:8], "little") < 2**32 and start[8:9] == b"{":
        return None
    for magic, kind in _FOREIGN:
        if start.startswith(magic):
            return kind
    if start[0] == 0x80 and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a PyTorch file (pickle), renamed"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page: the download gave an error or login page"
    return "a JSON text, such as an error message of a download" if text[:1] == b"{" else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name} appears twice")
    return result


def _entry(name: str, value: dict[str, Any], data_start: int) -> TensorEntry:
    if len(name) > MAX_NAME:
        raise ValueError(f"a tensor has a name of {len(name)} characters")
    shape = tuple(value["shape"])
    # Beside a zero the other sizes take no byte, but strides are computed of them all the same.
    if len(shape) > _MAX_DIMENSIONS or math.prod(size or 1 for size in shape) >= 2**63:
        raise ValueError(f"the shape of {name} is beyond all numbers")
    if len(value) > 3:
        raise ValueError(f"the entry of {name} is not dtype, shape and data_offsets")
    return TensorEntry(value["dtype"], shape, data_start + value["data_offsets"][0])


def _short(text: str) -> str:
    """A text that may hold names from the file, safe to show."""
    shown = text if len(text) <= 200 else text[:197] + "..."
    return ascii(shown)[1:-1]
