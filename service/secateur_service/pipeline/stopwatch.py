"""Where the time of a job goes: wall and processor seconds by kind of work, also where the kinds interleave."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Literal

Kind = Literal["fetch", "sample", "load", "prune", "evaluate", "write", "package", "publish"]


class Stopwatch:
    """Adds up seconds per kind of work. Kinds do not nest."""

    def __init__(self) -> None:
        self._started = (time.perf_counter(), time.process_time())
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, kind: Kind) -> Iterator[None]:
        """Charge the time spent in the context to `kind`."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - wall
            self.cpu_seconds[kind] = self.cpu_seconds.get(kind, 0.0) + time.process_time() - cpu

    def totals(self) -> tuple[dict[str, float], dict[str, float]]:
        """Wall and processor seconds by kind, with `total` since the stopwatch was made."""
        wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        return {**self.seconds, "total": wall}, {**self.cpu_seconds, "total": cpu}
