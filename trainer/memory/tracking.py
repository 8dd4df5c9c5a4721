"""How many bytes of tensors are alive, operation by operation.

Works on real tensors and on those of torch's meta device, which have shapes but no memory: a step
of a model of any size can be followed within seconds. What is counted is what CUDA's allocator
would be asked for: every storage once, in blocks of 512 bytes. What an operation uses inside and
gives back (cuDNN's workspaces) is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

BLOCK = 512


class StorageTracker(TorchDispatchMode):
    """Counts the storages that operations make while it is entered.

    Args:
        known: tensors that were there before, and are not counted.

    Attributes:
        live: bytes alive now.
        peak: the most at any time.
        set_aside: bytes of those alive that `peak_besides` leaves out.
        peak_besides: the most of all others at any time.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.set_aside = 0
        self.peak_besides = 0
        self.at_peak: Callable[[], None] | None = None
        self._seen: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs the operation, then counts what is new."""
        result = shapes_only(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen[storage] = True
        size = rounded(storage.nbytes())
        self.live += size
        weakref.finalize(storage, self._release, size).atexit = False
        self.peak_besides = max(self.peak_besides, self.live - self.set_aside)
        if self.live > self.peak:
            self.peak = self.live
            if self.at_peak:
                self.at_peak()

    def _release(self, size: int) -> None:
        self.live -= size


def rounded(size: int) -> int:
    """Bytes that CUDA's allocator hands out for so many."""
    return -(-size // BLOCK) * BLOCK


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors together, each storage once."""
    sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(rounded(size) for size in sizes.values())


# ----------------------------------------------------------- quicker shapes on the meta device

_aten = torch.ops.aten
_BINARY = {_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor}
_UNARY = {
    _aten.gelu.default,
    _aten.gelu_backward.default,
    _aten.silu.default,
    _aten.silu_backward.default,
    _aten.sigmoid.default,
    _aten.sigmoid_backward.default,
}


def shapes_only(func: Any, args: tuple[Any, ...]) -> Any:
    """The result of a common operation on the meta device; None for everything else.

    torch finds these shapes by running Python for a millisecond, which makes up half of the time
    of following a step.
    """
    first = args[0] if args else None
    if not isinstance(first, Tensor) or not first.is_meta:
        return None
    if func is _aten.addmm_.default:
        return first
    if func is _aten.addmm.default:
        return first.new_empty(len(args[1]), args[2].shape[1])
    if func in _UNARY:
        return torch.empty_like(first)
    if func in _BINARY:
        return torch.empty_like(first) if _alike(first, args[1]) else None
    if func is _aten.native_layer_norm.default:
        rows = first.shape[: first.dim() - len(args[1])]
        return _normed(first, (*rows, *([1] * len(args[1]))))
    if func is _aten.native_group_norm.default:
        return _normed(first, (args[3], args[6]))
    masked = func in (
        _aten.native_layer_norm_backward.default,
        _aten.native_group_norm_backward.default,
    )
    if masked and list(args[-1]) == [True, False, False]:
        return torch.empty_like(first), None, None
    return None


def _alike(first: Tensor, other: object) -> bool:
    if isinstance(other, Tensor):
        same = other.shape == first.shape and other.dtype == first.dtype
        return same and other.is_meta and other.stride() == first.stride()
    return isinstance(other, int | float) and first.is_floating_point()


def _normed(inputs: Tensor, groups: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    mean = inputs.new_empty(groups, dtype=torch.float32)
    # The kernels' results are contiguous, whatever the strides of their input.
    return inputs.new_empty(inputs.shape), mean, torch.empty_like(mean)


# ------------------------------------------------------------------------- a card's attention


class _FusedAttention(torch.autograd.Function):
    """Flash attention's memory (arXiv 2205.14135): inputs, output and one number a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        """(B, heads, N, D) each to the same."""
        batch, heads, length, _ = query.shape
        # As on the card: heads lie inside the rows, so that joining them copies nothing.
        result = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        sums = query.new_empty((batch, heads, length), dtype=torch.float32)
        ctx.save_for_backward(query, key, value, result, sums)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Gradients of all three."""
        query, key, value = ctx.saved_tensors[:3]
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def fused_attention() -> Iterator[None]:
    """On the meta device torch spells attention out; a card's kernels never make the N² matrix."""

    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return _FusedAttention.apply(query, key, value)

    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before
