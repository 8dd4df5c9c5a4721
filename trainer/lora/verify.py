"""Whether an exported file is the adapter that was trained: read back and compared in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer.lora.attach import count_layers
from trainer.lora.energy import matrices
from trainer.lora.files import (
    AdapterFile,
    LoraLayer,
    Precision,
    collect,
    count_parts,
    read_adapter,
)
from trainer.lora.names import ModuleKey, shorten
from trainer.models.base import BaseModel
from trainer.models.safetensors_header import read_header

TOLERANCES: dict[Precision, float] = {"fp32": 1e-6, "fp16": 2e-3, "bf16": 1e-2}
"""Greatest difference of a layer's change, relative to that change. Rounding alone gives up to
about 5e-4 in fp16 and 4e-3 in bf16; more in fp16 means numbers too small for it."""
_PRECISIONS: dict[str, Precision] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


@dataclass(frozen=True)
class VerifyReport:
    """How an adapter file compares with the live adapter.

    Attributes:
        precision: coarsest number format of the file's matrices.
        matched: layers that are in both.
        missing: layers of the live adapter that the file lacks.
        unexpected: layers of the file that the live adapter lacks.
        dead: layers of the file that change nothing.
        worst: greatest relative difference of a layer's change.
        worst_layer: where that is; None without matched layers.
    """

    precision: Precision
    matched: tuple[ModuleKey, ...]
    missing: tuple[ModuleKey, ...]
    unexpected: tuple[ModuleKey, ...]
    dead: tuple[ModuleKey, ...]
    worst: float
    worst_layer: ModuleKey | None

    @property
    def exact(self) -> bool:
        """Whether the file is the live adapter, but for the rounding of its precision."""
        complete = bool(self.matched) and not self.missing and not self.unexpected
        return complete and self.worst <= TOLERANCES[self.precision]

    def summary(self) -> str:
        """In one line, what was compared and everything that is wrong."""
        count = count_layers(count_parts(self.matched))
        limit = TOLERANCES[self.precision]
        difference = f"differ by up to {self.worst:.1e} of the adapter's change in {self.precision}"
        parts = [f"read back: {count} {difference}"]
        if self.worst > limit:
            parts.append(f"more than {limit:.0e} in {self.worst_layer}: save in fp32")
        if self.missing:
            parts.append(f"missing: {shorten(self.missing)}")
        if self.unexpected:
            parts.append(f"unexpected: {shorten(self.unexpected)}")
        if self.dead:
            which = "all layers" if len(self.dead) == len(self.matched) else shorten(self.dead)
            parts.append(f"without effect (B = 0): {which}")
        return "; ".join(parts)


def verify_export(base: BaseModel, name: str, path: Path) -> VerifyReport:
    """Reads an exported file and compares each layer's change with the live adapter's.

    Raises:
        UserError: the file can't be read, or has numbers that are not finite.
        ValueError: no such adapter on the base model.
    """
    return compare(collect(base, name), read_adapter(path), file_precision(path))


def file_precision(path: Path) -> Precision:
    """The coarsest number format of a file's matrices.

    Raises:
        UserError: the file is damaged.
    """
    dtypes = {entry.dtype for entry in read_header(path).tensors.values() if entry.shape}
    precision: Precision = "fp32"
    for dtype, found in _PRECISIONS.items():
        precision = found if dtype in dtypes else precision
    return precision


def compare(live: AdapterFile, saved: AdapterFile, precision: Precision) -> VerifyReport:
    """Compares two adapters layer by layer."""
    matched = [key for key in live.layers if key in saved.layers]
    differences = {key: relative_difference(live.layers[key], saved.layers[key]) for key in matched}
    worst_layer = max(matched, key=lambda key: differences[key], default=None)
    return VerifyReport(
        precision=precision,
        matched=tuple(matched),
        missing=tuple(key for key in live.layers if key not in saved.layers),
        unexpected=tuple(key for key in saved.layers if key not in live.layers),
        dead=tuple(saved.dead_layers()),
        worst=differences[worst_layer] if worst_layer else 0.0,
        worst_layer=worst_layer,
    )


def relative_difference(reference: LoraLayer, other: LoraLayer) -> float:
    """Frobenius norm of s'B'A' - sBA over that of sBA, s = alpha / rank; infinite over a zero."""
    up, down = matrices(reference)
    other_up, other_down = matrices(other)
    if up.shape[0] != other_up.shape[0] or down.shape[1] != other_down.shape[1]:
        return float("inf")
    size = _product_norm(up, down)
    difference = _product_norm(torch.cat([other_up, -up], 1), torch.cat([other_down, down], 0))
    if size == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / size


def _product_norm(up: Tensor, down: Tensor) -> float:
    """Frobenius norm of up · down, from their triangular factors: never the whole matrix."""
    up_factor = torch.linalg.qr(up, mode="r").R
    down_factor = torch.linalg.qr(down.T, mode="r").R
    return float(torch.linalg.norm(up_factor @ down_factor.T))
