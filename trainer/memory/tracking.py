"""How many bytes of tensors are alive, operation by operation.

Works on real tensors and on those of torch's meta device, which have shapes but no memory: a step
of a model of any size can be followed within seconds. What is counted is what CUDA's allocator
would be asked for: every storage once, in blocks of 512 bytes. What an operation uses inside and
gives back (cuDNN's workspaces) is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from trainer.untyped import is_sequence

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
        at_peak: called whenever the peak rises.
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
        key = _signature(func, args, kwargs)
        result = _results[key].again() if key in _results else func(*args, **(kwargs or {}))
        tensors = [result] if isinstance(result, Tensor) else tree_leaves(result)
        is_new = [self._count(t.untyped_storage()) for t in tensors if isinstance(t, Tensor)]
        if key and key not in _results and all(is_new):
            _results[key] = _Shapes(result)
        return result

    def _count(self, storage: torch.UntypedStorage) -> bool:
        """Whether a storage was new."""
        if storage in self._seen:
            return False
        self._seen[storage] = True
        size = rounded(storage.nbytes())
        self.live += size
        weakref.finalize(storage, self._release, size).atexit = False
        self.peak_besides = max(self.peak_besides, self.live - self.set_aside)
        if self.live > self.peak:
            self.peak = self.live
            if self.at_peak:
                self.at_peak()
        return True

    def _release(self, size: int) -> None:
        self.live -= size


def rounded(size: int) -> int:
    """Bytes that CUDA's allocator hands out for so many."""
    return -(-size // BLOCK) * BLOCK


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors together, each storage once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    # torch has no public name for what a storage is on the meta device, where its address is 0.
    sizes = {s._cdata: s.nbytes() for s in storages}  # pyright: ignore[reportPrivateUsage]
    return sum(rounded(size) for size in sizes.values())


def tensors_of(*modules: torch.nn.Module) -> list[Tensor]:
    """Parameters and buffers of modules."""
    return [t for module in modules for t in (*module.parameters(), *module.buffers())]


# ----------------------------------------------------------- quicker shapes on the meta device


class _Shapes:
    """What tensors on the meta device are made again from."""

    def __init__(self, result: Any) -> None:
        leaves, self.structure = tree_flatten(result)
        self.leaves: list[Any] = [
            (leaf.shape, leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf
            for leaf in leaves
        ]

    def again(self) -> Any:
        """New tensors of the same shapes, strides and number formats."""
        made = [
            torch.empty_strided(leaf[0], leaf[1], dtype=leaf[2], device="meta")
            if is_sequence(leaf)
            else leaf
            for leaf in self.leaves
        ]
        return tree_unflatten(made, self.structure)


# torch finds shapes on the meta device by running Python for a millisecond, again for each of the
# many blocks of one shape. Results are remembered for all operations that make new tensors.
_results: dict[tuple[Any, ...] | None, _Shapes] = {}


def _signature(func: Any, args: Sequence[Any], kwargs: dict[str, Any] | None) -> Any:
    """The same for calls with results of the same shapes; None where they are not remembered."""
    if _changes_something(func):
        return None
    parts: list[Any] = [func, *(kwargs or ())]
    on_meta = False
    for arg in (*args, *(kwargs or {}).values()):
        for value in arg if is_sequence(arg) else (arg,):
            if isinstance(value, Tensor):
                if not value.is_meta:
                    return None
                on_meta = True
                value = (value.shape, value.stride(), value.dtype)
            parts += (type(value), value)
        parts.append(len(parts))
    return tuple(parts) if on_meta else None


@cache
def _changes_something(func: Any) -> bool:
    """Whether an operation writes to its arguments, or gives views of them."""
    results = func._schema.returns
    return func._schema.is_mutable or any(r.alias_info is not None for r in results)


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
def fused_attention() -> Generator[None]:
    """On the meta device torch spells attention out; a card's kernels never make the N² matrix."""

    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return cast(Tensor, _FusedAttention.apply(query, key, value))

    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before
