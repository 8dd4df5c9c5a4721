"""How the C library hands out main memory (glibc's, so Linux; elsewhere nothing is done)."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

# Numbers of mallopt(3), and about what it comes to by itself after large tensors have been freed.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_USUAL = {_TRIM_THRESHOLD: 256 * 2**20, _MMAP_THRESHOLD: 32 * 2**20, _MMAP_MAX: 65536}


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within the block freed memory is kept for the next tensors, and given back at its end.

    Otherwise tensors of more than 32 MiB go back to the system when they are freed, and the next
    ones come as pages that it has to clear one by one: a quarter of the time that a VAE takes.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**30)
    try:
        yield
    finally:
        for option, value in _USUAL.items():
            library.mallopt(option, value)
        library.malloc_trim(0)


def give_back_freed_memory() -> None:
    """Hands what the library still holds back to the system."""
    library = _glibc()
    if library:
        library.malloc_trim(0)


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
