"""The jobs of a sweep on the service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from secateur._comparison import Comparison
from secateur._drive import Driver
from secateur._grid import Grid
from secateur._handle import JobHandle
from secateur._job import Job, JobResult
from secateur._operations import Operations
from secateur._sweep_flow import (
    SweepJobs,
    cancel_sweep,
    compare_sweep,
    get_sweep,
    sweep_results,
    watch_sweep,
)


class Sweep:
    """The jobs of a sweep. Holds only their names: every method asks the service, and waits for one that is away.

    Methods raise `UnavailableError` if the service was away for longer than `reconnect_seconds`.
    """

    def __init__(self, driver: Driver, operations: Operations, found: SweepJobs) -> None:
        self._driver = driver
        self._operations = operations
        self._grid: Grid = found.grid
        self._names = {point: job.name for point, job in found.jobs.items()}

    def __repr__(self) -> str:
        return f"<secateur.Sweep {self.name}: {len(self._names)} of {len(self._grid.points)} jobs>"

    @property
    def name(self) -> str:
        """The sweep's name, which all its jobs have as their label `sweep`."""
        return self._grid.name

    @property
    def points(self) -> dict[str, dict[str, object]]:
        """The value of every field that varies, by point and by the field's path."""
        return {point.name: dict(point.values) for point in self._grid.points}

    @property
    def jobs(self) -> dict[str, JobHandle]:
        """The job of each point that has one, in the order of the points."""
        return {point: JobHandle(self._driver, self._operations, name) for point, name in self._names.items()}

    def get(self) -> dict[str, Job]:
        """The jobs as they are now, by point."""
        return self._driver.run(get_sweep(self._operations, self._names))

    def watch(self) -> Iterator[tuple[str, Job]]:
        """Yield each point with its job, and again whenever the job has changed, until all have ended."""
        return self._driver.iterate(watch_sweep(self._operations, self._names))

    def wait(self, timeout_seconds: float | None = None) -> dict[str, Job]:
        """Wait until all jobs have ended, whatever the outcome, and return them by point.

        Raises:
            WaitTimeoutError: they have not ended in time; they keep running.
            ValueError, TypeError: the time limit is no number of seconds, negative or beyond a year.
        """
        return self._driver.run(watch_sweep(self._operations, self._names, timeout_seconds))

    def result(self, timeout_seconds: float | None = None) -> dict[str, JobResult]:
        """Wait for the results of all jobs, and return them by point.

        Raises:
            JobFailedError: a job failed; `reason`, `message` and `details` say why.
            JobCancelledError: a job was cancelled.
            WaitTimeoutError: they have not ended in time; they keep running.
            ValueError, TypeError: the time limit is no number of seconds, negative or beyond a year.
        """
        return self._driver.run(sweep_results(self._operations, self._names, timeout_seconds))

    def compare(
        self, *, target_languages: Iterable[str] = (), max_growth: float | None = None, html: bool = False
    ) -> Comparison:
        """Put those jobs side by side that have a report by now; see `Client.compare`.

        Raises:
            NotReadyError: no job has a report.
            InvalidRequestError: a language is none, or the limit is no ratio.
        """
        return self._driver.run(compare_sweep(self._operations, self._names, target_languages, max_growth, html=html))

    def cancel(self) -> dict[str, Job]:
        """Ask all jobs that have not ended to stop, and return them by point."""
        return self._driver.run(cancel_sweep(self._operations, self._names))
