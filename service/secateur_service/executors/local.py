"""Workers as child processes on this machine, one per device slot."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur_service.executors.locks import is_free, slot_lock
from secateur_service.executors.port import WorkerExit
from secateur_service.executors.workdir import LocalFolders, attempt_log
from secateur_service.private_files import given_umask
from secateur_service.settings import Settings
from secateur_service.telemetry import tracing

WORK_COMMAND = (sys.executable, "-m", "secateur_service", "work")

INHERITED_VARIABLES = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
)
"""What a worker inherits of the server's environment, besides the settings and the variables for traces (`OTEL_…`).
Everything else, above all credentials, is withheld."""

TAIL_BYTES = 4096


@dataclass(frozen=True)
class LocalWorker:
    """A child process. It runs in its own session, so that signals from the server's terminal do not reach it."""

    job_id: str
    attempt: int
    slot: int
    log: Path
    process: subprocess.Popen[bytes]

    def poll(self) -> WorkerExit | None:
        """How it ended; None while it is running."""
        status = self.process.poll()
        if status is None:
            return None
        return WorkerExit(exit_code=status) if status >= 0 else WorkerExit(signal=_signal_name(-status))

    def terminate(self) -> None:
        """Ask it to stop between two pieces of work; harmless if it has ended."""
        self.process.terminate()

    def kill(self) -> None:
        """Kill it and its children at once; harmless if it has ended."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it may end between the two calls
                os.killpg(self.process.pid, signal.SIGKILL)

    def output_tail(self) -> str:
        """The last lines it printed."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            return file.read().decode(errors="replace").strip()


def process_environment(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of our processes: the settings, `INHERITED_VARIABLES` and the variables for traces."""
    inherited = {
        name: value
        for name, value in environment.items()
        if name in INHERITED_VARIABLES or name.startswith(tracing.ENVIRONMENT_PREFIX)
    }
    return inherited | settings.worker_environment()


class LocalSlots:
    """The device slots of this machine, tracked by the locks that workers hold.

    Args:
        data_dir: where the locks are.
        count: number of devices.
        used: slots whose workers were started here and may not yet have taken their locks.
    """

    def __init__(self, data_dir: Path, count: int, used: Callable[[], Collection[int]]) -> None:
        self._data_dir = data_dir
        self._count = count
        self._used = used

    def free(self) -> list[int]:
        """Slots that no worker uses, not even the worker of a server that is gone."""
        used = self._used()
        return [slot for slot in range(self._count) if slot not in used and is_free(slot_lock(self._data_dir, slot))]


class LocalExecutor:
    """Starts a child process per slot of `settings.devices`."""

    def __init__(
        self,
        settings: Settings,
        *,
        command: Sequence[str] = WORK_COMMAND,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Prepare the slots.

        Args:
            settings: the folders of locks and work directories, the devices, and the workers' settings.
            command: the command to start, to which `--job`, `--attempt` and `--slot` are appended.
            environment: the environment from which workers inherit `INHERITED_VARIABLES` and the variables for traces.
        """
        self.folders = LocalFolders(settings.data_dir)
        self.slots = LocalSlots(settings.data_dir, len(settings.devices), self._used)
        self._data_dir = settings.data_dir
        self._command = tuple(command)
        self._environment = process_environment(settings, environment)
        self._workers: list[LocalWorker] = []

    def start(self, job_id: str, attempt: int, slot: int) -> LocalWorker:
        """Start a worker; its output goes to `work/{job}/attempt-{n}.log` below the data folder.

        Raises:
            OSError: the process cannot be started.
        """
        log = attempt_log(self._data_dir, job_id, attempt)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [*self._command, "--job", job_id, "--attempt", str(attempt), "--slot", str(slot)]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                umask=given_umask(),  # the worker itself keeps its files private and publishes results
            )
        worker = LocalWorker(job_id, attempt, slot, log, process)
        self._workers.append(worker)
        return worker

    def _used(self) -> set[int]:
        """Slots of running workers: a worker takes its lock only once it is up."""
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        return {worker.slot for worker in self._workers}


def _signal_name(number: int) -> str:
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"SIG{number}")  # real-time signals have no names
