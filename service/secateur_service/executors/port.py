"""Where worker processes run: what the dispatcher needs from an executor.

An executor holds no state that matters. The store decides whether an attempt still owns its job. The workers
themselves mark which slots are in use, so that a worker whose server died keeps its slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class WorkerExit:
    """How a worker process ended: by itself with an exit code, or by a signal."""

    exit_code: int | None = None
    signal: str | None = None  # its name, e.g. SIGKILL

    def __str__(self) -> str:
        return f"exit code {self.exit_code}" if self.signal is None else f"signal {self.signal}"


class Worker(Protocol):
    """A started worker process: one attempt of one job."""

    @property
    def job_id(self) -> str:
        """The job it works on."""

    @property
    def attempt(self) -> int:
        """The number of the attempt it runs."""

    @property
    def slot(self) -> int:
        """The device slot it uses."""

    def poll(self) -> WorkerExit | None:
        """How it ended; None while it is running."""

    def terminate(self) -> None:
        """Ask it to stop between two pieces of work; harmless if it has ended."""

    def kill(self) -> None:
        """Kill it and its children at once; harmless if it has ended."""

    def output_tail(self) -> str:
        """The last lines it printed."""


class Slots(Protocol):
    """The places where workers may run: how many, and which of them are free."""

    def free(self) -> list[int]:
        """Slots that no worker uses, not even the worker of a server that is gone."""


class WorkFolders(Protocol):
    """What workers leave behind where they ran."""

    def discard(self, job_id: str) -> None:
        """Remove what an ended job left of its work here; its workers' output stays."""

    def job_ids(self) -> list[str]:
        """Jobs that have something left here."""

    def forget(self, job_id: str) -> None:
        """Remove all that is left here of a job that no longer exists."""


class Executor(Protocol):
    """Starts workers."""

    @property
    def slots(self) -> Slots:
        """Where it may start workers."""

    @property
    def folders(self) -> WorkFolders:
        """What workers left behind."""

    def start(self, job_id: str, attempt: int, slot: int) -> Worker:
        """Start a worker.

        Raises:
            OSError: the process cannot be started.
        """
