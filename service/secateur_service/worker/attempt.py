"""One attempt of one job in its own process, from its claim to its end in the store.

The worker loads its libraries before its first heartbeat: until then, whoever started it extends the lease, so that a
slow start costs nothing. Then it keeps the lease itself, locks its device slot and the job's work directory, runs the
pipeline and records how it ended, under the attempt's fence. Its exit code repeats this, so that the dispatcher can
record the end if the worker cannot reach the store.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog
from opentelemetry.trace import Span, SpanKind
from pydantic import ValidationError

from secateur._redaction import protect
from secateur_service import faults
from secateur_service.artifacts import InstrumentedStore, open_store
from secateur_service.control.backoff import Backoff
from secateur_service.control.exits import attempt_error, end_of_error
from secateur_service.errors import (
    AttemptError,
    CancelledError,
    FencedError,
    NotFoundError,
    PermanentError,
    PreemptedError,
    TransientError,
)
from secateur_service.executors.locks import hold_until_exit
from secateur_service.executors.workdir import discard_work, work_directory
from secateur_service.jobs.job import Job, JobResult
from secateur_service.jobs.port import AttemptLog
from secateur_service.jobs.states import JobState
from secateur_service.jobs.store import open_job_store
from secateur_service.metrics import attempt_figures
from secateur_service.metrics.attempt_figures import AttemptFigures
from secateur_service.pipeline.attempt import Attempt, Machine, Ports
from secateur_service.pipeline.loading import load_pipeline
from secateur_service.settings import Settings
from secateur_service.sizing.dividing import processes_of
from secateur_service.sources import open_sources
from secateur_service.spec import PruneSpec
from secateur_service.telemetry import tracing
from secateur_service.telemetry.logging import configure_logging
from secateur_service.worker.lease import Lease
from secateur_service.worker.recorder import StoreLedger, StoreObserver

_log = structlog.get_logger(__name__)

LOCK_WAIT_SECONDS = 5.0


class Outcome(Protocol):
    """The part of a pipeline's return value that the worker uses."""

    @property
    def result(self) -> JobResult:
        """What was published."""

    @property
    def figures(self) -> Mapping[str, Any]:
        """Figures of the attempt by name; `metrics.job_figures` counts those it knows."""


Pipeline = Callable[[Attempt, Machine, Ports], Outcome]
"""The steps of a job, from the first unfinished block to the published result: `run_job`, or a stub in tests."""


def run_attempt(
    settings: Settings,
    job_id: str,
    attempt: int,
    slot: int,
    lock: Path | None = None,
    *,
    pipeline: Pipeline | None = None,
) -> int:
    """Run a claimed attempt, in the main thread of this process.

    Args:
        settings: the server's settings.
        job_id: the job.
        attempt: the attempt that was claimed.
        slot: index of the device in `settings.devices`.
        lock: file whose lock gives the right to use the slot; None where it takes none.
        pipeline: runs the job; by default the real one, which imports torch.

    Returns:
        The exit code for this process: 0 if the job is done or was cancelled, else that of the failure's class.
    """
    protect(settings.secrets())
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    structlog.contextvars.bind_contextvars(job=job_id, attempt=attempt)
    # Nothing has begun that would need cleaning up.
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(PreemptedError.exit_code))
    pipeline = pipeline or load_pipeline()
    with contextlib.closing(open_job_store(settings.database_url)) as store:
        lease = Lease(store, job_id, attempt, lease_seconds=settings.lease_seconds)
        signal.signal(signal.SIGTERM, lambda _number, _frame: lease.preempt())
        try:
            with tracing.exporting_spans(), lease:
                faults.reached("worker.claimed")
                exit_code, finished = _run_to_end(settings, store, lease, job_id, attempt, slot, lock, pipeline)
        except (FencedError, TransientError) as error:  # the end could not, or must not, be recorded
            _log.warning("attempt ended without an entry in the store", reason=error.reason, error=error.message)
            return error.exit_code
    # The recorded end stands; a signal during interpreter shutdown must not contradict it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if finished is not None:
        discard_work(finished)
    return exit_code


def _run_to_end(
    settings: Settings,
    store: AttemptLog,
    lease: Lease,
    job_id: str,
    attempt: int,
    slot: int,
    lock: Path | None,
    pipeline: Pipeline,
) -> tuple[int, Path | None]:
    """Run the attempt and record its end; returns the exit code, and the work directory if it is no longer needed."""
    job = store.get(job_id)
    workdir = None
    try:
        workdir = _take_locks(lock, work_directory(settings.data_dir, job_id))
        lease.check()
        with _attempt_span(job):
            result = _run_pipeline(settings, store, lease, job, workdir, slot, pipeline)
            lease.insist(lambda: store.succeed(job_id, attempt, result))
        faults.reached("worker.succeeded")
    except Exception as error:
        ended = attempt_error(error)
        if isinstance(ended, FencedError):
            raise ended from error
        _log.info("attempt ended", reason=ended.reason, exc_info=ended is not error)
        state = _write_end(settings, store, lease, job, ended)
        return ended.exit_code, workdir if state.is_terminal else None
    return 0, workdir


def _run_pipeline(
    settings: Settings,
    store: AttemptLog,
    lease: Lease,
    job: Job,
    workdir: Path,
    slot: int,
    pipeline: Pipeline,
) -> JobResult:
    observer = StoreObserver(store, job.id, job.attempt, lease)
    figures = AttemptFigures()
    destination = job.destination or settings.destinations[0]
    spec = _specification(job)
    try:
        outcome = pipeline(
            Attempt(
                spec,
                job.id,
                job.attempt,
                prefix=job.id,
                origins=_origins(store, job),
                shortages=job.shortages,
                flops=job.estimate.flops,
            ),
            Machine(
                workdir,
                settings.devices[slot],
                settings.worker_threads,
                processes_of(spec, settings.processes_per_worker),
                settings.cache_dir / "states",
                settings.shared_states_bytes,
            ),
            Ports(
                sources=open_sources(settings, figures),
                ledger=StoreLedger(store, job.id, job.attempt, lease),
                store=InstrumentedStore(open_store(destination, settings.account_of(destination)), figures),
                commit=lambda digest: lease.insist(partial(store.commit_manifest, job.id, job.attempt, digest)),
                observer=observer,
                patience_seconds=settings.publish_patience_seconds,
            ),
        )
    except Exception:
        with contextlib.suppress(AttemptError):  # must not hide why the attempt ended
            observer.log("debug", attempt_figures.MESSAGE, **figures.fields({}))
        raise
    observer.flush()
    observer.log("debug", attempt_figures.MESSAGE, **figures.fields(outcome.figures))
    return outcome.result


def _attempt_span(job: Job) -> contextlib.AbstractContextManager[Span]:
    return tracing.span(
        "attempt",
        {tracing.JOB: job.id, tracing.ATTEMPT: job.attempt},
        parent=tracing.parent_of(job.trace),
        kind=SpanKind.CONSUMER,
    )


def _specification(job: Job) -> PruneSpec:
    """The specification to run.

    Raises:
        PermanentError: with reason SPEC_NOT_UNDERSTOOD: the rules have changed since the job was admitted.
    """
    try:
        return PruneSpec.model_validate(job.resolved)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, finding["loc"])) for finding in error.errors(include_input=False))
        raise PermanentError(
            f"this release has other rules for {fields} than the one that admitted the job; submit it again",
            reason="SPEC_NOT_UNDERSTOOD",
        ) from error


def _origins(store: AttemptLog, job: Job) -> tuple[str, ...]:
    """The job that this one retries, the job which that one retries, and so on: any may have finished blocks."""
    found: list[str] = []
    while job.retry_of is not None:
        found.append(job.retry_of)
        try:
            job = store.get(job.retry_of)
        except NotFoundError:
            break
    return tuple(found)


def _write_end(settings: Settings, store: AttemptLog, lease: Lease, job: Job, error: AttemptError) -> JobState:
    """Record how an attempt without a result ended; returns the job's new state."""
    if isinstance(error, CancelledError):
        lease.insist(lambda: store.cancelled(job.id, job.attempt))
        return JobState.CANCELLED
    end = end_of_error(error)
    backoff = Backoff(settings.retry_base_seconds, settings.retry_max_seconds)
    delay = backoff.delay_seconds(job.charged_attempts, random.Random()) if end.charged else 0.0  # noqa: S311 - jitter
    released = lease.insist(
        lambda: store.release(job.id, job.attempt, end.failure, charged=end.charged, delay_seconds=delay),
    )
    return released.state


def _take_locks(lock: Path | None, workdir: Path) -> Path:
    """Lock the slot and the work directory for the life of this process; returns the work directory."""
    if lock is not None:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        hold_until_exit(lock, wait_seconds=LOCK_WAIT_SECONDS, reason="SLOT_IN_USE")
    workdir.mkdir(parents=True, exist_ok=True)
    hold_until_exit(workdir, wait_seconds=LOCK_WAIT_SECONDS, reason="WORK_DIRECTORY_IN_USE")
    return workdir
