"""From what the user calls a base model to a folder or file on this machine."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.errors import UserError
from trainer.models import families, hub
from trainer.models.diffusers_folder import missing_parts

Kind = Literal["built-in", "folder", "file", "hub"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Place:
    """Where a base model lies: a diffusers folder, or a single file."""

    kind: Kind
    path: Path


def built_in_models() -> dict[str, Path]:
    """Names and places of the models in the repository's ``models/``, the user's own included."""
    found: dict[str, Path] = {}
    for folder in (families.MODELS_FOLDER / "user", families.MODELS_FOLDER):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if (path / "model_index.json").is_file():
                found[path.name] = path
            elif path.suffix == _SUFFIX and path.is_file():
                found[path.stem] = path
    return found


def locate(name: str) -> Place:
    """Finds a base model: a name in ``models/``, then a folder or file, then a hub id.

    A hub id is looked for in the hub's cache first and downloaded only if it is not there whole.

    Raises:
        UserError: nothing is there, or it cannot be downloaded.
    """
    built_in = built_in_models()
    if name in built_in:
        return Place("built-in", built_in[name])
    path = Path(name)
    with suppress(OSError, RuntimeError, ValueError):  # names that no path can have, such as "~x"
        path = path.expanduser()
        if path.exists():
            return Place("folder" if path.is_dir() else "file", path)
    if _HUB_NAME.fullmatch(name) and not name.endswith(_SUFFIX):
        return Place("hub", _from_hub(name))
    close = difflib.get_close_matches(name, built_in, n=1)
    raise UserError(
        f"There is no base model {name!r}: no such built-in name, folder or file.",
        f"Did you mean {close[0]}?" if close else _what_to_give(built_in),
    )


def _what_to_give(built_in: Iterable[str]) -> str:
    return (
        f"Built-in: {', '.join(sorted(built_in)) or 'none'}. Or give a diffusers folder, a "
        ".safetensors file, or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5."
    )


def _from_hub(name: str) -> Path:
    cached = hub.cached_snapshot(name)
    if cached is not None and not missing_parts(cached):
        return cached
    return hub.download(name)
