"""Progress that is told now and then, however often it is made."""

from __future__ import annotations

import time
from collections.abc import Callable

TELL_SECONDS = 5.0


class Throttle:
    """Passes a call on when the last one was some seconds ago.

    Args:
        tell: what is to be called now and then.
    """

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self._told = float("-inf")

    def __call__(self, done: int, total: int, *about: object) -> None:
        """Tell how much is done, if it is time or all is."""
        if time.monotonic() - self._told >= TELL_SECONDS or done == total:
            self._told = time.monotonic()
            self._tell(done, total, *about)
