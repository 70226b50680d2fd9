"""Every operation of the API, once, as a flow; the clients and handles only run them."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Unpack

from secateur._arguments import number, texts, timeout
from secateur._artifact import Architecture, Artifact, ServiceInfo
from secateur._as_written import as_written
from secateur._changes import changed_spec
from secateur._comparison import Comparison, comparison_of
from secateur._convert import (
    architecture_from,
    artifact_from,
    info_from,
    job_from,
    plain_struct,
    plan_from,
    state_value,
    timestamp,
)
from secateur._errors import (
    InvalidRequestError,
    JobCancelledError,
    JobFailedError,
    NotFoundError,
    NotReadyError,
    UnreachableError,
)
from secateur._event import LogEvent
from secateur._filter import JobFilter
from secateur._flow import Contact, Emit, Flow, Run, call, collect, select, take
from secateur._gate import Gate, GateLimits, gate
from secateur._job import (
    JOB_ID,
    NAME_PREFIX,
    Failure,
    Job,
    JobResult,
    JobState,
    Plan,
    PublishedResult,
    job_name,
)
from secateur._report import Report
from secateur._spec import SpecSource, read_spec, spec_mapping, spec_message
from secateur._watch import Reconnect, watch
from secateur.v1 import prune_job_pb2 as pb
from secateur.v1 import prune_service_pb2 as service_pb

ID_CHARACTERS = 22
"""Of an id as the service makes it; a text of this length is no shortened one."""

_MOST_NAMED = 5


@dataclass(frozen=True)
class Operations:
    """The API's operations with the client's settings filled in.

    Attributes:
        timeout_seconds: Time for one response, retries included.
        reconnect: How watches reconnect to a lost service.
        local: Whether the service is on this machine.
        contact: What is known of the service by now.
    """

    timeout_seconds: float
    reconnect: Reconnect
    local: bool
    contact: Contact = field(default_factory=Contact)

    def create(self, spec: SpecSource, labels: Mapping[str, str] | None, request_id: str | None) -> Flow[Job]:
        """Submit a specification; the request id makes it safe to repeat."""
        return job_from(
            (yield from self._create(spec, labels=labels or {}, request_id=request_id or str(uuid.uuid4())))
        )

    def plan(self, spec: SpecSource, labels: Mapping[str, str] | None) -> Flow[Plan]:
        """Have a specification checked and its cost estimated."""
        return plan_from((yield from self._create(spec, labels=labels or {}, validate_only=True)))

    def _create(self, spec: SpecSource, **rest: Any) -> Flow[pb.PruneJob]:
        content = yield from _content(spec)
        request = service_pb.CreatePruneJobRequest(spec=spec_message(content), **rest)
        try:
            return (yield from self._ask("CreatePruneJob", request))
        except (InvalidRequestError, UnreachableError) as error:
            error.rename(lambda field: as_written(field, content))
            raise

    def get(self, name: str) -> Flow[Job]:
        """Read a job."""
        return job_from((yield from self._ask("GetPruneJob", service_pb.GetPruneJobRequest(name=name))))

    def list_jobs(self, wanted: JobFilter, order_by: str, page_size: int) -> Flow[None]:
        """Emit all jobs that are wanted, page by page."""
        request = service_pb.ListPruneJobsRequest(
            page_size=page_size,
            states=[state_value(state) for state in wanted.states],
            labels=wanted.labels,
            order_by=order_by,
            created_from=None if wanted.since is None else timestamp(wanted.since),
            created_before=None if wanted.before is None else timestamp(wanted.before),
            id_prefix=wanted.id_prefix,
        )
        while True:
            response = yield from self._ask("ListPruneJobs", request)
            for job in map(job_from, response.jobs):
                if wanted.has(job):  # a service of an older release lists all
                    yield Emit(job)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def find(self, text: str) -> Flow[str]:
        """The name of a job, given its name, its id or the beginning of its id.

        A text that begins no id is returned as the name it would be, for the service to judge.

        Raises:
            NotFoundError: several ids begin so; reason JOB_AMBIGUOUS.
        """
        name = job_name(text)
        prefix = name.removeprefix(NAME_PREFIX)
        if len(prefix) == ID_CHARACTERS or not JOB_ID.fullmatch(prefix):
            return name
        listed = self.list_jobs(JobFilter(id_prefix=prefix), "", _MOST_NAMED + 1)
        found = yield from collect(take(listed, _MOST_NAMED + 1))
        exact = [job.name for job in found if job.id == prefix]
        if exact or len(found) <= 1:
            return exact[0] if exact else found[0].name if found else name
        named = ", ".join(f"{job.name} ({job.state})" for job in found[:_MOST_NAMED])
        more = " and more" if len(found) > _MOST_NAMED else ""
        raise NotFoundError(
            f"{prefix} begins the ids of several jobs: {named}{more}; give more of the id",
            reason="JOB_AMBIGUOUS",
            metadata={"jobs": " ".join(job.name for job in found)},
        )

    def delete(self, name: str, *, artifacts: bool) -> Flow[int]:
        """Delete a job; returns how many files went with it."""
        request = service_pb.DeletePruneJobRequest(name=name, delete_artifacts=artifacts)
        return int((yield from self._ask("DeletePruneJob", request)).deleted_files)

    def cancel(self, name: str) -> Flow[Job]:
        """Ask a job to stop."""
        return job_from((yield from self._ask("CancelPruneJob", service_pb.CancelPruneJobRequest(name=name))))

    def retry(self, name: str, request_id: str | None, changes: Mapping[str, Any] | None = None) -> Flow[Job]:
        """Create a new job that resumes where another ended; the request id makes it safe to repeat."""
        request = service_pb.RetryPruneJobRequest(name=name, request_id=request_id or str(uuid.uuid4()))
        content: Mapping[str, Any] = {}
        if changes:
            content = changed_spec((yield from self.get(name)), changes)
            request.spec.CopyFrom(spec_message(content))
        try:
            job = job_from((yield from self._ask("RetryPruneJob", request)))
        except (InvalidRequestError, UnreachableError) as error:
            error.rename(lambda field: as_written(field, content))
            raise
        if changes and job.spec != spec_mapping(request.spec):
            yield from self.cancel(job.name)
            raise NotReadyError("this service is too old to change a job that it retries; submit another one")
        return job

    def watch(self, name: str, after_sequence: int | None, timeout_seconds: float | None = None) -> Flow[None]:
        """Emit a job's events."""
        return watch(
            name,
            after_sequence=after_sequence,
            reconnect=self.reconnect,
            call_timeout_seconds=self.timeout_seconds,
            timeout_seconds=timeout(timeout_seconds),
            contact=self.contact,
        )

    def logs(self, name: str, *, follow: bool) -> Flow[None]:
        """Emit a job's log lines from the first on."""
        newest = math.inf if follow else (yield from self.get(name)).last_sequence
        if newest > 0:
            yield from select(
                self.watch(name, 0),
                wanted=lambda event: isinstance(event, LogEvent),
                last=lambda event: event.sequence >= newest,
            )

    def wait(self, name: str, timeout_seconds: float | None) -> Flow[Job]:
        """Wait until a job has ended, whatever the outcome."""
        yield from self.watch(name, None, timeout_seconds)
        return (yield from self.get(name))

    def result(self, name: str, timeout_seconds: float | None) -> Flow[JobResult]:
        """Wait for a job's result.

        Raises:
            JobFailedError, JobCancelledError: it has none.
        """
        job = yield from self.wait(name, timeout_seconds)
        published = published_result(job)
        report = yield from self.report(name)
        values = {field.name: getattr(published, field.name) for field in fields(PublishedResult)}
        return JobResult(**values, job=job, report=report)

    def report(self, name: str) -> Flow[Report]:
        """Read the report of a job that succeeded.

        Raises:
            JobFailedError, JobCancelledError, NotReadyError: it has none.
        """
        response = yield from self._published(name, "GetPruneReport", service_pb.GetPruneReportRequest(name=name))
        return Report(plain_struct(response.report))

    def report_page(self, name: str) -> Flow[str]:
        """Read the page of a job's report, with a section about the other jobs of its model.

        Raises:
            JobFailedError, JobCancelledError: the job has none.
            NotReadyError: it has none yet, or the service is of an older release.
        """
        request = service_pb.GetPruneReportRequest(name=name, include_html=True)
        response = yield from self._published(name, "GetPruneReport", request)
        if not response.html:
            raise NotReadyError(f"this service is too old to give the page of {name}; download the job: it has one")
        return str(response.html)

    def gate(self, name: str, **limits: Unpack[GateLimits]) -> Flow[Gate]:
        """Check what a job that has ended has lost, by the limits that `gate` takes.

        Raises:
            JobFailedError, JobCancelledError, NotReadyError: it has no report.
        """
        job = yield from self.get(name)
        if not has_report(job):
            published_result(job)
        report = yield from self.report(name)
        return gate(report, **limits)

    def compare(
        self,
        jobs: Iterable[str],
        target_languages: Iterable[str],
        max_growth: float | None,
        *,
        html: bool,
        related: bool = False,
    ) -> Flow[Comparison]:
        """Put jobs side by side.

        Raises:
            NotReadyError: related jobs were asked for, and the service is of an older release.
        """
        request = service_pb.ComparePruneJobsRequest(
            names=[job_name(job) for job in texts(jobs, "jobs")],
            target_languages=texts(target_languages, "target_languages"),
            max_growth=number(max_growth, "max_growth"),
            include_html=html,
            include_related=related,
        )
        response = yield from self._ask("ComparePruneJobs", request)
        comparison = comparison_of(plain_struct(response.comparison), response.html or None)
        if related and comparison.related is None:
            raise NotReadyError("this service is too old to look for other jobs of the model; name them")
        return comparison

    def artifacts(self, name: str) -> Flow[list[Artifact]]:
        """List the files of a job that succeeded.

        Raises:
            JobFailedError, JobCancelledError, NotReadyError: it has none.
        """
        response = yield from self._published(name, "ListArtifacts", service_pb.ListArtifactsRequest(name=name))
        return [artifact_from(artifact) for artifact in response.artifacts]

    def info(self) -> Flow[ServiceInfo]:
        """Ask what the service can do."""
        return info_from((yield from self._ask("GetServiceInfo", service_pb.GetServiceInfoRequest())))

    def architecture(self, model_type: str) -> Flow[Architecture]:
        """Ask whether models of a type can be pruned."""
        request = service_pb.GetServiceInfoRequest(architecture=model_type)
        return architecture_from((yield from self._ask("GetServiceInfo", request)).architecture)

    def _published(self, name: str, method: str, request: Any) -> Flow[Any]:
        """Ask for what a job published; if it has ended without a result, the error says why it did."""
        try:
            return (yield from self._ask(method, request))
        except NotReadyError:
            job = yield from self.get(name)
            if job.state.is_terminal:
                published_result(job)
            raise

    def _ask(self, method: str, request: Any) -> Flow[Any]:
        return (yield from call(method, request, self.timeout_seconds, contact=self.contact))


def has_report(job: Job) -> bool:
    """Whether a job can be judged: it succeeded, or exceeded a limit, which only its checkpoint does not survive."""
    exceeded = job.failure is not None and job.failure.reason == "LIMIT_EXCEEDED"
    return job.state is JobState.SUCCEEDED or (job.state is JobState.FAILED and exceeded)


def manifest_digest(job: Job) -> str:
    """The digest of the manifest of what a job published: its result, or of one that exceeded a limit its report.

    Raises:
        JobFailedError, JobCancelledError, NotReadyError: it published nothing.
    """
    failure = job.failure
    if job.state is JobState.FAILED and failure is not None and has_report(job):
        return failure.details["manifest_sha256"]
    return published_result(job).manifest_sha256


def published_folder(job: Job) -> str | None:
    """Where the files of a job are; None if it published none."""
    if job.result is not None:
        return job.result.manifest_uri.removesuffix("/manifest.json")
    destination = job.resolved_spec.get("output", {}).get("destination")
    return f"{destination.rstrip('/')}/{job.id}" if has_report(job) and destination else None


def published_result(job: Job) -> PublishedResult:
    """The result of a job that has ended.

    Raises:
        JobFailedError, JobCancelledError: it has none.
        NotReadyError: it has not ended.
    """
    if job.state is JobState.CANCELLED:
        raise JobCancelledError(f"{job.name} was cancelled", job=job.name, reason="CANCELLED")
    if job.state is JobState.FAILED:
        failure = job.failure or Failure("UNKNOWN", "the service does not say why", retryable=False)
        raise JobFailedError(
            f"{job.name} failed with {failure.reason}: {failure.message}",
            job=job.name,
            reason=failure.reason,
            retryable=failure.retryable,
            details=failure.details,
        )
    if job.result is None:
        raise NotReadyError(f"{job.name} is {job.state} and has no result; wait for its end")
    return job.result


def _content(spec: SpecSource) -> Flow[Mapping[str, Any]]:
    """A specification as plain data; reads files without blocking an event loop."""
    if isinstance(spec, Mapping):
        return spec
    if not isinstance(spec, str | os.PathLike):
        raise TypeError(f"a specification is a mapping or the path of a YAML file, not {type(spec).__name__}")
    return (yield Run(lambda: read_spec(spec)))
