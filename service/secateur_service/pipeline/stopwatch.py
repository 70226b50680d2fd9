"""Where a job's time goes: wall and processor seconds by kind of work, even if the kinds interleave."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Literal

Kind = Literal["fetch", "sample", "load", "prune", "evaluate", "write", "package", "publish"]


class Stopwatch:
    """Adds up seconds per kind of work. Kinds do not nest; background work is separated from foreground work."""

    def __init__(self) -> None:
        self._started = (time.perf_counter(), time.process_time())
        self._background_cpu = 0.0
        self._lock = threading.Lock()
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, kind: Kind) -> Iterator[None]:
        """Charge the time spent in the context to `kind`, for all threads except background ones."""
        wall, cpu = time.perf_counter(), self._foreground_cpu()
        try:
            yield
        finally:
            self._charge(kind, time.perf_counter() - wall, self._foreground_cpu() - cpu)

    @contextlib.contextmanager
    def measure_background(self, kind: Kind) -> Iterator[None]:
        """Charge what this thread does in the context to `kind`, and not to concurrent measurements."""
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - cpu
            self._charge(kind, time.perf_counter() - wall, spent)
            with self._lock:
                self._background_cpu += spent

    @contextlib.contextmanager
    def measure_helper(self, kind: Kind) -> Iterator[None]:
        """The same for a thread that helps one in such a context: the wall time counts once."""
        cpu = time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - cpu
            self._charge(kind, 0.0, spent)
            with self._lock:
                self._background_cpu += spent

    def charge_helpers(self, cpu_seconds: float) -> None:
        """Charge what other processes have taken, as `helpers`."""
        with self._lock:
            self.cpu_seconds["helpers"] = self.cpu_seconds.get("helpers", 0.0) + cpu_seconds

    def totals(self) -> tuple[dict[str, float], dict[str, float]]:
        """Wall and processor seconds by kind, with `total` since the stopwatch was created."""
        wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        cpu += self.cpu_seconds.get("helpers", 0.0)
        return {**self.seconds, "total": wall}, {**self.cpu_seconds, "total": cpu}

    def _foreground_cpu(self) -> float:
        with self._lock:
            return time.process_time() - self._background_cpu

    def _charge(self, kind: Kind, seconds: float, cpu_seconds: float) -> None:
        with self._lock:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds
            self.cpu_seconds[kind] = self.cpu_seconds.get(kind, 0.0) + cpu_seconds
