"""The job as the store keeps it, and the events of its life."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from secateur_service.jobs.states import JobState
from secateur_service.records.needs import UNKNOWN, Needs
from secateur_service.records.progress import Progress, Stage
from secateur_service.records.result import (
    LIMIT_EXCEEDED,
    MANIFEST_DIGEST,
    Estimate,
    JobResult,
    LanguageResult,
    Shortage,
)
from secateur_service.spec import PruneSpec

__all__ = ["Estimate", "Event", "EventKind", "Failure", "Job", "JobResult", "LanguageResult", "NewJob", "Shortage"]


@dataclass(frozen=True)
class Failure:
    """Why an attempt or a job failed."""

    reason: str
    message: str
    retryable: bool
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def shortage(self) -> Shortage | None:
        """The memory that ran out, or probably did; None for any other failure."""
        if self.reason == "DEVICE_OUT_OF_MEMORY":
            return Shortage.DEVICE
        # The kernel gives no reason when it kills a process because memory ran out.
        killed = self.reason == "WORKER_KILLED" and self.details.get("signal") == "SIGKILL"
        return Shortage.HOST if killed or self.reason == "OUT_OF_MEMORY" else None


@dataclass(frozen=True)
class Job:
    """A job. Times are UTC, from the database's clock.

    Attributes:
        spec: the specification as submitted.
        resolved: the specification that runs, as written by the release that admitted the job.
        spec_format: the `SPEC_FORMAT` of that release; a replica with a smaller one leaves the job to others.
        queue_time: when it last became claimable.
        trace: W3C trace context of the call that created it.
        needs: what it takes of the agent that runs it.
        waiting: why it waits although there may be free slots; None unless it is queued and fits nobody.
    """

    id: str
    uid: str
    spec: Mapping[str, Any]
    resolved: Mapping[str, Any]
    spec_format: int
    labels: Mapping[str, str]
    estimate: Estimate
    state: JobState
    stage: Stage | None
    progress: Progress | None
    attempt: int
    charged_attempts: int
    max_attempts: int
    failure: Failure | None
    result: JobResult | None
    last_sequence: int
    create_time: datetime
    queue_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    retry_of: str | None = None
    shortages: frozenset[Shortage] = frozenset()
    trace: Mapping[str, str] = field(default_factory=dict)
    needs: Needs = UNKNOWN
    waiting: str | None = None

    @property
    def published_sha256(self) -> str | None:
        """The digest of the manifest of what the job published, which a job that exceeds a limit does as well."""
        if self.result is not None:
            return self.result.manifest_sha256
        exceeded = self.failure is not None and self.failure.reason == LIMIT_EXCEEDED
        return self.failure.details.get(MANIFEST_DIGEST) if self.failure and exceeded else None

    @property
    def destination(self) -> str | None:
        """Where the job publishes; None for the service's first destination."""
        destination: str | None = self.resolved["output"]["destination"]
        return destination


@dataclass(frozen=True)
class NewJob:
    """A job to be stored."""

    id: str
    uid: str
    spec: Mapping[str, Any]
    resolved: PruneSpec
    labels: Mapping[str, str]
    estimate: Estimate
    request_id: str | None = None
    request_digest: str | None = None
    retry_of: str | None = None
    trace: Mapping[str, str] = field(default_factory=dict)
    needs: Needs = UNKNOWN


def model_reference(model: Mapping[str, Any]) -> str:
    """The `model` of a resolved specification in one text: what it names, and its version if it has one."""
    return f"{model['uri']}@{model['revision']}" if model.get("revision") else str(model["uri"])


class EventKind(enum.StrEnum):
    """What an event says; each kind names the fields of its body."""

    STATE = "state"  # state, message, failure?
    STAGE = "stage"  # stage
    PROGRESS = "progress"  # the fields of `Progress`; eta_seconds?
    BLOCK = "block"  # index, sparsity, seconds, snr_db
    LOG = "log"  # level, message, fields


@dataclass(frozen=True)
class Event:
    """One entry of a job's event log. `sequence` is dense per job and starts at 1."""

    job_id: str
    sequence: int
    time: datetime
    attempt: int
    kind: EventKind
    body: Mapping[str, Any]
