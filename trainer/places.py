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


def cache_folder() -> Path:
    """Folder of cached latents and text embeddings; ``RAREBIT_CACHE`` moves it."""
    return Path(os.environ.get("RAREBIT_CACHE") or RUNS / ".cache")


def shown(path: Path) -> str:
    """A path as short as it can be typed from the current folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
