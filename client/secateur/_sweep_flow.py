"""Submitting the jobs of a sweep, watching them and comparing them, as flows.

Nothing about a sweep is kept on this side: its jobs are found by their labels and specifications. So whatever was
interrupted, the client, the service or the connection, doing it again goes on where it was.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from secateur._arguments import texts, timeout
from secateur._comparison import Comparison
from secateur._errors import InvalidRequestError, InvalidSpecError, NotReadyError, UnavailableError, WaitTimeoutError
from secateur._filter import JobFilter
from secateur._flow import Emit, Flow, Run, Sleep, collect
from secateur._grid import Grid, Point, at_points, content_of, grid_of, retry_id
from secateur._job import Job, JobResult, JobState, Plan
from secateur._operations import Operations, has_report
from secateur._spec import SpecSource, read_spec
from secateur._watch import patiently

_PAGE_SIZE = 500
_CALLS_PER_SECOND = 10.0
_LEAST_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class SweepJobs:
    """The points of a sweep, and the job of each that has one.

    Attributes:
        grid: The points.
        jobs: Its newest job by the point's name, a retry in the place of what it retries.
    """

    grid: Grid
    jobs: Mapping[str, Job]


def plan_sweep(operations: Operations, spec: SpecSource, name: str | None) -> Flow[dict[str, Plan]]:
    """Have every point checked and its cost estimated.

    Raises:
        InvalidSpecError: the section is not clear, or a point would be refused; lists every fault.
    """
    grid = yield from _grid(spec, name)
    return (yield from _plans(grid, grid.points, partial(_plan, operations, grid)))


def submit_sweep(operations: Operations, spec: SpecSource, name: str | None, *, retry: bool) -> Flow[SweepJobs]:
    """Submit the points that have no job, once all of them are admitted; optionally retry those without a result.

    Raises:
        InvalidSpecError: the section is not clear, or a point would be refused; lists every fault.
    """
    found = yield from find_sweep(operations, spec, name)
    grid = found.grid
    missing = [point for point in grid.points if point.name not in found.jobs]
    plan = partial(_plan, operations, grid)
    yield from _plans(grid, missing, lambda point: patiently(operations.reconnect, partial(plan, point)))
    jobs = {}
    for point in grid.points:
        try:
            jobs[point.name] = yield from _job(operations, grid, point, found.jobs.get(point.name), retry=retry)
        except InvalidRequestError as error:  # what was admitted before is refused now
            raise InvalidSpecError(at_points({point.name: error.violations}, len(grid.points))) from error
    return SweepJobs(grid, jobs)


def find_sweep(operations: Operations, spec: SpecSource, name: str | None) -> Flow[SweepJobs]:
    """Find the jobs that a sweep has; a service that is away is not waited for."""
    grid = yield from _grid(spec, name)
    listed = yield from collect(operations.list_jobs(JobFilter(labels=grid.label), "", _PAGE_SIZE))
    newest: dict[str, Job] = {}
    for job in listed:
        newest.setdefault(content_of(job), job)
    contents = {point.name: point.content for point in grid.points}
    return SweepJobs(grid, {name: newest[content] for name, content in contents.items() if content in newest})


def cancel_sweep(operations: Operations, jobs: Mapping[str, str]) -> Flow[dict[str, Job]]:
    """Ask the jobs, given by point, to stop; harmless for those that have ended."""
    return (yield from _each(operations, jobs, operations.cancel))


def get_sweep(operations: Operations, jobs: Mapping[str, str]) -> Flow[dict[str, Job]]:
    """Read the jobs, given by point."""
    return (yield from _each(operations, jobs, operations.get))


def watch_sweep(
    operations: Operations, jobs: Mapping[str, str], timeout_seconds: float | None = None
) -> Flow[dict[str, Job]]:
    """Emit every job, given by point, with its point, and again whenever it has changed, until all have ended.

    Makes at most about ten calls a second, however many jobs there are. A service that is away is waited for.

    Raises:
        WaitTimeoutError: the time ran out before all had ended.
        UnavailableError: the service was away for too long.
    """
    clock = operations.reconnect.clock
    timeout_seconds = timeout(timeout_seconds)
    deadline = math.inf if timeout_seconds is None else clock() + timeout_seconds
    seen: dict[str, Job] = {}
    going = dict(jobs)
    while True:
        for point, name in list(going.items()):
            try:
                job = yield from patiently(operations.reconnect, partial(operations.get, name), deadline=deadline)
            except UnavailableError:
                if clock() < deadline:
                    raise
                break
            if seen.get(point) != job:
                seen[point] = job
                yield Emit((point, job))
            if job.state.is_terminal:
                del going[point]
        if not going:
            return seen
        if clock() >= deadline:
            raise WaitTimeoutError(
                f"{len(going)} of {len(jobs)} jobs have not ended within {timeout_seconds:g} seconds; they keep "
                "running, so wait again or cancel them"
            )
        wait = max(_LEAST_WAIT_SECONDS, len(going) / _CALLS_PER_SECOND)
        yield Sleep(min(wait, max(0.0, deadline - clock())))


def sweep_results(
    operations: Operations, jobs: Mapping[str, str], timeout_seconds: float | None
) -> Flow[dict[str, JobResult]]:
    """Wait for all results.

    Raises:
        JobFailedError, JobCancelledError: a job has none; the first in the order of the points.
    """
    yield from watch_sweep(operations, jobs, timeout_seconds)
    results = {}
    for point, name in jobs.items():
        results[point] = yield from patiently(operations.reconnect, partial(operations.result, name, None))
    return results


def compare_sweep(
    operations: Operations,
    jobs: Mapping[str, str],
    target_languages: Iterable[str],
    max_growth: float | None,
    *,
    html: bool,
) -> Flow[Comparison]:
    """Put those jobs side by side that have a report.

    Raises:
        NotReadyError: none has one.
    """
    targets = texts(target_languages, "target_languages")
    found = yield from get_sweep(operations, jobs)
    reported = [job.name for job in found.values() if has_report(job)]
    if not reported:
        raise NotReadyError("no job of the sweep has a report, so there is nothing to compare")
    return (
        yield from patiently(operations.reconnect, lambda: operations.compare(reported, targets, max_growth, html=html))
    )


def _grid(spec: SpecSource, name: str | None) -> Flow[Grid]:
    if isinstance(spec, Mapping):
        return grid_of(spec, name)
    if not isinstance(spec, str | os.PathLike):
        raise TypeError(f"a sweep is a mapping or the path of a YAML file, not {type(spec).__name__}")
    return grid_of((yield Run(lambda: read_spec(spec))), name)


def _job(operations: Operations, grid: Grid, point: Point, job: Job | None, *, retry: bool) -> Flow[Job]:
    """The job of a point: the one that it has, or a new one; optionally a retry of one without a result."""
    if job is None:
        create = partial(operations.create, point.spec, grid.labels(point), grid.request_id(point))
        job = yield from patiently(operations.reconnect, create)
    if retry and job.state in (JobState.FAILED, JobState.CANCELLED):
        job = yield from patiently(operations.reconnect, partial(operations.retry, job.name, retry_id(job)))
    return job


def _plan(operations: Operations, grid: Grid, point: Point) -> Flow[Plan]:
    return operations.plan(point.spec, grid.labels(point))


def _plans(grid: Grid, points: Sequence[Point], plan: Callable[[Point], Flow[Plan]]) -> Flow[dict[str, Plan]]:
    plans: dict[str, Plan] = {}
    refused = {}
    for point in points:
        try:
            plans[point.name] = yield from plan(point)
        except InvalidRequestError as error:
            refused[point.name] = error.violations
    if refused:
        raise InvalidSpecError(at_points(refused, len(grid.points)))
    return plans


def _each(operations: Operations, jobs: Mapping[str, str], ask: Callable[[str], Flow[Job]]) -> Flow[dict[str, Job]]:
    answers = {}
    for point, name in jobs.items():
        answers[point] = yield from patiently(operations.reconnect, partial(ask, name))
    return answers
