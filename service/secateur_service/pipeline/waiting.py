"""Waits for another thread while still checking whether to stop."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")

_LOOK_SECONDS = 0.5


def wait_for(future: Future[T], check: Callable[[], None]) -> T:
    """The result of a future.

    Args:
        future: runs in another thread.
        check: called periodically while it runs; raises to stop waiting.
    """
    while not wait([future], timeout=_LOOK_SECONDS).done:
        check()
    return future.result()
