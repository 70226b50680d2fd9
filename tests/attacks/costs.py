"""What it costs to parse something: processor time and memory, of a process of its own, with a limit on both."""

import contextlib
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What a call took.

    Attributes:
        memory_bytes: the most that it had beside what was there before.
        ended: whether it came to an end by itself.
    """

    cpu_seconds: float
    memory_bytes: int
    ended: bool


def cost_of(call, *, cpu_seconds=20, memory_bytes=2 << 30):
    """Call something in a process that is ended when it takes more."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            used = resource.getrusage(resource.RUSAGE_SELF)
            limit = int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + memory_bytes,) * 2)
            os.write(writer, b"%d" % resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            with contextlib.suppress(ValueError):  # refusals are
                call()
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as before:
        _, status, used = os.wait4(process, 0)
        memory_bytes = (used.ru_maxrss - int(before.read())) << 10
    return Cost(used.ru_utime + used.ru_stime, memory_bytes, status == 0)
