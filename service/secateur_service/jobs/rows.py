"""Converts between table rows and the objects of `job`: nothing else knows how a job is stored in SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from secateur_service.jobs.events import log_body
from secateur_service.jobs.job import (
    Estimate,
    Event,
    EventKind,
    Failure,
    Job,
    JobResult,
    NewJob,
    Shortage,
)
from secateur_service.jobs.schema import jobs
from secateur_service.jobs.states import JobState
from secateur_service.records.decoding import decode
from secateur_service.records.needs import Needs
from secateur_service.records.progress import Progress, Stage
from secateur_service.spec import SPEC_FORMAT

Row = Mapping[Any, Any]
"""Values by column name."""

NEED_COLUMNS = (
    jobs.c.need_device_bytes,
    jobs.c.need_host_beside_device_bytes,
    jobs.c.need_disk_bytes,
    jobs.c.need_host_bytes,
)
"""In the order of their index."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS, _STAGES, _SHORTAGES = frozenset(EventKind), frozenset(Stage), frozenset(Shortage)


def new_row(job: NewJob, now: int) -> dict[str, Any]:
    """The row for a job accepted now, before its first event."""
    return {
        "id": job.id,
        "uid": job.uid,
        "request_id": job.request_id,
        "request_digest": job.request_digest,
        "spec": dict(job.spec),
        "resolved": job.resolved.model_dump(mode="json"),
        "spec_format": SPEC_FORMAT,
        "labels": dict(job.labels),
        "estimate": asdict(job.estimate),
        "state": JobState.QUEUED.value,
        "stage": None,
        "progress": None,
        "attempt": 0,
        "charged_attempts": 0,
        "uncharged_attempts": 0,
        "max_attempts": job.resolved.execution.max_attempts,
        "owner": None,
        "lease_end": None,
        "heartbeat": None,
        "not_before": now,
        "failure": None,
        "result": None,
        "manifest_sha256": None,
        "last_sequence": 0,
        "create_time": now,
        "start_time": None,
        "end_time": None,
        "queue_deadline": _after(now, job.resolved.execution.queue_deadline_seconds),
        "run_deadline": None,
        "last_event_time": None,
        "retry_of": job.retry_of,
        "short_of": None,
        "swept_time": None,
        "trace": dict(job.trace) or None,
        "model_digest": None,
        "worst_growth": None,
        "need_host_bytes": job.needs.host_bytes,
        "need_disk_bytes": job.needs.disk_bytes,
        "need_device_bytes": job.needs.device_bytes,
        "need_host_beside_device_bytes": job.needs.host_bytes_beside_device,
        "waiting": None,
    }


def run_deadline(row: Row, now: int) -> int | None:
    """The deadline of a job that is claimed for the first time now."""
    return _after(now, row["resolved"]["execution"].get("run_deadline_seconds"))


def to_job(row: Row) -> Job:
    """The job in a row of `schema.jobs`, whichever release wrote it: one unreadable job must not break a list."""
    return Job(
        id=row["id"],
        uid=row["uid"],
        spec=row["spec"],
        resolved=row["resolved"],
        spec_format=row["spec_format"],
        labels=row["labels"],
        estimate=decode(Estimate, row["estimate"]),
        state=JobState(row["state"]),
        stage=Stage(row["stage"]) if row["stage"] in _STAGES else None,
        progress=None if row["progress"] is None else decode(Progress, row["progress"]),
        attempt=row["attempt"],
        charged_attempts=row["charged_attempts"],
        max_attempts=row["max_attempts"],
        failure=None if row["failure"] is None else decode(Failure, row["failure"]),
        result=None if row["result"] is None else decode(JobResult, row["result"]),
        last_sequence=row["last_sequence"],
        create_time=to_time(row["create_time"]),
        queue_time=to_time(row["not_before"]),
        start_time=None if row["start_time"] is None else to_time(row["start_time"]),
        end_time=None if row["end_time"] is None else to_time(row["end_time"]),
        retry_of=row["retry_of"],
        shortages=frozenset(Shortage(short) for short in row["short_of"] or () if short in _SHORTAGES),
        trace=row["trace"] or {},
        needs=to_needs(row),
        # An older release that claims the job leaves the reason there.
        waiting=row["waiting"] if row["state"] == JobState.QUEUED else None,
    )


def to_needs(row: Row) -> Needs:
    """The needs in a row that has `NEED_COLUMNS`."""
    return Needs(
        host_bytes=row["need_host_bytes"],
        disk_bytes=row["need_disk_bytes"],
        device_bytes=row["need_device_bytes"],
        host_bytes_beside_device=row["need_host_beside_device_bytes"],
    )


def to_event(row: Row) -> Event:
    """The event in a row of `schema.events`. A kind or stage known only to a newer release becomes a log line."""
    kind, body = row["kind"], row["body"]
    if kind not in _KINDS or (kind == EventKind.STAGE and body["stage"] not in _STAGES):
        kind, body = EventKind.LOG, log_body("info", f"{kind}, an event of a newer release", body)
    return Event(
        job_id=row["job_id"],
        sequence=row["sequence"],
        time=to_time(row["time"]),
        attempt=row["attempt"],
        kind=EventKind(kind),
        body=body,
    )


def to_time(milliseconds: int) -> datetime:
    """A database time as a datetime."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def to_milliseconds(time: datetime) -> int:
    """A time as the database has it; what is less than a millisecond is cut off."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def _after(now: int, seconds: int | None) -> int | None:
    return None if seconds is None else now + 1000 * seconds
