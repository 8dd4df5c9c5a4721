"""Functions of torch with the types that torch itself does not give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

_linalg = cast(Any, torch.linalg)
norm: Callable[..., Tensor] = _linalg.norm
vector_norm: Callable[..., Tensor] = _linalg.vector_norm
qr: Callable[..., tuple[Tensor, Tensor]] = _linalg.qr
svd: Callable[..., tuple[Tensor, Tensor, Tensor]] = _linalg.svd
svdvals: Callable[[Tensor], Tensor] = _linalg.svdvals
inv: Callable[[Tensor], Tensor] = _linalg.inv
eigh: Callable[[Tensor], tuple[Tensor, Tensor]] = _linalg.eigh


def floats(values: Tensor) -> list[float]:
    """The numbers of a vector."""
    return cast("list[float]", values.tolist())


def split(tensor: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """A tensor cut along its first axis into pieces of the given sizes."""
    return cast("tuple[Tensor, ...]", tensor.split(sizes))


def named_modules(root: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Every module within another, itself among them, with its dotted path."""
    return cast("Iterable[tuple[str, nn.Module]]", root.named_modules())
