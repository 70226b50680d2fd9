"""The dispatcher: a reconcile loop that compares the attempts that should run here with the workers that do.

It keeps no state that must survive. Jobs, attempts and leases are in the store, and the workers themselves lock the
slots. So a dispatcher started while a killed one's orphans still run sees the true state.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import structlog

from secateur._foreign import detail_of
from secateur_service.control.backoff import Backoff
from secateur_service.control.exits import AttemptEnd, end_of_process
from secateur_service.control.presence import Presence
from secateur_service.errors import FencedError, NotFoundError, TransientError
from secateur_service.executors.port import Executor, Worker, WorkerExit
from secateur_service.jobs.job import Failure, Job
from secateur_service.jobs.port import HEARTBEATS_PER_LEASE, JobQueue
from secateur_service.jobs.states import JobState
from secateur_service.telemetry.tracing import ATTEMPT, JOB, waited

_log = structlog.get_logger(__name__)

_OWNED = (JobState.RUNNING, JobState.CANCELLING)
_POLL_WHILE_DRAINING_SECONDS = 0.1
_AFTER_KILL_SECONDS = 10.0
_WIND_UP_SECONDS = 10.0


@dataclass
class _Running:
    """A worker of this dispatcher, and what has been done to keep its lease and to stop it.

    Attributes:
        started: when its process was started.
        kept: when its lease was last extended here.
        begun: whether to stop extending its lease here: it has sent a heartbeat, or no longer owns its job.
    """

    worker: Worker
    started: float
    kept: float
    begun: bool = False
    unwanted_in: JobState | None = None
    unwanted_since: float = 0.0
    stop_asked: bool = False


class Dispatcher:
    """Starts workers for queued jobs, records how they end and stops those that should not run."""

    def __init__(
        self,
        store: JobQueue,
        executor: Executor,
        *,
        owner: str,
        lease_seconds: float = 30.0,
        start_seconds: float = 300.0,
        poll_seconds: float = 1.0,
        drain_seconds: float = 45.0,
        cancel_grace_seconds: float = 60.0,
        stall_seconds: float = 0.0,
        expires: bool = True,
        most_jobs: int | None = None,
        idle_seconds: float | None = None,
        backoff: Backoff | None = None,
        on_fenced: Callable[[], None] = lambda: None,
        presence: Presence | None = None,
        models: Callable[[], Collection[str]] = tuple,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare; nothing happens before `start` or `reconcile`.

        Args:
            store: the jobs.
            executor: where workers run.
            owner: names this replica in the store, for operators.
            lease_seconds: first lease of a claimed job; extended here until the worker sends a heartbeat, then by the
                worker.
            start_seconds: how long a worker may take from its start to its first heartbeat.
            poll_seconds: longest time between two passes of the loop.
            drain_seconds: how long a worker that was told to stop may take before it is killed.
            cancel_grace_seconds: how long a worker may keep running after its attempt should have stopped.
            stall_seconds: an attempt without an event for this long is given up; 0 for never.
            expires: whether to end attempts of any dispatcher whose time is over; agents leave that to the replicas.
            most_jobs: the loop ends when so many jobs were claimed here and their attempts have ended.
            idle_seconds: the loop ends when no worker has run here for so long.
            backoff: waits after failures that are charged.
            on_fenced: called for a worker that ended because another attempt owns its job.
            presence: announces this process; only jobs that fit its slots are claimed. None claims any job.
            models: references of the models that are on this machine; their jobs are preferred.
            monotonic: clock for start and grace periods.
            rng: source of the jitter.
        """
        self._store = store
        self._executor = executor
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._keep_seconds = lease_seconds / HEARTBEATS_PER_LEASE
        self._start_seconds = start_seconds
        self._poll_seconds = poll_seconds
        self._drain_seconds = drain_seconds
        self._cancel_grace_seconds = cancel_grace_seconds
        self._backoff = backoff or Backoff()
        self._on_fenced = on_fenced
        self._presence = presence
        self._models = models
        self._monotonic = monotonic
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._running: list[_Running] = []
        self._claims_left = most_jobs
        self._idle_seconds = idle_seconds
        self._last_busy = monotonic()
        self._expiries: dict[str, Callable[[], list[Job]]] = {}
        if expires:
            self._expiries |= {"expire leases": store.expire_leases, "expire deadlines": store.expire_deadlines}
        if expires and stall_seconds:
            self._expiries["expire stalled attempts"] = partial(store.expire_stalled, stall_seconds)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Start the loop in its own thread."""
        self._thread.start()

    def wake(self) -> None:
        """Run the next pass at once, because a job was queued or cancelled here."""
        self._wake.set()

    def join(self) -> None:
        """Wait until the loop has ended: by itself, or since it was drained."""
        self._thread.join()

    @property
    def is_done(self) -> bool:
        """Whether as many jobs were run as this was to run, or none for as long as it was to wait for one."""
        if self._running:
            return False
        is_idle = self._idle_seconds is not None and self._monotonic() - self._last_busy >= self._idle_seconds
        return self._claims_left == 0 or is_idle

    def drain(self) -> None:
        """Stop claiming, ask all workers to stop, kill those that do not, and end the loop. Blocks until done.

        Workers that stop in time release their own jobs; the others' jobs are released here, uncharged.
        """
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is None:
            self._end_workers()
        else:
            self._thread.join()

    def reconcile(self) -> None:
        """Run one pass. A failure is logged and retried in the next pass; the rest of this one continues.

        This extends leases before it expires any, so that a late pass loses none of its own.
        """
        self._keep_starting()
        for action, expire in self._expiries.items():
            with self._survived(action):
                for job in expire():
                    _log.warning("expired", what=action, job=job.id, attempt=job.attempt, state=job.state)
                    self._discard_if_ended(job)
        self._reap()
        for running in self._running:
            with self._survived("stop a worker", running.worker):
                self._stop_if_unwanted(running)
        with self._survived("start workers"):
            self._fill_slots()
        if self._running:
            self._last_busy = self._monotonic()
        self._announce()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self.reconcile()
            if self.is_done:
                break
            starting = any(not running.begun for running in self._running)
            pause = min(self._poll_seconds, self._keep_seconds) if starting else self._poll_seconds
            self._wake.wait(pause * (0.5 + 0.5 * self._rng.random()))  # many that wait do not all ask at once
            self._wake.clear()
        self._end_workers()  # in this thread: those that are tied to it would be killed when it ends

    def _end_workers(self) -> None:
        self._announce(draining=True)
        self._reap()
        for running in self._running:
            self._ask_to_stop(running)
        self._await_ends(self._drain_seconds)
        for running in self._running:
            _log.warning("worker did not stop in time", job=running.worker.job_id, attempt=running.worker.attempt)
            running.worker.kill()
        self._await_ends(_AFTER_KILL_SECONDS)
        for running in self._running:
            _log.error("job is left to its lease", job=running.worker.job_id, attempt=running.worker.attempt)
        if self._presence is not None:
            with self._survived("say that it ends"):
                self._presence.withdraw()

    def _keep_starting(self) -> None:
        for running in self._running:
            if not running.begun:
                with self._survived("keep the lease of a worker that starts", running.worker):
                    self._keep_lease(running)

    def _keep_lease(self, running: _Running) -> None:
        """Extend the lease of a worker that is still starting: loading its libraries can take longer than a lease."""
        worker, now = running.worker, self._monotonic()
        overdue = now - running.started >= self._start_seconds
        if worker.poll() is not None or (now - running.kept < self._keep_seconds and not overdue):
            return
        try:
            running.begun = not self._store.keep_starting(
                worker.job_id, worker.attempt, lease_seconds=self._lease_seconds
            )
        except FencedError:
            running.begun = True  # _stop_if_unwanted will kill it
        running.kept = now
        if overdue and not running.begun:
            worker.kill()
            running.begun = True
            message = (
                f"the worker's process sent no heartbeat within {self._start_seconds:g} s of its start; its machine "
                "is overloaded or its disk slow: look into it, or raise start_seconds"
            )
            _log.warning("worker did not begin in time", job=worker.job_id, attempt=worker.attempt)
            job = self._job(worker)
            if job is not None and _owns(worker, job):
                self._release(job, AttemptEnd(Failure("START_TIMEOUT", message, retryable=True), charged=False))

    def _reap(self) -> None:
        for running in list(self._running):
            with self._survived("record the end of a worker", running.worker):
                ended = running.worker.poll()
                if ended is not None:
                    self._record_end(running, ended)
                    self._running.remove(running)

    def _record_end(self, running: _Running, ended: WorkerExit) -> None:
        """Release the job if the worker ended without doing so itself."""
        worker = running.worker
        job = self._job(worker)
        if job is None or not _owns(worker, job):
            if ended.exit_code == FencedError.exit_code:
                self._on_fenced()
            state = None if job is None else job.state
            _log.info("worker ended", job=worker.job_id, attempt=worker.attempt, state=state, ended=str(ended))
            if job is not None:
                self._discard_if_ended(job)
            return
        end = end_of_process(ended, worker.output_tail(), stop_asked=running.stop_asked)
        _log.warning(
            "worker left its job", job=job.id, attempt=job.attempt, ended=str(ended), reason=end.failure.reason
        )
        self._release(job, end)

    def _stop_if_unwanted(self, running: _Running) -> None:
        """Stop a worker that does not stop by itself although its job was cancelled or is no longer its own."""
        job = self._job(running.worker)
        if job is None or job.attempt != running.worker.attempt:
            running.worker.kill()  # it can write nothing more, and may block its successor from the job's files
            return
        if job.state is JobState.RUNNING:
            return
        now = self._monotonic()
        if running.unwanted_in is not job.state:
            running.unwanted_in, running.unwanted_since = job.state, now
        if job.state is not JobState.CANCELLING:
            # It has recorded its end and is exiting, or it was suspended, lost its lease and is blocking a slot.
            if now - running.unwanted_since >= _WIND_UP_SECONDS:
                running.worker.kill()
            return
        overdue = now - running.unwanted_since - self._cancel_grace_seconds
        if overdue >= self._drain_seconds and running.stop_asked:
            running.worker.kill()
        elif overdue >= 0 and not running.stop_asked:
            self._ask_to_stop(running)

    def _announce(self, *, draining: bool = False) -> None:
        if self._presence is not None:
            with self._survived("announce itself"):
                free = 0 if self._claims_left == 0 else len(self._executor.slots.free())
                self._presence.show(free=free, draining=draining)

    def _fill_slots(self) -> None:
        for slot in self._executor.slots.free():
            if self._claims_left == 0 or self._stopping.is_set():
                return
            claimed = self._monotonic()  # the lease begins here, and starting a process takes time on a loaded machine
            job = self._store.claim(
                owner=self._owner,
                lease_seconds=self._lease_seconds,
                capacity=self._presence.capacity if self._presence else None,
                held=frozenset(self._executor.folders.job_ids()),
                models=self._models(),
            )
            if job is None:
                return
            if self._claims_left is not None:
                self._claims_left -= 1
            waited("queue", job.queue_time, job.trace, {JOB: job.id, ATTEMPT: job.attempt})
            try:
                worker = self._executor.start(job.id, job.attempt, slot)
            except OSError as error:
                _log.error("worker cannot be started", job=job.id, attempt=job.attempt, error=str(error))
                message = f"the worker process could not be started: {detail_of(error)}"
                self._release(job, AttemptEnd(Failure("WORKER_NOT_STARTED", message, retryable=True), charged=True))
                return
            _log.info("worker started", job=job.id, attempt=job.attempt, slot=slot)
            self._running.append(_Running(worker, started=self._monotonic(), kept=claimed))

    def _job(self, worker: Worker) -> Job | None:
        """The worker's job; None if it was deleted."""
        try:
            return self._store.get(worker.job_id)
        except NotFoundError:
            return None

    def _release(self, job: Job, end: AttemptEnd) -> None:
        delay = self._backoff.delay_seconds(job.charged_attempts, self._rng) if end.charged else 0.0
        released = self._store.release(job.id, job.attempt, end.failure, charged=end.charged, delay_seconds=delay)
        self._discard_if_ended(released)

    def _discard_if_ended(self, job: Job) -> None:
        """Discard the work directory, as a worker does itself if it is still alive when its job ends."""
        if job.state.is_terminal:
            self._executor.folders.discard(job.id)

    def _ask_to_stop(self, running: _Running) -> None:
        running.stop_asked = True
        running.worker.terminate()

    def _await_ends(self, seconds: float) -> None:
        deadline = self._monotonic() + seconds
        self._reap()
        while self._running and self._monotonic() < deadline:
            time.sleep(_POLL_WHILE_DRAINING_SECONDS)
            self._keep_starting()
            self._reap()

    @contextlib.contextmanager
    def _survived(self, action: str, worker: Worker | None = None) -> Iterator[None]:
        """Log any failure and carry on; the next pass sees the same difference again."""
        context = {} if worker is None else {"job": worker.job_id, "attempt": worker.attempt}
        try:
            yield
        except TransientError as error:
            _log.warning("dispatcher could not " + action, error=error.message, **context)
        except Exception:  # noqa: BLE001 - a defect must not end the only loop that notices ended workers
            _log.exception("dispatcher could not " + action, **context)


def _owns(worker: Worker, job: Job) -> bool:
    """Whether the worker's attempt may write to its job."""
    return job.attempt == worker.attempt and job.state in _OWNED
