"""The files beside an adapter that A1111, Forge, ComfyUI and InvokeAI show: text and picture."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path

from trainer.data.images import ImageProblem, load_rgb
from trainer.lora.files import AdapterFile
from trainer.lora.inspection import trigger_words
from trainer.runs.atomic import write_bytes, write_json

_VERSIONS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
_MAX_THUMBNAIL = 4 << 20
_SIDE = 512


def sidecar_paths(path: Path) -> tuple[Path, Path]:
    """Where an adapter's ``.json`` and ``.png`` lie."""
    return path.with_suffix(".json"), path.with_suffix(".png")


def write_sidecars(adapter: AdapterFile, path: Path, picture: Path | None = None) -> list[Path]:
    """Writes the sidecars of an adapter file, over old ones; gives what was written.

    Args:
        path: of the adapter file.
        picture: for the ``.png``; else the thumbnail in the metadata, and without one none.

    Raises:
        OSError: from the file system.
    """
    text, image = sidecar_paths(path)
    metadata = adapter.metadata
    write_json(
        text,
        {
            "description": metadata.get("modelspec.description", "")[:10_000],
            "sd version": _VERSIONS.get(adapter.family or "", "Unknown"),
            "activation text": ", ".join(trigger_words(adapter)),
            "preferred weight": 1.0,
            "negative text": "",
            "notes": metadata.get("modelspec.usage_hint", "")[:10_000],
        },
    )
    png = _png(picture.read_bytes() if picture else _thumbnail(metadata.get("modelspec.thumbnail")))
    if png is None:
        return [text]
    write_bytes(image, png)
    return [text, image]


def _thumbnail(value: str | None) -> bytes | None:
    """The picture of a data URI; None where there is none."""
    if not value or len(value) > _MAX_THUMBNAIL or not value.startswith("data:image/"):
        return None
    try:
        return base64.b64decode(value.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        return None


def _png(data: bytes | None) -> bytes | None:
    """A picture of any format as a PNG without metadata; None where it can't be read."""
    if not data:
        return None
    try:
        picture = load_rgb(data)
    except ImageProblem:
        return None
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
