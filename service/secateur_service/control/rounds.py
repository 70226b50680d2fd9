"""A thread that does something again and again, until it is told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable

_STOP_SECONDS = 5.0


class Rounds:
    """Calls a function in a thread of its own, which a process that ends does not wait for.

    Args:
        name: of the thread.
        act: one round; returns the seconds until the next, and raises nothing.
        after_seconds: the time before the first round.
    """

    def __init__(self, name: str, act: Callable[[], float], *, after_seconds: float = 0.0) -> None:
        self._act = act
        self._after_seconds = after_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    @property
    def is_stopping(self) -> bool:
        """Whether the round that runs is the last one."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> bool:
        """Start no other round, and wait for the one that runs, but not for long; returns whether it has ended."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        pause = self._after_seconds
        while not self._stopping.wait(pause):
            pause = self._act()
