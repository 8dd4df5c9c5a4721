"""Frozen weights that stay in their file: each is read where it is used, and let go after that.

Weights that training needs in the number format of their file are not copied when they are loaded:
they are pages of the file, which the system reads when they are first looked at. Those of a layer
need not be in memory while other layers compute. Pages that are let go stay in the system's cache
of the disk while there is room for them, so that using them again costs little, and are the first
to leave it when there is none.

A pass forward goes through the layers in one order and one backward in the other, and in between
memory is full of what the first keeps for the second. So weights may stay until the process takes
as much as most of them alone would need: they leave while a pass forward fills memory, and stay
when the one backward has emptied it again, of which the next pass forward has the use.

On Linux only; elsewhere nothing is done.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from torch import Tensor, nn

_SMALL = 2**16
"""Bytes; less is not worth a call of the system."""
_SHARE = 0.7
"""Of the weights: what they and all that has come since they were read may take together."""
_DONTNEED = 4  # of madvise(2) on Linux: pages of a private mapping are read from the file again


class Pages:
    """The pages of one tensor that no other tensor shares.

    They can be let go as long as nobody has written to them, which holds for frozen weights.
    """

    def __init__(self, tensor: Tensor, start: int, length: int) -> None:
        # Keeps the mapping, so that these addresses can't become anything else's.
        self._storage = tensor.untyped_storage()
        self._address = tensor.data_ptr()
        self._start, self._length = start, length

    def are_of(self, tensor: Tensor) -> bool:
        """Whether the tensor still lies there."""
        return not tensor.is_meta and tensor.data_ptr() == self._address

    def __len__(self) -> int:
        """Their size in bytes."""
        return self._length

    def let_go(self) -> None:
        """Takes them out of this process's memory, until they are looked at again."""
        _system().madvise(self._start, self._length, _DONTNEED)


class Room:
    """How much memory this process may take before weights have to leave."""

    def __init__(self, size: int) -> None:
        """Room for so many bytes more than it takes now."""
        self._most = _resident() + size

    def is_full(self) -> bool:
        """Whether all of it is taken."""
        return _resident() >= self._most


def let_go(layer: nn.Module) -> None:
    """Lets a layer's weight go where there is no room for it.

    Only where `stay_in_file` found it in a file, and it still is there.
    """
    found: tuple[Pages, Room] | None = layer.__dict__.get("pages")
    if found is not None:
        pages, room = found
        if room.is_full() and pages.are_of(_weight(layer)):
            pages.let_go()


def stays_in_file(layer: nn.Module) -> bool:
    """Whether `stay_in_file` has found the layer's weight in a file."""
    return "pages" in layer.__dict__


def stay_in_file(root: nn.Module) -> None:
    """Notes which layers' weights are pages of a file, for `let_go`, and lets them go."""
    files = _files()
    found = {}
    for layer in root.modules():
        layer.__dict__.pop("pages", None)
        weight = _weight(layer)
        pages = _pages(weight, files) if isinstance(weight, Tensor) else None
        if pages:
            pages.let_go()
            found[layer] = pages
    room = Room(int(_SHARE * sum(map(len, found.values()))))
    for layer, pages in found.items():
        layer.__dict__["pages"] = pages, room


def seen(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The same tensors, to which nobody has written; each is let go once the next is asked for."""
    files = _files()
    for name, tensor in tensors:
        yield name, tensor
        pages = _pages(tensor, files)
        if pages:
            pages.let_go()


def _weight(layer: nn.Module) -> Tensor:
    """As it is kept: the codes of one in half precision (`trainer.memory.quantized`)."""
    found = layer._buffers.get("codes")
    return layer._parameters.get("weight") if found is None else found  # type: ignore[return-value]


def _pages(tensor: Tensor, files: list[tuple[int, int]]) -> Pages | None:
    size = tensor.numel() * tensor.element_size()
    if tensor.device.type != "cpu" or not tensor.is_contiguous() or size < _SMALL:
        return None
    begin = tensor.data_ptr()
    place = bisect.bisect_right(files, (begin, sys.maxsize)) - 1
    if place < 0 or begin + size > files[place][1]:
        return None
    start = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (begin + size) // mmap.PAGESIZE * mmap.PAGESIZE
    return Pages(tensor, start, end - start) if start < end else None


def _files() -> list[tuple[int, int]]:
    """(first address, last + 1) of the mapped files of weights, in order."""
    if sys.platform != "linux":
        return []
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, rights, _, _, _, *name = line.split(maxsplit=5)
        if name and rights[3] == "p" and name[0].removesuffix(" (deleted)").endswith(_ENDINGS):
            begin, end = (int(address, 16) for address in addresses.split("-"))
            found.append((begin, end))
    return sorted(found)


_ENDINGS = (".safetensors",)


def _resident() -> int:
    """Bytes of memory that this process takes."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * mmap.PAGESIZE


@lru_cache(maxsize=1)
def _system() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return library
