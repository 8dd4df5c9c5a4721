"""An adapter as people pass it on: with its picture in it, and the files that tools show beside it.

The picture is not in the file that training writes. Previews may be drawn differently, or not at
all, without a change of what is learnt; so the bytes of that file must not depend on them.
"""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import safetensors.torch
from PIL import Image

from trainer.data.decoder import load_rgb
from trainer.data.images import ImageProblem, read_file
from trainer.errors import UserError
from trainer.lora.adapter import Adapter
from trainer.lora.inspection import trigger_words
from trainer.lora.reading import read_adapter
from trainer.lora.writing import MAX_HEADER, write_tensors
from trainer.memory.devices import DTYPES
from trainer.models.safetensors_header import read_header
from trainer.runs.atomic import replacing, write_bytes, write_json

THUMBNAIL_KEY = "modelspec.thumbnail"
_THUMBNAIL_SIDE, _SIDECAR_SIDE = 256, 512
_MAX_THUMBNAIL = 4 << 20
_ROOM = 4096  # bytes of the header that are left free beside the thumbnail
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
"""Of every file in the archive: the same adapter gives the same bytes."""
_VERSIONS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}


def sidecar_paths(path: Path) -> tuple[Path, Path]:
    """Where an adapter's ``.json`` and ``.png`` lie."""
    return path.with_suffix(".json"), path.with_suffix(".png")


def write_sidecars(adapter: Adapter, path: Path, picture: Path | None = None) -> list[Path]:
    """Writes what A1111, Forge, ComfyUI and InvokeAI show of an adapter file, over old ones.

    Args:
        path: of the adapter file.
        picture: for the ``.png``; else the thumbnail in the metadata, and without one none.

    Returns:
        The files that were written.

    Raises:
        UserError: the picture can't be read.
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
    try:
        data = read_file(picture) if picture else _from_uri(metadata.get(THUMBNAIL_KEY, ""))
    except ImageProblem as problem:
        raise UserError(f"{picture}: {problem.reason}", problem.hint) from None
    png = _small(data, _SIDECAR_SIDE, "PNG")
    if png is None:
        return [text]
    write_bytes(image, png)
    return [text, image]


def thumbnail(picture: Path) -> str | None:
    """A picture as a small JPEG in a data URI, without its metadata; None if it can't be read."""
    try:
        data = read_file(picture)
    except ImageProblem:
        return None
    jpeg = _small(data, _THUMBNAIL_SIDE, "JPEG")
    if jpeg is None:
        return None
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def picture_of(path: Path) -> Path | None:
    """The picture that shows an adapter: beside its file, or its run's last preview with it.

    Names beside the file are those that tools know.
    """
    beside = (path.with_suffix(".png"), path.with_suffix(".preview.png"))
    return next((place for place in beside if place.is_file()), None) or _last_preview(path.parent)


def share(path: Path, out: Path, name: str = "", picture: Path | None = None) -> list[str]:
    """Writes a zip file with an adapter and its sidecars; gives the names in it.

    Args:
        path: of the adapter file; any that is read here. It stays as it is.
        name: of the files in the archive; that in the metadata, or the file's, unless given.
        picture: that shows it; else `picture_of`.

    Raises:
        UserError: the adapter can't be read.
        OSError: from the file system.
    """
    adapter = read_adapter(path)
    picture = picture or picture_of(path)
    stem = _file_name(name or adapter.metadata.get("ss_output_name", "") or path.stem)
    with TemporaryDirectory(prefix="rarebit-") as temporary:
        copy = Path(temporary) / f"{stem}.safetensors"
        _write_with_thumbnail(path, copy, thumbnail(picture) if picture else None)
        files = [copy, *write_sidecars(adapter, copy, picture)]
        with replacing(out) as target, zipfile.ZipFile(target, "w") as archive:
            for file in files:
                archive.writestr(zipfile.ZipInfo(file.name, _FIRST_DAY), file.read_bytes())
    return [file.name for file in files]


def _write_with_thumbnail(path: Path, copy: Path, uri: str | None) -> None:
    """The same tensors; with the picture in the metadata, if there is room for it."""
    header = read_header(path)
    tensors = safetensors.torch.load_file(path)
    writable = all(tensor.dtype in DTYPES.values() for tensor in tensors.values())
    if uri is None or not writable or header.data_start + len(uri) + _ROOM > MAX_HEADER:
        copy.write_bytes(path.read_bytes())
    else:
        write_tensors(copy, tensors, {**header.metadata, THUMBNAIL_KEY: uri})


def _last_preview(run: Path) -> Path | None:
    """The first picture of the newest preview that was drawn with the adapter."""
    for folder in sorted(run.glob("previews/step-*"), reverse=True):
        try:
            records = json.loads((folder / "prompts.json").read_bytes())
            names = [str(one["file"]) for one in records if one.get("strength", 1) != 0]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        for name in names:
            if re.fullmatch(r"[\w-]+\.png", name) and (folder / name).is_file():
                return folder / name
    return None


def _from_uri(uri: str) -> bytes:
    """The picture of a data URI; empty where there is none."""
    if len(uri) > _MAX_THUMBNAIL or not uri.startswith("data:image/"):
        return b""
    try:
        return base64.b64decode(uri.partition(",")[2], validate=True)
    except ValueError:
        return b""


def _small(data: bytes, side: int, kind: str) -> bytes | None:
    """A picture of any format, smaller and without metadata; None where it can't be read."""
    try:
        picture = load_rgb(data)
    except ImageProblem:
        return None
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 80} if kind == "JPEG" else {}))
    return buffer.getvalue()


def _file_name(text: str) -> str:
    """A stranger's title as the name of a file."""
    safe = re.sub(r"[^\w .-]+", " ", text)[:80]
    return re.sub(r"\s+", " ", safe).strip(" .") or "adapter"
