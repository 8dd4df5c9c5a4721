"""From what the user calls a base model to a folder or file on this machine."""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from pathlib import Path

from trainer.errors import UserError
from trainer.models import families, hub
from trainer.models.diffusers_folder import missing_parts

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.safetensors)(?<!\.SAFETENSORS)")


def built_in_models() -> dict[str, Path]:
    """Names and places of the models in the repository's ``models/``, the user's own included."""
    found: dict[str, Path] = {}
    for folder in (families.MODELS_FOLDER / "user", families.MODELS_FOLDER):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if (path / "model_index.json").is_file():
                found[path.name] = path
            elif path.suffix.lower() == ".safetensors" and path.is_file():
                found[path.stem] = path
    return found


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a model's on the Hugging Face hub."""
    return bool(_HUB_ID.fullmatch(name))


def find(name: str) -> Path | None:
    """A base model on this machine; None where it is not, or not whole, or may be on the hub.

    Looked for in this order: a name in ``models/``, a folder or file, the hub's cache.
    """
    if built_in := built_in_models().get(name):
        return built_in
    with suppress(OSError, RuntimeError, ValueError):  # names that no path can have, such as "~x"
        path = Path(name).expanduser()
        if path.exists():
            return path
    cached = hub.cached_snapshot(name) if is_hub_id(name) else None
    return cached if cached and not missing_parts(cached) else None


def locate(name: str) -> Path:
    """`find`; a hub id that is not there is downloaded.

    Raises:
        UserError: nothing is there, or it cannot be downloaded.
    """
    found = find(name)
    if found is None and is_hub_id(name):
        return hub.download(name)
    if found is None:
        raise no_such_base(name)
    return found


def no_such_base(name: str) -> UserError:
    """What to say where nothing has this name."""
    built_in = sorted(built_in_models())
    close = difflib.get_close_matches(name, built_in, n=1)
    return UserError(
        f"There is no base model {name!r}: no such built-in name, folder or file.",
        f"Did you mean {close[0]}?"
        if close
        else f"Built-in: {', '.join(built_in) or 'none'}. Or give a diffusers folder, a "
        ".safetensors file, or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5 (SD 1) "
        "or stabilityai/stable-diffusion-xl-base-1.0 (SDXL).",
    )
