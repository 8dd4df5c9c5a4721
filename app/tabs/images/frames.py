"""What size a base model trains at, as far as it can be told without loading anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from trainer import places
from trainer.data.names import display_name

_LARGEST_CONFIG = 1 << 20


@dataclass(frozen=True)
class Frame:
    """What pictures are fitted to.

    Attributes:
        resolution: side in pixels of the squares that the base model was trained on.
        step: sides of training pictures are multiples of it, in pixels.
        known: read from the base model's own configuration, and not guessed from its name.
    """

    resolution: int
    step: int
    known: bool


def frame_of(base: str) -> Frame:
    """The frame of a base model by its name.

    A folder in ``models/`` is asked; of everything else only the name is known: 1024 for SDXL,
    else 512.
    """
    for models in (places.PROJECT / "models", places.PROJECT / "models" / "user"):
        for folder in models.iterdir() if models.is_dir() else ():
            if folder.name == base and folder.is_dir():
                found = _read(folder)
                if found is not None:
                    return found
    return Frame(1024 if "xl" in display_name(base).casefold() else 512, 64, known=False)


def _read(folder: Path) -> Frame | None:
    unet, vae = _config(folder / "unet"), _config(folder / "vae")
    side, widths = unet.get("sample_size"), vae.get("block_out_channels")
    if not isinstance(side, int) or not isinstance(widths, list) or not 0 < len(widths) < 8:
        return None
    factor = int(2 ** (len(widths) - 1))
    resolution, step = side * factor, 8 * factor
    return Frame(resolution, step, known=True) if 32 <= resolution <= 4096 else None


def _config(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
