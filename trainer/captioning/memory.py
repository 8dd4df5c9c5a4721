"""What memory local models for captions and masks take, told before they load. Never torch."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from trainer import places
from trainer.errors import UserError
from trainer.models.configs import read_json
from trainer.models.safetensors_header import read_header
from trainer.runs.layout import list_runs
from trainer.runs.status import at_work
from trainer.untyped import is_mapping

GIB = 2**30
WORKING_SHARE = 0.25
"""Assumed: memory beside the weights of such a model while it works, as a share of them."""
BYTES_PER_PIXEL = 2048
"""Of a model that makes masks, beside that; SAM of 1024 pixels a side makes 1.56 GiB of tensors
(followed on the meta device), SAM 2 0.29."""
SIDE = 1024
"""Pixels that such a model sees a side, where its folder says nothing."""


def weights_of(path: Path) -> int:
    """Bytes of a model's weights as they lie on the disk: a folder's, or an ONNX file's."""
    if path.is_file():
        return path.stat().st_size
    files = [*path.glob("*.safetensors")] or [*path.glob("*.onnx")]
    return sum(file.stat().st_size for file in files)


def memory_of(path: Path, bytes_each: int = 4, *, masks: bool = False) -> float:
    """About the GiB that a model takes at most while it works.

    Args:
        bytes_each: of a weight as it is loaded; an ONNX file's stay as they are.
        masks: whether it makes masks, which takes memory for each pixel.

    Raises:
        UserError: its weights are damaged.
    """
    files = () if path.is_file() else path.glob("*.safetensors")
    tensors = (one for file in files for one in read_header(file).tensors.values())
    size = bytes_each * sum(math.prod(one.shape) for one in tensors)
    pixels = side_of(path) ** 2 if masks else 0
    return ((size or weights_of(path)) * (1 + WORKING_SHARE) + pixels * BYTES_PER_PIXEL) / GIB


def side_of(path: Path, usual: int = SIDE) -> int:
    """Pixels that a model that makes masks sees a side, as its folder says, or else as usual."""
    file = path / "preprocessor_config.json"
    said: Any = read_json(file).get("size") if file.is_file() else None
    sides = cast("list[object]", [*said.values()] if is_mapping(said) else [said])
    return max((one for one in sides if isinstance(one, int)), default=usual)


def memory_said(path: Path, *, masks: bool = False) -> str:
    """The memory that a model takes, in words."""
    try:
        return f"about {memory_of(path, masks=masks):.1f} GiB"
    except UserError:
        return "damaged"


def plugs(bytes_each: int) -> dict[str, float]:
    """GiB that each model of this machine takes at most, by what it is for and its name.

    Damaged ones are left out: the page names them.

    Args:
        bytes_each: of a captioner's weight as it is loaded; those that make masks take float32.
    """
    captions = [("captions", places.CAPTIONERS / name) for name in places.captioner_folders()]
    masks = [("masks", places.MASKERS / name) for name in places.masker_models()]
    found: dict[str, float] = {}
    for kind, path in (*captions, *masks):
        is_mask = kind == "masks"
        with suppress(UserError):
            size = memory_of(path, 4 if is_mask else bytes_each, masks=is_mask)
            found[f"{kind} by {path.name}"] = size
    return found


def loading(name: str, gib: float | None = None) -> str:
    """What is said before a model is loaded: the memory that it takes, and who else is at work.

    Args:
        gib: what it takes; None: that of a base model, which `fit` tells.
    """
    told = f"Loading {name}"
    told += "" if gib is None else f": about {gib:.1f} GiB of memory"
    if busy := next((run for run in list_runs(places.RUNS) if at_work(run)), None):
        told += f", beside the run {busy.name}, which is training"
    return told
