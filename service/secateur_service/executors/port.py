"""Where worker processes run: what the dispatcher needs of an executor.

An executor holds no state that matters. Whether an attempt still owns its job is the store's business, and whether a
slot is in use is decided by the worker itself, so that a worker whose server died keeps its slot.
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
    """A worker process that was started: one attempt of one job."""

    @property
    def job_id(self) -> str:
        """The job it works on."""

    @property
    def attempt(self) -> int:
        """The attempt it is."""

    @property
    def slot(self) -> int:
        """The device slot it uses."""

    def poll(self) -> WorkerExit | None:
        """How it ended, None while it runs."""

    def terminate(self) -> None:
        """Ask it to stop at the next block boundary; harmless when it has ended."""

    def kill(self) -> None:
        """End it, and what it started, at once; harmless when it has ended."""

    def output_tail(self) -> str:
        """The last lines that it printed."""


class Slots(Protocol):
    """The places where workers may run: how many, and which of them are free."""

    def free(self) -> list[int]:
        """Slots that no worker uses, not even one of a server that is gone."""


class WorkFolders(Protocol):
    """What workers leave where they ran."""

    def discard(self, job_id: str) -> None:
        """Remove what a job that has ended left of its work here; what its workers printed stays."""

    def job_ids(self) -> list[str]:
        """Jobs of which something is left here."""

    def forget(self, job_id: str) -> None:
        """Remove all that is left here of a job that is not known any more."""


class Executor(Protocol):
    """Starts workers."""

    @property
    def slots(self) -> Slots:
        """Where it may start one."""

    @property
    def folders(self) -> WorkFolders:
        """What they left."""

    def start(self, job_id: str, attempt: int, slot: int) -> Worker:
        """Start a worker.

        Raises:
            OSError: the process cannot be started.
        """
