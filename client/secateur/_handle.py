"""A job on the service, by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secateur._artifact import Artifact
from secateur._download_flow import ProgressCallback, download
from secateur._drive import Driver
from secateur._event import Event, LogEvent
from secateur._job import Job, JobResult
from secateur._operations import Operations


class JobHandle:
    """A job on the service. Holds its name only: every method asks the service.

    Methods raise `NotFoundError` where there is no such job, and `UnavailableError` where there is no service.
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

    def watch(self, after_sequence: int | None = None) -> Iterator[Event]:
        """Yield the job's events until it has ended, each once and in order, across disconnects and restarts.

        Args:
            after_sequence: Start after this event, 0 for the whole history. Without it the watch starts with a
                `SnapshotEvent` and what comes after that.

        Raises:
            UnavailableError: the service was away for longer than `reconnect_seconds`.
            SequenceExpiredError: the service has no event of that number.
        """
        return self._driver.iterate(self._operations.watch(self._name, after_sequence))

    def logs(self, *, follow: bool = False) -> Iterator[LogEvent]:
        """Yield the job's log lines from the first on; with `follow` until the job has ended."""
        return self._driver.iterate(self._operations.logs(self._name, follow=follow))

    def wait(self, timeout_seconds: float | None = None) -> Job:
        """Wait until the job has ended, whichever way, and return it.

        Raises:
            WaitTimeoutError: it has not ended in time; it goes on.
        """
        return self._driver.run(self._operations.wait(self._name, timeout_seconds))

    def result(self, timeout_seconds: float | None = None) -> JobResult:
        """Wait for the job's result.

        Raises:
            JobFailedError: it failed; `reason`, `message` and `details` say why.
            JobCancelledError: it was cancelled.
            WaitTimeoutError: it has not ended in time; it goes on.
        """
        return self._driver.run(self._operations.result(self._name, timeout_seconds))

    def report(self) -> dict[str, Any]:
        """report.json of a job that has succeeded.

        Raises:
            NotReadyError: it has not.
        """
        return self._driver.run(self._operations.report(self._name))

    def cancel(self) -> Job:
        """Ask the job to stop, and return it; harmless where it has ended."""
        return self._driver.run(self._operations.cancel(self._name))

    def retry(self, *, request_id: str | None = None) -> JobHandle:
        """Make a new job with the same specification that does not compute the finished blocks again.

        Args:
            request_id: A UUID; retrying again with the same one gives the same job. Without it, one is made.

        Raises:
            PreconditionError: this job has neither failed nor was it cancelled.
            InvalidSpecError: the service does not admit its specification any more.
        """
        job = self._driver.run(self._operations.retry(self._name, request_id))
        return JobHandle(self._driver, self._operations, job.name)

    def artifacts(self) -> list[Artifact]:
        """The files of a job that has succeeded.

        Raises:
            NotReadyError: it has not.
        """
        return self._driver.run(self._operations.artifacts(self._name))

    def download(
        self,
        folder: str | os.PathLike[str],
        *,
        progress: ProgressCallback | None = None,
        local_files: bool | None = None,
    ) -> list[Path]:
        """Fetch all files of a job that has succeeded, and return where they lie.

        What an interrupted download has left is continued, every file is verified by its SHA-256 and put into place
        as a whole, the manifest last. Only files that the manifest names are written, and only below the folder: links
        in it are not followed, and no name may begin with a dot that configures a shell or a tool there.

        Args:
            folder: Where to put them; created if needed.
            progress: Called as bytes come in.
            local_files: Whether results that the service keeps in a folder (`file://`) may be read from this machine's
                folder of that name; by default where the endpoint is on this machine.

        Raises:
            DownloadError: a file cannot be fetched; download again to go on.
            IntegrityError: what arrives is not what was published.
            JobFailedError, JobCancelledError, NotReadyError: there is nothing to download.
        """
        return self._driver.run(
            download(self._operations, self._name, folder, progress=progress, local_files=local_files)
        )
