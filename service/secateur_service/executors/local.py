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
"""What a worker sees of the server's environment, beside the settings and where traces go (`OTEL_…`). All else,
credentials above all, stays away."""

TAIL_BYTES = 4096


@dataclass(frozen=True)
class LocalWorker:
    """A child process. It runs in a session of its own, so that what hits the server's terminal does not hit it."""

    job_id: str
    attempt: int
    slot: int
    log: Path
    process: subprocess.Popen[bytes]

    def poll(self) -> WorkerExit | None:
        """How it ended, None while it runs."""
        status = self.process.poll()
        if status is None:
            return None
        return WorkerExit(exit_code=status) if status >= 0 else WorkerExit(signal=_signal_name(-status))

    def terminate(self) -> None:
        """Ask it to stop at the next block boundary; harmless when it has ended."""
        self.process.terminate()

    def kill(self) -> None:
        """End it, and what it started, at once; harmless when it has ended."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it may end between the two calls
                os.killpg(self.process.pid, signal.SIGKILL)

    def output_tail(self) -> str:
        """The last lines that it printed."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            return file.read().decode(errors="replace").strip()


def process_environment(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """What a process of ours sees: the settings, and of this environment `INHERITED_VARIABLES` and where traces go."""
    inherited = {
        name: value
        for name, value in environment.items()
        if name in INHERITED_VARIABLES or name.startswith(tracing.ENVIRONMENT_PREFIX)
    }
    return inherited | settings.worker_environment()


class LocalSlots:
    """The devices of this machine, by the locks that workers hold.

    Args:
        data_dir: where the locks are.
        count: of the devices.
        used: slots whose workers were started here, and may not have taken their locks yet.
    """

    def __init__(self, data_dir: Path, count: int, used: Callable[[], Collection[int]]) -> None:
        self._data_dir = data_dir
        self._count = count
        self._used = used

    def free(self) -> list[int]:
        """Slots that no worker uses, not even one of a server that is gone."""
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
            settings: where locks and work directories are, the devices, and what the workers are told.
            command: what is started, with `--job`, `--attempt` and `--slot` behind it.
            environment: the environment of which workers get `INHERITED_VARIABLES`, and where traces go.
        """
        self.folders = LocalFolders(settings.data_dir)
        self.slots = LocalSlots(settings.data_dir, len(settings.devices), self._used)
        self._data_dir = settings.data_dir
        self._command = tuple(command)
        self._environment = process_environment(settings, environment)
        self._workers: list[LocalWorker] = []

    def start(self, job_id: str, attempt: int, slot: int) -> LocalWorker:
        """Start a worker; what it prints goes to `work/{job}/attempt-{n}.log` below the data folder.

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
                umask=given_umask(),  # it makes its own files private itself, and publishes the others
            )
        worker = LocalWorker(job_id, attempt, slot, log, process)
        self._workers.append(worker)
        return worker

    def _used(self) -> set[int]:
        """Slots of workers that run: one takes its lock only when it is up."""
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        return {worker.slot for worker in self._workers}


def _signal_name(number: int) -> str:
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"SIG{number}")  # real-time signals have no names
