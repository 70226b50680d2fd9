"""What a process that reads untrusted bytes may use. The kernel enforces it, whichever library is running."""

from __future__ import annotations

import contextlib
import math
import resource
import threading
from dataclasses import dataclass
from pathlib import Path

_THREAD_STACK_BYTES = 512 << 10


@dataclass(frozen=True)
class Budget:
    """Limits of one inspection.

    Attributes:
        seconds: time from request to answer, including waits for network and disk.
        cpu_seconds: processor time.
        memory_bytes: memory on top of what the process had when it started.
    """

    seconds: float
    cpu_seconds: int
    memory_bytes: int


def limit_memory(size_bytes: int) -> None:
    """Limit this process to this much additional memory, and make it the first to be killed if the machine runs out."""
    threading.stack_size(_THREAD_STACK_BYTES)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _data_bytes() + size_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with contextlib.suppress(OSError):  # the file exists only on Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


def limit_processor_time(seconds: int) -> None:
    """Limit this process to this much processor time from now on; then SIGXCPU ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _data_bytes() -> int:
    """The memory of this process that RLIMIT_DATA counts."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    raise AssertionError("/proc/self/status names no VmData")
