"""Keeps the C library from holding on to memory that a block has given back.

Matrices of a few megabytes come from the heap, which glibc neither shares between threads nor returns while something
small lies above them: the process would grow with every block, although nothing of the block is left.
"""

from __future__ import annotations

import ctypes
import functools

_M_ARENA_MAX = -8  # malloc.h


def share() -> None:
    """Let threads that start from now on use one heap, so that what one gives back another can have."""
    library = _glibc()
    if library is not None:
        library.mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Give free memory back to the system."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc: others have no such functions, and no such need."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
