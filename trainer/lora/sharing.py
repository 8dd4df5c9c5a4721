"""An adapter as people pass it on: with its picture in it, and the sidecars that tools read.

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

from PIL import Image
from safetensors.torch import load_file

from trainer.data.images import ImageProblem, load_rgb
from trainer.lora.container import DTYPES, MAX_HEADER, write_tensors
from trainer.lora.content import AdapterFile
from trainer.lora.files import read_adapter
from trainer.lora.sidecars import write_sidecars
from trainer.models.safetensors_header import read_header
from trainer.runs.atomic import replacing

THUMBNAIL_KEY = "modelspec.thumbnail"
_SIDE = 256
_QUALITY = 80
_ROOM = 4096
"""Bytes of the header that are left free beside the thumbnail."""
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
"""Of every file in the archive: the same adapter gives the same bytes."""


def thumbnail(picture: Path) -> str | None:
    """A picture as a small JPEG in a data URI, without its metadata; None if it can't be read."""
    try:
        image = load_rgb(picture.read_bytes())
    except (ImageProblem, OSError):
        return None
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


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
        _write_with_thumbnail(path, copy, adapter, thumbnail(picture) if picture else None)
        files = [copy, *write_sidecars(adapter, copy, picture)]
        with replacing(out) as target, zipfile.ZipFile(target, "w") as archive:
            for file in files:
                archive.writestr(zipfile.ZipInfo(file.name, _FIRST_DAY), file.read_bytes())
    return [file.name for file in files]


def _write_with_thumbnail(
    path: Path, copy: Path, adapter: AdapterFile, picture: str | None
) -> None:
    """The same tensors; with the picture in the metadata, if it has a place there."""
    header = read_header(path)
    tensors = load_file(path)
    length = int.from_bytes(path.open("rb").read(8), "little")
    fits = picture is not None and length + len(picture) + _ROOM <= MAX_HEADER
    if not fits or any(tensor.dtype not in DTYPES for tensor in tensors.values()):
        copy.write_bytes(path.read_bytes())
        return
    assert picture is not None
    write_tensors(copy, tensors, {**header.metadata, THUMBNAIL_KEY: picture})


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


def _file_name(text: str) -> str:
    """A stranger's title as the name of a file."""
    kept = re.sub(r"[^\w .-]+", " ", text)[:80]
    return re.sub(r"\s+", " ", kept).strip(" .") or "adapter"
