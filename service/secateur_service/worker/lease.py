"""The worker's hold on its job: a heartbeat keeps the lease, and all reasons to stop are checked here.

The heartbeat is a thread of the worker, not a separate process: a suspended worker must lose its lease. The worker
measures the time since its last answered heartbeat. So if it cannot reach the store, or was suspended and wakes up
late, it knows by itself that it is fenced.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import structlog

from secateur_service.errors import CancelledError, FencedError, PreemptedError, TransientError
from secateur_service.jobs.port import HEARTBEATS_PER_LEASE, AttemptLog

_log = structlog.get_logger(__name__)

SURE_SHARE = 0.75
"""Share of the lease after which a worker without an answer stops: no other worker can have begun by then."""

_RETRY_SECONDS = 1.0
_INSIST_SECONDS = 0.2

T = TypeVar("T")


class Lease:
    """A context manager that keeps one attempt's lease."""

    def __init__(
        self,
        store: AttemptLog,
        job_id: str,
        attempt: int,
        *,
        lease_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._job_id = job_id
        self._attempt = attempt
        self._lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._answered = monotonic()
        self._fenced = False
        self._cancelled = False
        self._preempted = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        """Send the first heartbeat and start the heartbeat thread.

        Raises:
            FencedError: the attempt does not own the job.
            TransientError: the store does not answer.
        """
        self._heartbeat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def preempt(self) -> None:
        """Ask the attempt to stop, because the machine is wanted back; safe to call in a signal handler."""
        self._preempted = True

    def check(self) -> None:
        """Return if the attempt may go on.

        Raises:
            FencedError, CancelledError, PreemptedError: it must stop.
        """
        self.require_held()
        if self._cancelled:
            raise CancelledError("the job was cancelled")
        if self._preempted:
            raise PreemptedError("the worker was told to stop; the job continues with its next attempt")

    def require_held(self) -> None:
        """Return if the attempt certainly still owns the job.

        Raises:
            FencedError: it may no longer own it.
        """
        silence = self._monotonic() - self._answered
        if self._fenced:
            raise FencedError(f"another attempt owns job {self._job_id}")
        if silence > SURE_SHARE * self._lease_seconds:
            raise FencedError(
                f"no heartbeat was answered for {silence:.1f} s of a lease of {self._lease_seconds:.1f} s"
            )

    def insist(self, write: Callable[[], T]) -> T:
        """Retry `write` until the store answers: an outage shorter than the lease costs nothing.

        Raises:
            FencedError: the lease was lost before it succeeded.
        """
        while True:
            try:
                return write()
            except TransientError as error:
                _log.warning("the store does not answer; trying again", error=error.message)
                self.require_held()
                time.sleep(_INSIST_SECONDS)

    def _heartbeat(self) -> None:
        asked = self._monotonic()
        answer = self._store.heartbeat(self._job_id, self._attempt, lease_seconds=self._lease_seconds)
        self._answered = asked
        self._cancelled = self._cancelled or answer.cancel_requested

    def _beat(self) -> None:
        interval = self._lease_seconds / HEARTBEATS_PER_LEASE
        pause = interval
        while not self._ended.wait(pause):
            try:
                self._heartbeat()
                pause = interval
            except TransientError as error:
                _log.warning("heartbeat was not answered", error=error.message)
                pause = min(interval, _RETRY_SECONDS)
            except FencedError as error:
                _log.warning("fenced", error=error.message)
                self._fenced = True
                return
