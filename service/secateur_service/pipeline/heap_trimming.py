"""Keeps the C library from holding on to memory that is no longer used.

Matrices of a few megabytes come from the heap, which glibc neither shares between threads nor returns while a small
allocation lies above them: the process would grow with every block, although nothing of the block is left. Returning
everything all the time would cost as much as it saves, because every page that is allocated again has to be cleared.
Asking malloc how much it holds is slow too where it holds many small pieces, so it is only asked once the process has
grown. How much may be held is what a block of a small model frees between two of its stages; with half of it, a quarter
of a job's processor time went into clearing pages (`benchmarks/compare_llmcompressor.py`, with the report).
"""

from __future__ import annotations

import ctypes
import functools
import os

from secateur_service.sizing.budget import HEAP_SLACK_BYTES

_M_ARENA_MAX = -8  # malloc.h


class HeapTrimmer:
    """Trims the heap, and makes all threads started from now on share one, so that each can reuse what others free.

    Does nothing where the C library is not glibc: others have no such functions and do not need them.
    """

    def __init__(self) -> None:
        self._library = _glibc()
        self._others = 0  # memory not from malloc, such as an accelerator driver's, or that cannot be returned
        self._size = 0  # of the process, when malloc was asked last, or less
        if self._library is not None:
            self._library.mallopt(_M_ARENA_MAX, 1)
            self.trim()

    def trim(self) -> None:
        """Return free memory to the system, if there is enough of it to be worthwhile."""
        if self._library is None:
            return
        size = _private_bytes()
        if size <= self._size + HEAP_SLACK_BYTES // 8:
            self._size = min(self._size, size)
            return
        self._size = size
        if self._held_bytes() - self._others > HEAP_SLACK_BYTES:
            self._library.malloc_trim(0)
            self._others, self._size = self._held_bytes(), _private_bytes()

    def _held_bytes(self) -> int:
        """Memory that the process holds but malloc's callers do not: free, or not from malloc."""
        assert self._library is not None
        info = self._library.mallinfo2()
        return _private_bytes() - info.uordblks - info.hblkhd


def _private_bytes() -> int:
    """Resident memory of the process that it shares with no other."""
    with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123 - between all pieces of work
        resident, shared = map(int, file.read().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGESIZE")


class _MallInfo2(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is a glibc that can report more than 2 GiB of memory: 2.33 or later."""
    library = ctypes.CDLL(None)
    if not all(hasattr(library, name) for name in ("malloc_trim", "mallopt", "mallinfo2")):
        return None
    library.mallinfo2.restype = _MallInfo2
    return library
