"""What a process that looks at foreign bytes may use. The kernel sees to it, whatever library is at work."""

from __future__ import annotations

import contextlib
import ctypes
import math
import resource
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

_THREAD_STACK_BYTES = 512 << 10
_SET_DEATH_SIGNAL = 1  # of prctl


@dataclass(frozen=True)
class Budget:
    """Limits of one look.

    Attributes:
        seconds: from the question to the answer, the wait for networks and disks included.
        cpu_seconds: of the processor.
        memory_bytes: beside what the process had when it began.
    """

    seconds: float
    cpu_seconds: int
    memory_bytes: int


def limit_memory(size_bytes: int) -> None:
    """Let this process take so much more memory than it has, and be the first to go where the machine has none left."""
    threading.stack_size(_THREAD_STACK_BYTES)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _data_bytes() + size_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with contextlib.suppress(OSError):  # there is no such file elsewhere
        Path("/proc/self/oom_score_adj").write_text("1000")


def limit_processor_time(seconds: int) -> None:
    """Let this process compute for so long from now on; then SIGXCPU ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def end_with_parent() -> None:
    """Have this process killed when the one that started it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


def _data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    raise AssertionError("/proc/self/status names no VmData")
