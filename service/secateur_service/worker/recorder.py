"""The pipeline's observer and ledger, written to the job store under the attempt's fence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from secateur_service.jobs.events import log_body, progress_body
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.port import AttemptLog
from secateur_service.records.blocks import BlockRecord
from secateur_service.records.progress import Progress, Stage
from secateur_service.worker.lease import Lease

PROGRESS_INTERVAL_SECONDS = 1.0
"""Progress is written no more often than this, except the first after a block and the last of a stage."""

MAX_PROGRESS_INTERVAL_SECONDS = 30.0
"""Where the store takes long to answer, progress is written less often, but not less often than this."""

PROGRESS_STEP = 0.001
"""Nor before the job has advanced this far: a long job writes a thousand times, not every second."""

PROGRESS_ERROR = 0.05
"""Unless what was written last is so far from the truth: the time left, as a share of itself."""

FETCHED_STEP = 0.02
"""Or so much more was fetched of what is being fetched; where its size is unknown, of what was fetched so far."""

_WRITES_APART = 50  # times as long as the last one took: a slow store, which others wait for, holds no job up
_SHARE_WAITED = 0.002  # of the time since the start, so that what errs again and again is not written every second


class StoreObserver:
    """A `JobObserver` that writes events, and stops the job when its lease says so; threads may share it."""

    def __init__(
        self,
        store: AttemptLog,
        job_id: str,
        attempt: int,
        lease: Lease,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._job_id = job_id
        self._attempt = attempt
        self._lease = lease
        self._monotonic = monotonic
        self._lock = threading.RLock()
        self._pending: Progress | None = None
        self._written = Progress(-1, 0, 0.0)
        self._began = monotonic()
        self._written_at = float("-inf")
        self._interval = PROGRESS_INTERVAL_SECONDS

    def stage(self, stage: Stage) -> None:
        """Write a stage event."""
        self.flush()
        self._append(EventKind.STAGE, {"stage": stage.value})

    def progress(self, progress: Progress) -> None:
        """Write the progress, or keep it until it is due."""
        with self._lock:
            self._progress(progress)

    def _progress(self, progress: Progress) -> None:
        self._pending, last = progress, self._written
        if progress.blocks_done != last.blocks_done or progress.blocks_total != last.blocks_total:
            self.flush()
            return
        now = self._monotonic()
        waited = now - self._written_at
        if waited < self._interval:
            return
        has_moved = progress.fraction - last.fraction >= PROGRESS_STEP or _has_fetched(progress, last)
        if has_moved or (waited >= _SHARE_WAITED * (now - self._began) and self._errs(waited)):
            self.flush()

    def _errs(self, waited: float) -> bool:
        """Whether whoever counts down from what was written last is wrong by now."""
        assert self._pending is not None
        told, left = self._written.eta_seconds, self._pending.eta_seconds
        if told is None or left is None:
            return told is not left
        return abs(max(0.0, told - waited) - left) >= max(PROGRESS_INTERVAL_SECONDS, PROGRESS_ERROR * left)

    def block(self, record: BlockRecord) -> None:
        """Do nothing: the ledger has written the block's event."""

    def log(self, level: str, message: str, **fields: Any) -> None:
        """Write a log event."""
        self._append(EventKind.LOG, log_body(level, message, fields))

    def check(self) -> None:
        """Return if the job may go on.

        Raises:
            FencedError, CancelledError, PreemptedError: it must stop.
        """
        self._lease.check()

    def flush(self) -> None:
        """Write the progress that was kept back."""
        with self._lock:
            if self._pending is not None:
                began = self._monotonic()
                self._append(EventKind.PROGRESS, progress_body(self._pending))
                self._written, self._pending = self._pending, None
                self._written_at = self._monotonic()
                wanted = _WRITES_APART * (self._written_at - began)
                self._interval = min(max(PROGRESS_INTERVAL_SECONDS, wanted), MAX_PROGRESS_INTERVAL_SECONDS)

    def _append(self, kind: EventKind, body: dict[str, Any]) -> None:
        self._lease.insist(lambda: self._store.append(self._job_id, self._attempt, [(kind, body)]))


def _has_fetched(progress: Progress, last: Progress) -> bool:
    """Whether so much was fetched since that it is worth telling, or something else is being fetched now."""
    more = progress.bytes_done - last.bytes_done
    is_other = progress.bytes_total != last.bytes_total or more < 0
    return is_other or more > FETCHED_STEP * (progress.bytes_total or progress.bytes_done)


class StoreLedger:
    """`BlockLedger` in the job store."""

    def __init__(self, store: AttemptLog, job_id: str, attempt: int, lease: Lease) -> None:
        self._store = store
        self._job_id = job_id
        self._attempt = attempt
        self._lease = lease

    def entries(self) -> list[BlockRecord]:
        """The finished blocks in ascending order of index."""
        return self._lease.insist(lambda: self._store.blocks(self._job_id))

    def record(self, record: BlockRecord) -> None:
        """Record one finished block, with its event."""
        self._lease.insist(lambda: self._store.record_block(self._job_id, self._attempt, record))
