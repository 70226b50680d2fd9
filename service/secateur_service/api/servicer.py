"""The methods of `secateur.v1.PruneService`.

Everything that blocks runs in one of two pools: `store_pool` for SQL, and `file_pool` for reading object stores, so
that a slow object store does not delay a GetPruneJob. Each caller has a share of `file_pool`. Specifications are
checked elsewhere, see `secateur_service.inspection`.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from secateur.v1 import prune_job_pb2 as pb
from secateur.v1 import prune_service_pb2 as service_pb
from secateur.v1 import prune_service_pb2_grpc as service_grpc
from secateur_service.api import comparing, conversion, names, pages
from secateur_service.api.published_results import PublishedResults
from secateur_service.api.thread_pool import ThreadPool
from secateur_service.api.tokens import CALLER
from secateur_service.api.watch import JobWatcher, WatchHub
from secateur_service.errors import (
    DamagedResultError,
    DrainingError,
    FieldViolation,
    InvalidRequestError,
    InvalidSpecError,
    NotReadyError,
    UnreachableError,
)
from secateur_service.evaluation.comparison import MAX_JOBS, Candidate, Found
from secateur_service.inspection.shares import Shares
from secateur_service.jobs.filters import Filter
from secateur_service.jobs.job import Estimate, Job, NewJob
from secateur_service.jobs.port import Jobs
from secateur_service.jobs.states import JobState
from secateur_service.models.support import Support
from secateur_service.records.needs import Needs
from secateur_service.spec import SPEC_FORMAT, PruneSpec
from secateur_service.telemetry.tracing import carry

# A stock gRPC client refuses messages above 4 MiB.
_MAX_PAGE_BYTES = 3 * 2**20
_MAX_LABELS_READ = 1000
_MAX_MODEL_TYPE = 100


class AdmittedSpec(Protocol):
    """The result of admission: what will run, and what it is expected to cost."""

    @property
    def resolved(self) -> PruneSpec:
        """The specification with every default filled in."""

    @property
    def estimate(self) -> Estimate:
        """The expected cost."""

    @property
    def needs(self) -> Needs:
        """What it needs of the agent that runs it."""


Admit = Callable[[Mapping[str, Any], str], Awaitable[AdmittedSpec]]
"""Checks a specification against the rules and the files it names, on behalf of a caller, who may have many calls open;
raises InvalidSpecError with every violation."""


Describe = Callable[[str, str], Awaitable[Support]]
"""What is known of a type of models, on behalf of a caller."""


class PruneServicer(service_grpc.PruneServiceServicer):
    """Serves the API from a job store, admission and the published results."""

    def __init__(
        self,
        *,
        store: Jobs,
        admit: Admit,
        describe: Describe,
        results: PublishedResults,
        watcher: JobWatcher,
        hub: WatchHub,
        store_pool: ThreadPool,
        file_pool: ThreadPool,
        file_shares: Shares,
        info: service_pb.ServiceInfo,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._admit = admit
        self._describe = describe
        self._results = results
        self._watcher = watcher
        self._hub = hub
        self._store_pool = store_pool
        self._file_pool = file_pool
        self._file_shares = file_shares
        self._info = info
        self._clock = clock

    async def CreatePruneJob(self, request: service_pb.CreatePruneJobRequest, context: Any) -> pb.PruneJob:
        """Admit a job and store it, or, for a dry run, show what it would be."""
        if self._hub.draining:
            raise DrainingError("the server is stopping; submit again, the request id keeps the job single")
        spec, labels = _plain(request)
        digest = request_digest(spec, labels)
        request_id = request.request_id.lower()
        if request_id and not request.validate_only and not names.check_request_id(request_id):
            # What the first request named may be gone by now, so a repeated request is not checked again.
            known = await self._store_pool.call(self._store.find_request, request_id, digest)
            if known is not None:
                return conversion.job_to_message(known)
        admitted = await self._check(request, spec, labels, _caller(context))
        if request.validate_only:
            return pb.PruneJob(
                spec=request.spec,
                resolved_spec=conversion.resolved_to_message(admitted.resolved),
                estimate=conversion.estimate_to_message(admitted.estimate),
                max_attempts=admitted.resolved.execution.max_attempts,
                labels=labels,
            )
        new_job = NewJob(
            id=names.new_job_id(self._clock()),
            uid=str(uuid.uuid4()),
            spec=spec,
            resolved=admitted.resolved,
            labels=labels,
            estimate=admitted.estimate,
            needs=admitted.needs,
            request_id=request_id or None,
            request_digest=digest if request_id else None,
            trace=carry(),
        )
        return conversion.job_to_message(await self._store_pool.call(self._store.create, new_job))

    async def RetryPruneJob(self, request: service_pb.RetryPruneJobRequest, context: Any) -> pb.PruneJob:
        """Store a new job that resumes where a failed or cancelled one ended."""
        if self._hub.draining:
            raise DrainingError("the server is stopping; retry again, the request id keeps the new job single")
        if violations := names.check_request_id(request.request_id):
            raise InvalidRequestError(violations)
        old = await self._store_pool.call(self._store.get, names.parse_job_name(request.name))
        if old.state not in (JobState.FAILED, JobState.CANCELLED):
            raise NotReadyError(
                f"{request.name} is {old.state}; only a job that has failed or was cancelled can be retried",
                reason="JOB_NOT_RETRYABLE",
            )
        if old.spec_format > SPEC_FORMAT:
            raise NotReadyError(
                f"{request.name} is of a newer release than this replica; retry it when all replicas are of that one",
                reason="JOB_OF_NEWER_RELEASE",
            )
        spec, asked = old.spec, dict[str, Any](retry_of=old.id)
        if request.HasField("spec"):
            spec = _plain_spec(request.spec)
            asked = {**asked, "spec": spec}
            admitted = await self._admit_spec(spec, _caller(context))
            resolved, estimate = admitted.resolved, admitted.estimate
        else:
            # What was admitted then may be refused now. The same specification runs, so that finished blocks fit.
            admitted = await self._admit(old.resolved, _caller(context))
            resolved, estimate = PruneSpec.model_validate(old.resolved), old.estimate
        new_job = NewJob(
            id=names.new_job_id(self._clock()),
            uid=str(uuid.uuid4()),
            spec=spec,
            resolved=resolved,
            labels=old.labels,
            estimate=estimate,
            needs=admitted.needs,  # also where the other job is of a release that did not know them
            request_id=request.request_id.lower() or None,
            request_digest=request_digest(asked, {}) if request.request_id else None,
            retry_of=old.id,
            trace=carry(),
        )
        return conversion.job_to_message(await self._store_pool.call(self._store.create, new_job))

    async def GetPruneJob(self, request: service_pb.GetPruneJobRequest, context: Any) -> pb.PruneJob:
        """Read a job."""
        job_id = names.parse_job_name(request.name)
        return conversion.job_to_message(await self._store_pool.call(self._store.get, job_id))

    async def ListPruneJobs(
        self, request: service_pb.ListPruneJobsRequest, context: Any
    ) -> service_pb.ListPruneJobsResponse:
        """A page of jobs; shorter than asked for if the jobs are large."""
        page_size = pages.check_page_size(request.page_size)
        wanted, order = _filter(request), pages.parse_order(request.order_by)
        after = pages.decode_token(request.page_token, wanted, order)
        while True:
            jobs, following = await self._store_pool.call(
                self._store.list_jobs, wanted, order, limit=page_size, after=after
            )
            response = service_pb.ListPruneJobsResponse(
                jobs=[conversion.job_to_message(job) for job in jobs],
                next_page_token=pages.encode_token(following, wanted, order),
            )
            if response.ByteSize() <= _MAX_PAGE_BYTES or page_size == 1:
                return response
            page_size = max(1, page_size // 2)

    async def CancelPruneJob(self, request: service_pb.CancelPruneJobRequest, context: Any) -> pb.PruneJob:
        """Ask a job to stop."""
        job_id = names.parse_job_name(request.name)
        return conversion.job_to_message(await self._store_pool.call(self._store.request_cancel, job_id))

    async def DeletePruneJob(
        self, request: service_pb.DeletePruneJobRequest, context: Any
    ) -> service_pb.DeletePruneJobResponse:
        """Delete a job that has ended: its files first, so that whoever is interrupted can call again."""
        job = await self._store_pool.call(self._store.deletable, names.parse_job_name(request.name))
        removed = await self._read(context, partial(self._results.remove, job, result=request.delete_artifacts))
        await self._store_pool.call(self._store.delete, job.id)
        return service_pb.DeletePruneJobResponse(deleted_files=removed)

    async def WatchPruneJob(self, request: service_pb.WatchPruneJobRequest, context: Any) -> None:
        """Stream a job's events; the watch is closed at once when its reader is gone."""
        job_id = names.parse_job_name(request.name)
        after = request.after_sequence if request.HasField("after_sequence") else None
        async with aclosing(self._watcher.watch(job_id, after, CALLER.get())) as messages:
            async for message in messages:
                await context.write(message)

    async def GetPruneReport(self, request: service_pb.GetPruneReportRequest, context: Any) -> service_pb.PruneReport:
        """The report of a job that succeeded, and its page with the other jobs of its model if that is asked for."""
        job_id = names.parse_job_name(request.name)
        job = await self._store_pool.call(self._store.get, job_id)
        response: service_pb.PruneReport = await self._read(context, self._report, job)
        if request.include_html:
            try:
                one = await self._read(context, comparing.candidate, self._results, job)
            except NotReadyError:  # of another release: the page is still there
                one = None
            found = await self._found([one], [job_id], context) if one else None
            response.html = await self._read(context, comparing.page_of, self._results, job, one, found)
        return response

    async def ComparePruneJobs(
        self, request: service_pb.ComparePruneJobsRequest, context: Any
    ) -> service_pb.ComparePruneJobsResponse:
        """Jobs that have a report side by side; the reports are read one by one, in turn with other callers' calls."""
        asked = comparing.parse_request(request)
        jobs = [await self._store_pool.call(self._store.get, job_id) for job_id in asked.job_ids]
        candidates = [await self._read(context, comparing.candidate, self._results, job) for job in jobs]
        found = await self._found(candidates, asked.job_ids, context) if asked.include_related else None
        response: service_pb.ComparePruneJobsResponse = await self._read(
            context, comparing.answer, asked, candidates, found
        )
        return response

    async def ListArtifacts(
        self, request: service_pb.ListArtifactsRequest, context: Any
    ) -> service_pb.ListArtifactsResponse:
        """The files of a job that succeeded."""
        job_id = names.parse_job_name(request.name)
        job = await self._store_pool.call(self._store.get, job_id)
        artifacts = await self._read(context, self._results.artifacts, job)
        return service_pb.ListArtifactsResponse(artifacts=artifacts)

    async def GetServiceInfo(self, request: service_pb.GetServiceInfoRequest, context: Any) -> service_pb.ServiceInfo:
        """What this service can do, and what it knows of an architecture."""
        if not request.architecture:
            return self._info
        if len(request.architecture) > _MAX_MODEL_TYPE:
            problem = f"no model_type is longer than {_MAX_MODEL_TYPE} characters; give that of the model's config.json"
            raise InvalidRequestError([FieldViolation("architecture", problem)])
        found = await self._describe(request.architecture, _caller(context))
        answer = service_pb.ServiceInfo()
        answer.CopyFrom(self._info)
        answer.architecture.CopyFrom(conversion.support_to_message(found))
        return answer

    async def _check(
        self, request: service_pb.CreatePruneJobRequest, spec: Mapping[str, Any], labels: Mapping[str, str], caller: str
    ) -> AdmittedSpec:
        """Admit a specification; reports every rule that the request breaks, inside the specification or outside."""
        violations = names.check_request_id(request.request_id) + names.check_labels(labels)
        try:
            admitted = await self._admit_spec(spec, caller)
        except InvalidRequestError as error:
            raise InvalidRequestError([*error.violations, *violations], reason=error.reason) from error
        if violations:
            raise InvalidRequestError(violations)
        return admitted

    async def _admit_spec(self, spec: Mapping[str, Any], caller: str) -> AdmittedSpec:
        """Admit the specification of a request; violations have their paths in the request."""
        try:
            return await self._admit(spec, caller)
        except InvalidSpecError as error:
            raise InvalidRequestError(conversion.prefixed(error.violations), reason=error.reason) from error
        except UnreachableError as error:
            (violation,) = conversion.prefixed([error.violation])
            raise UnreachableError(str(violation), reason=error.reason, metadata=error.metadata) from error

    async def _found(self, named: Sequence[Candidate], job_ids: Collection[str], context: Any) -> Found:
        """The newest other jobs of the models of some; a report that cannot be read is no reason to show none."""
        limit = min(comparing.MAX_RELATED, MAX_JOBS - len(named))
        digests = {one.model.digest for one in named}
        jobs, left_out = await self._store_pool.call(
            self._store.jobs_of_models, digests, except_for=job_ids, limit=limit
        )
        found, unreadable = [], {}
        for job in jobs:
            try:
                found.append(await self._read(context, comparing.candidate, self._results, job))
            except (NotReadyError, DamagedResultError) as error:
                unreadable[conversion.job_name(job.id)] = error.message
        return Found(tuple(found), left_out, unreadable)

    async def _read(self, context: Any, work: Callable[..., Any], *arguments: Any) -> Any:
        """Read or remove published files, in turn with other callers' calls."""
        async with self._file_shares.slot(_caller(context)):
            return await self._file_pool.call(work, *arguments)

    def _report(self, job: Job) -> service_pb.PruneReport:
        report = conversion.to_struct(self._results.report(job))
        return service_pb.PruneReport(name=conversion.job_name(job.id), report=report)


def _plain(request: service_pb.CreatePruneJobRequest) -> tuple[dict[str, Any], dict[str, str]]:
    """Specification and labels as plain data, unless there are too many entries to convert.

    Raises:
        InvalidRequestError: there are too many.
    """
    if len(request.labels) > _MAX_LABELS_READ:
        raise InvalidRequestError([FieldViolation("labels", f"{len(request.labels)} labels are too many")])
    return _plain_spec(request.spec), dict(request.labels)


def _plain_spec(message: pb.PruneSpec) -> dict[str, Any]:
    """A request's specification as plain data.

    Raises:
        InvalidRequestError: it cannot be one.
    """
    try:
        return conversion.spec_to_dict(message)
    except InvalidSpecError as error:
        raise InvalidRequestError(conversion.prefixed(error.violations), reason=error.reason) from error


def _caller(context: Any) -> str:
    """Whose share a call uses: the token's, or the connection's if no token is needed."""
    return CALLER.get() or str(context.peer())


def request_digest(spec: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """SHA-256 of a request's content in canonical form: equal requests have equal digests."""
    canonical = json.dumps({"labels": labels, "spec": spec}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _filter(request: service_pb.ListPruneJobsRequest) -> Filter:
    """Which jobs to list.

    Raises:
        InvalidRequestError: a state is unspecified or unknown, a time is none, or no job can have the labels or id.
    """
    if len(request.states) > len(JobState):
        raise InvalidRequestError(
            [FieldViolation("states", f"{len(request.states)} are more than there are; name each once")]
        )
    states: set[JobState] = set()
    violations = []
    for position, value in enumerate(request.states):
        state = conversion.state_from_enum(value)
        if state is None:
            known = ", ".join(pb.JobState.keys()[1:])
            violations.append(FieldViolation(f"states[{position}]", f"no state to list; expected one of {known}"))
        else:
            states.add(state)
    labels = dict(request.labels)
    violations += names.check_labels(labels) + names.check_id_prefix(request.id_prefix)
    if violations:
        raise InvalidRequestError(violations)
    return Filter(
        tuple(sorted(states)),
        labels,
        created_from=_time(request, "created_from"),
        created_before=_time(request, "created_before"),
        id_prefix=request.id_prefix,
    )


def _time(request: service_pb.ListPruneJobsRequest, field: str) -> datetime | None:
    """A time in a request.

    Raises:
        InvalidRequestError: it is none.
    """
    if not request.HasField(field):
        return None
    try:
        found: datetime = getattr(request, field).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        remedy = "no time between the years 1 and 9999; give seconds since 1970 and nanoseconds"
        raise InvalidRequestError([FieldViolation(field, remedy)]) from None
    return found
