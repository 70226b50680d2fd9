"""What ComparePruneJobs takes and answers; the comparison itself is `secateur_service.evaluation.comparison`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from secateur._gate import growth_problem
from secateur._language_names import language_fault
from secateur.v1 import prune_service_pb2 as service_pb
from secateur_service.api import conversion, names
from secateur_service.api.published_results import PublishedResults
from secateur_service.calibration.languages import parse_language
from secateur_service.errors import FieldViolation, InvalidRequestError
from secateur_service.evaluation.comparison import MAX_JOBS, Candidate, Found, compare, readable_report
from secateur_service.evaluation.comparison_page import render_comparison, with_others
from secateur_service.jobs.job import Job

MAX_TARGETS = 500
MAX_RELATED = 20
"""Reports of other jobs that are read for one call."""


@dataclass(frozen=True)
class Asked:
    """A request that breaks no rule."""

    job_ids: tuple[str, ...]
    targets: tuple[str, ...]
    max_growth: float | None
    include_html: bool
    include_related: bool


def parse_request(request: service_pb.ComparePruneJobsRequest) -> Asked:
    """Check a request.

    Raises:
        InvalidRequestError: it breaks rules; lists all of them.
    """
    max_growth = request.max_growth if request.HasField("max_growth") else None
    violations = [*_too_many(request)]
    if violations:
        raise InvalidRequestError(violations)
    job_ids: dict[str, str] = {}
    for position, name in enumerate(request.names):
        field = f"names[{position}]"
        try:
            job_id = names.parse_job_name(name, field)
        except InvalidRequestError as error:
            violations += error.violations
            continue
        if job_id in job_ids:
            violations.append(FieldViolation(field, f"{name} is there already; name each job once"))
        job_ids[job_id] = field
    targets = []
    for position, tag in enumerate(request.target_languages):
        if (fault := language_fault(tag)) is not None:
            violations.append(FieldViolation(f"target_languages[{position}]", fault))
        else:
            targets.append(str(parse_language(tag)))
    if max_growth is not None and (problem := growth_problem(max_growth)) is not None:
        violations.append(FieldViolation("max_growth", problem))
    if violations:
        raise InvalidRequestError(violations)
    return Asked(tuple(job_ids), tuple(targets), max_growth, request.include_html, request.include_related)


def candidate(results: PublishedResults, job: Job) -> Candidate:
    """What the comparison needs of a job.

    Raises:
        NotReadyError: it has no report, or one that cannot be compared.
        DamagedResultError: its report is missing or differs from what was published.
    """
    name = conversion.job_name(job.id)
    seconds = (job.end_time - job.start_time).total_seconds() if job.start_time and job.end_time else None
    return Candidate.of(name, readable_report(name, results.report(job)), seconds)


def answer(asked: Asked, named: Sequence[Candidate], found: Found | None) -> service_pb.ComparePruneJobsResponse:
    """The comparison, and the page if it was asked for."""
    comparison = compare(named, asked.targets, asked.max_growth, found=found)
    return service_pb.ComparePruneJobsResponse(
        comparison=conversion.to_struct(comparison.model_dump(mode="json")),
        html=render_comparison(comparison).decode() if asked.include_html else "",
    )


def page_of(results: PublishedResults, job: Job, one: Candidate | None, found: Found | None) -> str:
    """The published page of a job, with a section about the others of its model if there are any."""
    page = results.page(job)
    return with_others(page, compare([one], found=found)) if one and found and found.candidates else page


def _too_many(request: service_pb.ComparePruneJobsRequest) -> Iterator[FieldViolation]:
    if not 1 <= len(request.names) <= MAX_JOBS:
        yield FieldViolation("names", f"{len(request.names)} jobs; expected 1 to {MAX_JOBS}")
    if len(request.target_languages) > MAX_TARGETS:
        yield FieldViolation("target_languages", f"{len(request.target_languages)} are too many; at most {MAX_TARGETS}")
