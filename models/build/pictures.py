"""Stage "pictures": every usable emoji picture, once, at the sizes that training needs.

Fluent 3D comes as 256-pixel WebP, Noto as 64-pixel PNG. Skin-tone variants add nothing and are left
out everywhere; the subjects of the example sets are left out so that the model has never seen them.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.build.packages import FLUENT, NAMES, NOTO

SIZE = 64
"""Pixels of a training picture's side."""
SUBJECT = 56
"""Pixels that the emoji takes of it, so that the background always shows."""
LARGE = 80
"""Side of the copies that are turned and scaled while the VAE learns."""

HELD_OUT = frozenset(
    (
        "parrot",
        "flamingo",
        "peacock",
        "teddy bear",
        "t-rex",
        "taxi",
        "oncoming taxi",
        "police car",
        "oncoming police car",
        "poodle",
        "robot",
        "fire engine",
        "alien monster",
        "piñata",
        "nesting dolls",
        "goblin",
        "ogre",
        "moai",
        "rocket",
    )
)
"""Labels kept for the example sets (more than are used), in both styles."""
SKIN_TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
STYLES = {"3d": FLUENT, "flat": NOTO}


@dataclass(frozen=True)
class Picture:
    """One emoji in one style; `row` is its place in the stacked tensors."""

    label: str
    tags: tuple[str, ...]
    style: str
    row: int


def emoji_names(work: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Hexcode (lower case, without the variation selector) → (label, tags)."""
    path = work / "packages" / NAMES.folder / "en" / "data.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {
        plain_code(entry["hexcode"]): (entry["label"].lower(), tuple(entry.get("tags", ())))
        for entry in entries
    }


def plain_code(hexcode: str) -> str:
    """The code by which packages agree: lower case, no variation selector, no padding."""
    return hexcode.lower().replace("-fe0f", "").lstrip("0")


def picture_folder(work: Path, style: str) -> Path:
    root = work / "packages" / STYLES[style].folder
    return root / "assets" if style == "3d" else root / "img" / "google" / "64"


def read_rgba(path: Path, side: int) -> np.ndarray:
    """(side, side, 4) uint8 with premultiplied alpha, resized by Lanczos."""
    with Image.open(path) as image:
        # Pillow resizes "RGBa" (premultiplied) without dark fringes at transparent edges.
        premultiplied = image.convert("RGBA").convert("RGBa")
        return np.asarray(premultiplied.resize((side, side), Image.Resampling.LANCZOS)).copy()


def build(work: Path) -> None:
    """Writes pictures.json and pictures.safetensors (two stacks, (N, 4, side, side) uint8)."""
    names = emoji_names(work)
    records: list[dict[str, object]] = []
    small: list[np.ndarray] = []
    large: list[np.ndarray] = []
    for style in STYLES:
        for path in sorted(picture_folder(work, style).iterdir()):
            code = plain_code(path.stem)
            if any(tone in code for tone in SKIN_TONES):
                continue
            label, tags = names.get(code, (code, ()))
            if label in HELD_OUT:
                continue
            records.append({"label": label, "tags": list(tags), "style": style})
            small.append(read_rgba(path, SUBJECT))
            large.append(read_rgba(path, LARGE))
    tensors = {
        name: torch.from_numpy(np.stack(stack)).permute(0, 3, 1, 2).contiguous()
        for name, stack in [("small", small), ("large", large)]
    }
    save_file(tensors, work / "pictures.safetensors.part")
    (work / "pictures.json").write_text(json.dumps(records, ensure_ascii=False, indent=0))
    (work / "pictures.safetensors.part").rename(work / "pictures.safetensors")


def load(work: Path) -> tuple[list[Picture], dict[str, Tensor]]:
    """The pictures' records and their stacked pixels."""
    records = json.loads((work / "pictures.json").read_text())
    pictures = [
        Picture(record["label"], tuple(record["tags"]), record["style"], row)
        for row, record in enumerate(records)
    ]
    return pictures, load_file(work / "pictures.safetensors")
