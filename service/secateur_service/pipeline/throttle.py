"""Limits how often progress is reported."""

from __future__ import annotations

import time
from collections.abc import Callable

TELL_SECONDS = 5.0


class Throttle:
    """Forwards a call if the last forwarded one was long enough ago.

    Args:
        tell: the function to call.
        seconds: how long.
    """

    def __init__(self, tell: Callable[..., None], seconds: float = TELL_SECONDS) -> None:
        self._tell = tell
        self._seconds = seconds
        self._told = float("-inf")

    def __call__(self, done: int, total: int, *about: object) -> None:
        """Report how much is done, if it is time or all is done."""
        if time.monotonic() - self._told >= self._seconds or done == total:
            self._told = time.monotonic()
            self._tell(done, total, *about)
