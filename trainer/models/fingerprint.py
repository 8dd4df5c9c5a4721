"""SHA-256 of model files, remembered between runs by path, size and time of change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from trainer.places import cache_folder
from trainer.runs.atomic import write_json

REMEMBER_FROM_BYTES = 32 * 2**20
"""Smaller files are hashed every time: it takes no longer than to look them up."""
_CHUNK_BYTES = 8 * 2**20


def file_digest(path: Path) -> str:
    """SHA-256 hex of a file's bytes."""
    status = path.stat()
    if status.st_size < REMEMBER_FROM_BYTES:
        return _hash(path)
    memory = cache_folder() / "model-digests.json"
    known: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError):  # a place that cannot be read only costs time
        known = dict(json.loads(memory.read_bytes()))
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    if not isinstance(known.get(key), str):
        known[key] = _hash(path)
        with suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, known)
    return known[key]


def combined_digest(files: Iterable[Path], root: Path, *more: str) -> str:
    """SHA-256 hex over files, each with its path below `root`, and over further texts."""
    parts = [[file.relative_to(root).as_posix(), file_digest(file)] for file in sorted(files)]
    return hashlib.sha256(json.dumps([parts, *more]).encode()).hexdigest()


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
