"""Writing a safetensors file whose bytes are a function of its contents alone.

The library's own writer orders the metadata by a random hash, so that saving the same adapter twice
gives two different files. Here everything is sorted, and the hashes that other tools look for are
put into the header.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.runs.atomic import replacing

DTYPES: dict[torch.dtype, str] = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
MAX_HEADER = 1 << 20
"""ComfyUI reads no header beyond 1 MiB."""
_LEGACY_WINDOW = range(0x100000, 0x110000)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file: complete or not at all, the same bytes for the same contents.

    Adds ``sshs_model_hash`` and ``modelspec.hash_sha256`` (SHA-256 of the bytes behind the header)
    and ``sshs_legacy_hash`` (8 digits of the SHA-256 of 64 KiB at 1 MiB of the file).

    Raises:
        UserError: the header would be larger than `MAX_HEADER`.
        ValueError: a tensor has another dtype.
        OSError: from the file system.
    """
    # Widest numbers first, then by name: every tensor lies aligned, as the library writes them.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    ordered = {name: tensors[name] for name in names}
    digest = hashlib.sha256()
    for piece in _pieces(ordered):
        digest.update(piece)
    hashes = {
        "sshs_model_hash": digest.hexdigest(),
        "modelspec.hash_sha256": f"0x{digest.hexdigest()}",
        "sshs_legacy_hash": "00000000",
    }
    header = _header(ordered, {**metadata, **hashes})
    # The legacy hash is as long as its stand-in, so putting it in moves nothing in its window.
    hashes["sshs_legacy_hash"] = _legacy_hash(header, ordered)
    header = _header(ordered, {**metadata, **hashes})
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(header)
        for piece in _pieces(ordered):
            file.write(piece)


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for name, tensor in tensors.items():
        end = position + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _dtype_name(name, tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    # A file name can hold what no UTF-8 can: better a question mark than a file nobody can read.
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    if len(text) > MAX_HEADER:
        raise UserError(
            f"The file's header would take {len(text):,} bytes, more than the {MAX_HEADER:,} that "
            "other tools read.",
            "It has too many layers, or names of layers that are far too long.",
        )
    padded = text + b" " * (-len(text) % 8)
    return len(padded).to_bytes(8, "little") + padded


def _dtype_name(name: str, dtype: torch.dtype) -> str:
    if dtype not in DTYPES:
        raise ValueError(f"{name} is {dtype}: adapter files hold fp32, fp16 and bf16")
    return DTYPES[dtype]


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    """The raw little-endian bytes of one tensor after the other."""
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().tobytes()


def _legacy_hash(header: bytes, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    position = 0
    for piece in chain([header], _pieces(tensors)):
        if position >= _LEGACY_WINDOW.stop:
            break
        start = max(_LEGACY_WINDOW.start - position, 0)
        digest.update(piece[start : _LEGACY_WINDOW.stop - position])
        position += len(piece)
    return digest.hexdigest()[:8]
