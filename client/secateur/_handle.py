"""A job on the service, by name."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from secateur._artifact import Artifact
from secateur._download import Downloaded
from secateur._download_flow import ProgressCallback, download
from secateur._drive import Driver
from secateur._event import Event, LogEvent
from secateur._gate import Gate
from secateur._job import Job, JobResult
from secateur._operations import Operations
from secateur._report import Report


class JobHandle:
    """A job on the service. Holds only its name: every method asks the service.

    Methods raise `NotFoundError` if there is no such job, and `UnavailableError` if the service cannot be reached.
    """

    def __init__(self, driver: Driver, operations: Operations, name: str) -> None:
        self._driver = driver
        self._operations = operations
        self._name = name

    def __repr__(self) -> str:
        return f"<secateur.JobHandle {self._name}>"

    @property
    def name(self) -> str:
        """Resource name, `pruneJobs/{id}`."""
        return self._name

    def get(self) -> Job:
        """The job as it is now."""
        return self._driver.run(self._operations.get(self._name))

    def watch(self, after_sequence: int | None = None, *, timeout_seconds: float | None = None) -> Iterator[Event]:
        """Yield the job's events until it has ended, each once and in order, across disconnects and restarts.

        Args:
            after_sequence: Start after this event; 0 for the whole history. If omitted, the watch starts with a
                `SnapshotEvent` and continues from there.
            timeout_seconds: Time for the whole watch; by default, there is no limit.

        Raises:
            WaitTimeoutError: the job has not ended in time; it keeps running.
            ValueError, TypeError: the time limit is no number of seconds, negative or beyond a year.
            UnavailableError: the service was away for longer than `reconnect_seconds`.
            SequenceExpiredError: the service has no event with that number.
        """
        return self._driver.iterate(self._operations.watch(self._name, after_sequence, timeout_seconds))

    def logs(self, *, follow: bool = False) -> Iterator[LogEvent]:
        """Yield the job's log lines from the first on; with `follow`, until the job has ended."""
        return self._driver.iterate(self._operations.logs(self._name, follow=follow))

    def wait(self, timeout_seconds: float | None = None) -> Job:
        """Wait until the job has ended, whatever the outcome, and return it.

        Raises:
            WaitTimeoutError: it has not ended in time; it keeps running.
            ValueError, TypeError: the time limit is no number of seconds, negative or beyond a year.
        """
        return self._driver.run(self._operations.wait(self._name, timeout_seconds))

    def result(self, timeout_seconds: float | None = None) -> JobResult:
        """Wait for the job's result.

        Raises:
            JobFailedError: it failed; `reason`, `message` and `details` say why.
            JobCancelledError: it was cancelled.
            WaitTimeoutError: it has not ended in time; it keeps running.
            ValueError, TypeError: the time limit is no number of seconds, negative or beyond a year.
        """
        return self._driver.run(self._operations.result(self._name, timeout_seconds))

    def report(self) -> Report:
        """The report.json of a job that has succeeded, or that exceeded a limit: plain data, with typed figures.

        Raises:
            JobFailedError, JobCancelledError: the job ended without one; the error says why.
            NotReadyError: the job has not ended.
        """
        return self._driver.run(self._operations.report(self._name))

    def report_page(self) -> str:
        """The report as a page: one file without scripts.

        It is the published page and, where the service has other jobs of the same dense model with a report, a section
        that compares the job with the newest of them, at most 20.

        Raises:
            JobFailedError, JobCancelledError: the job ended without one; the error says why.
            NotReadyError: the job has not ended, or the service is of an older release.
        """
        return self._driver.run(self._operations.report_page(self._name))

    def gate(
        self,
        max_growth: float | None = None,
        *,
        max_task_loss: float | None = None,
        languages: Collection[str] = (),
        tasks: Collection[str] = (),
        bits_per_byte: bool = False,
        sure: bool = False,
    ) -> Gate:
        """Check that a job lost no more than it may; at least one limit is needed.

        One that exceeded a limit of its specification has a report, too, and does not pass: it has no checkpoint.

        Args:
            max_growth: What a language may lose at most, as the ratio of pruned to dense: 1.05 permits five per cent.
            max_task_loss: What a metric of a task may lose at most, as an amount of it: 0.02 permits two items of a
                hundred. Metrics that no amount limits, such as perplexities, are left out.
            languages: What to check, in any spelling; none for all languages of the mix, and tasks of any language.
            tasks: Names of the tasks to check; none for all, or all of the stated languages.
            bits_per_byte: Whether bits per byte may grow so much, and not perplexity.
            sure: Whether the whole confidence interval has to be within the limit, and not only what was measured.

        Raises:
            JobFailedError, JobCancelledError, NotReadyError: the job has no report.
            InvalidRequestError: there is no limit, or it is none; or the report has no figures of a language or task.
        """
        return self._driver.run(
            self._operations.gate(
                self._name,
                max_growth=max_growth,
                max_task_loss=max_task_loss,
                languages=languages,
                tasks=tasks,
                bits_per_byte=bits_per_byte,
                sure=sure,
            )
        )

    def cancel(self) -> Job:
        """Ask the job to stop, and return it; harmless if it has ended."""
        return self._driver.run(self._operations.cancel(self._name))

    def delete(self, *, artifacts: bool = False) -> int:
        """Delete the job with its events, its log and what its attempts left.

        Args:
            artifacts: Whether what it published is deleted, too: checkpoint, report, manifest.

        Returns:
            How many files went with it.

        Raises:
            PreconditionError: it has not ended (reason JOB_NOT_ENDED), or a retry that has not may use its finished
                blocks (JOB_IN_USE).
            DamagedResultError: the artifacts are to be deleted, and others are in their place.
        """
        return self._driver.run(self._operations.delete(self._name, artifacts=artifacts))

    def retry(self, changes: Mapping[str, Any] | None = None, *, request_id: str | None = None) -> JobHandle:
        """Create a new job with the same specification, or a changed one, that reuses the finished blocks.

        A job whose failure is not `retryable` fails again unless something is changed, here or in what it names.

        Args:
            changes: Fields to set, by their paths: `{"pruning.sparsity": 0.4}`; None leaves a field out. Finished
                blocks are reused as long as nothing changes that their bytes depend on: model, text, pruning, what is
                removed, reconstruction, evaluation.
            request_id: A UUID; retrying again with the same one returns the same job. If omitted, one is generated.

        Raises:
            PreconditionError: this job has neither failed nor been cancelled.
            InvalidSpecError: the service does not admit the specification.
        """
        job = self._driver.run(self._operations.retry(self._name, request_id, changes))
        return JobHandle(self._driver, self._operations, job.name)

    def artifacts(self) -> list[Artifact]:
        """The files of a job that has succeeded; of one that exceeded a limit, its report and plan.

        Raises:
            JobFailedError, JobCancelledError: the job ended without files; the error says why.
            NotReadyError: the job has not ended.
        """
        return self._driver.run(self._operations.artifacts(self._name))

    def download(
        self,
        folder: str | os.PathLike[str],
        *,
        progress: ProgressCallback | None = None,
        local_files: bool | None = None,
    ) -> Downloaded:
        """Fetch all files of a job that has succeeded, and return their paths; says which were fetched or repaired.

        An interrupted download is resumed. Every file is verified by its SHA-256 and put into place atomically, the
        manifest last. Only files that the manifest names are written, and only below the folder: links in it are not
        followed, and hidden folders and top-level hidden files, which could configure a shell or a tool, are refused.
        A folder that holds the result of another job, or a part of one, is refused before anything is written.

        Args:
            folder: Where to put them; created if needed.
            progress: Called as bytes come in.
            local_files: Whether results that the service keeps in a folder (`file://`) may be read from the folder of
                that name on this machine; by default, only if the endpoint is on this machine.

        Raises:
            DownloadError: a file cannot be fetched, download again to resume; or the folder is another job's (reason
                FOLDER_OF_ANOTHER_JOB).
            IntegrityError: what arrives is not what was published.
            JobFailedError, JobCancelledError, NotReadyError: there is nothing to download.
        """
        return self._driver.run(
            download(self._operations, self._name, folder, progress=progress, local_files=local_files)
        )
