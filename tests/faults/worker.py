"""Real workers that fail at a fault point, and an executor for them.

Actions at a point: `kill`, `stop` (until somebody continues it),
`wait` (a second each time), `disk-full`, `little-memory` (from there on).
"""

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path

from secateur_service import faults
from secateur_service.execution.local import LocalExecutor, LocalWorker
from secateur_service.execution.workdir import attempt_log
from secateur_service.execution.worker import run_attempt
from secateur_service.settings import Settings

M_MMAP_THRESHOLD = -3

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["secateur_service.pipeline.job", "transformers.models.llama.modeling_llama", __name__])


def limit_memory():
    """What the process has, and 150 MB; mapped files do not count. What is freed is to count no more at once."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)
    status = Path("/proc/self/status").read_text().splitlines()
    (used,) = (int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + 150 * 10**6,) * 2)


def disk_full():
    raise OSError(28, "No space left on device")


ACTIONS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "disk-full": disk_full,
    "little-memory": limit_memory,
    "wait": lambda: time.sleep(1),
}


def run(environment, output, faulty, job_id, attempt, slot):
    """Be a worker: the entry of a forked process, whose output goes to the file of that number."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with Path(output).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if attempt <= len(faulty):
        point, action = faulty[attempt - 1].split("=")
        faults.arm(point, ACTIONS[action])
    sys.exit(run_attempt(Settings(), job_id, attempt, slot))


class ForkedProcess:
    """What `LocalWorker` needs of a process, of one that was forked."""

    def __init__(self, *arguments):
        self._process = _FORKS.Process(target=run, args=arguments, daemon=True)
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self, seconds=None):
        self._process.join(seconds)
        return self._process.exitcode

    def terminate(self):
        self._process.terminate()


class FaultyExecutor(LocalExecutor):
    """Forks workers off a process that has loaded PyTorch, which takes most of a worker's start otherwise.

    The n-th attempt of a job meets the n-th of the faults, `POINT=ACTION`; further attempts go well.
    """

    def __init__(self, settings, faulty):
        super().__init__(settings)
        self._faulty = faulty

    def start(self, job_id, attempt, slot):
        log = attempt_log(self._data_dir, job_id, attempt)
        log.parent.mkdir(parents=True, exist_ok=True)
        process = ForkedProcess(self._environment, str(log), self._faulty, job_id, attempt, slot)
        worker = LocalWorker(job_id, attempt, slot, log, process)
        self._workers.append(worker)
        return worker
