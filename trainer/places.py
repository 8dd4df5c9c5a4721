"""Where things lie that no argument names."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]

RUNS = Path(os.environ.get("RAREBIT_RUNS") or PROJECT / "runs")
"""Run folders, where ``--run`` does not say otherwise; ``RAREBIT_RUNS`` moves them."""

DATASETS = Path(os.environ.get("RAREBIT_DATASETS") or PROJECT / "datasets")
"""Image sets of the page: the bundled examples, and those that users make there."""

ADAPTERS = Path(os.environ.get("RAREBIT_ADAPTERS") or PROJECT / "models" / "user" / "adapters")
"""Adapter files that users brought or made from others; those of runs lie in their runs."""

PICTURES = Path(os.environ.get("RAREBIT_PICTURES") or PROJECT / "pictures")
"""What the page draws, in a folder for each day."""

SERVERS = Path(os.environ.get("RAREBIT_SERVERS") or PROJECT / "caption-servers.toml")
"""Servers that the owner of this machine lets the page ask for captions."""

CAPTIONERS = Path(
    os.environ.get("RAREBIT_CAPTIONERS") or PROJECT / "models" / "user" / "captioners"
)
"""Models that make captions, a folder each: transformers' layout or a tagger's, for the page."""
MASKERS = Path(os.environ.get("RAREBIT_MASKERS") or PROJECT / "models" / "user" / "maskers")
"""Models that make masks, a folder each in transformers' layout or an ONNX file, for the page."""


def captioner_folders() -> list[str]:
    """The names of those that make captions."""
    marks = ("config.json", "selected_tags.csv")
    return sorted({path.parent.name for mark in marks for path in CAPTIONERS.glob(f"*/{mark}")})


def masker_models() -> list[str]:
    """The names of those that make masks."""
    folders = {path.parent.name for path in MASKERS.glob("*/config.json")}
    return sorted(folders | {path.name for path in MASKERS.glob("*.onnx")})


def cache_folder() -> Path:
    """Folder of cached latents and text embeddings; ``RAREBIT_CACHE`` moves it."""
    return Path(os.environ.get("RAREBIT_CACHE") or RUNS / ".cache")


def shown(path: Path) -> str:
    """A path as short as it can be typed from the current folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
