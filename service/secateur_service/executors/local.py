"""Workers as child processes on this machine, one per device slot.

They outlive their server, which may come back, or they are *tied*: to an agent whose scheduler gives its devices to
somebody else when it is gone. A tied worker stays in the agent's process group and is killed when the agent ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur_service import parents
from secateur_service.executors.locks import is_free, slot_locks
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
    """A child process.

    Attributes:
        leads: whether it has a session of its own, so that signals from the server's terminal do not reach it.
    """

    job_id: str
    attempt: int
    slot: int
    log: Path
    process: subprocess.Popen[bytes]
    leads: bool = True

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
        if not self.leads:
            self.process.kill()  # its children are tied to it
        elif self.process.poll() is None:
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
        locks: of each slot; None where it takes none.
        used: slots whose workers were started here and may not yet have taken their locks.
    """

    def __init__(self, locks: Sequence[Path | None], used: Callable[[], Collection[int]]) -> None:
        self._locks = locks
        self._used = used

    def free(self) -> list[int]:
        """Slots that no worker uses, not even the worker of a server that is gone."""
        used = self._used()
        locks = enumerate(self._locks)
        return [slot for slot, lock in locks if slot not in used and (lock is None or is_free(lock))]


class LocalExecutor:
    """Starts a child process per slot of `settings.devices`."""

    def __init__(
        self,
        settings: Settings,
        *,
        tied: bool = False,
        command: Sequence[str] = (),
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Prepare the slots.

        Args:
            settings: the folders of locks and work directories, the devices, and the workers' settings.
            tied: whether workers end with the thread that starts them. CPUs then need no lock: no orphan can be on
                them, and who starts several agents on a machine knows how many it has.
            command: the command to start, to which `--job` and so on are appended; by default `WORK_COMMAND`.
            environment: the environment from which workers inherit `INHERITED_VARIABLES` and the variables for traces.
        """
        locks = slot_locks(settings.data_dir, settings.devices, environment)
        self._locks = [
            None if tied and device == "cpu" else lock for device, lock in zip(settings.devices, locks, strict=True)
        ]
        self.folders = LocalFolders(settings.data_dir)
        self.slots = LocalSlots(self._locks, self._used)
        self._data_dir = settings.data_dir
        self._tied = tied
        self._command = tuple(command or WORK_COMMAND)
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
        lock = self._locks[slot]
        if lock is not None:
            command += ["--lock", str(lock)]
        if self._tied:
            # A terminal sends SIGINT to the agent's whole group; the agent then asks its workers to stop.
            command = parents.tied(command, ignoring=(signal.SIGINT,))
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=not self._tied,
                umask=given_umask(),  # the worker itself keeps its files private and publishes results
            )
        worker = LocalWorker(job_id, attempt, slot, log, process, leads=not self._tied)
        self._workers.append(worker)
        return worker

    def _used(self) -> set[int]:
        """Slots of running workers: a worker takes its lock only once it is up."""
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        return {worker.slot for worker in self._workers}


def _signal_name(number: int) -> str:
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"SIG{number}")  # real-time signals have no names
