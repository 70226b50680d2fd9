"""Real workers that fail at a fault point: the n-th attempt of a job at the n-th of the faults, `POINT=ACTION`.

Actions at a point: `kill`, `stop` (until somebody continues it), `hold` (until there is a file `go` in the data
folder), `step` (until there is a file `step`, which is removed), `disk-full`, `little-memory` (from there on).
"""

import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path

from secateur_service import faults
from secateur_service.settings import Settings
from secateur_service.worker.attempt import run_attempt

M_MMAP_THRESHOLD = -3


def limit_memory():
    """What the process has, and 150 MB; mapped files do not count. What is freed is to count no more at once."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)
    status = Path("/proc/self/status").read_text().splitlines()
    (used,) = (int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + 150 * 10**6,) * 2)


def disk_full():
    raise OSError(28, "No space left on device")


def wait_for(name):
    file = Path(os.environ["SECATEUR_DATA_DIR"]) / name
    while not file.exists():
        time.sleep(0.02)
    return file


ACTIONS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "disk-full": disk_full,
    "little-memory": limit_memory,
    "hold": lambda: wait_for("go"),
    "step": lambda: wait_for("step").unlink(),
}


def work(faulty, job_id, attempt, slot, lock):
    """Be a worker."""
    if attempt <= len(faulty):
        point, action = faulty[attempt - 1].split("=")
        faults.arm(point, ACTIONS[action])
    sys.exit(run_attempt(Settings(), job_id, attempt, slot, lock))
