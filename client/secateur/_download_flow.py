"""The order of a download: list, check all paths, fetch file by file, the manifest last."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from secateur._artifact import Artifact
from secateur._download import DownloadProgress, ExpiredUrlError, Transfer, plan_targets
from secateur._errors import DownloadError, IntegrityError
from secateur._flow import Flow, Run
from secateur._operations import Operations, published_result

MANIFEST = "manifest.json"
ProgressCallback = Callable[[DownloadProgress], None]


def download(
    operations: Operations, name: str, folder: str | os.PathLike[str], progress: ProgressCallback | None
) -> Flow[list[Path]]:
    """Fetch all files of a job; returns where each lies now, in the order of the listing.

    Raises:
        JobFailedError, JobCancelledError, NotReadyError: the job has no files.
        DownloadError: a file cannot be fetched.
        IntegrityError: a file, or what the service says about it, is not what was published.
    """
    published = published_result((yield from operations.get(name)))
    artifacts = yield from operations.artifacts(name)
    for artifact in artifacts:
        if artifact.path == MANIFEST and artifact.sha256 != published.manifest_sha256:
            raise IntegrityError(f"the manifest listed for {name} is not what it published; nothing was fetched")
    targets = yield Run(lambda: plan_targets(Path(folder), artifacts))
    urls = {artifact.path: artifact.download_url for artifact in artifacts}
    stopped = threading.Event()
    count = _Count(artifacts, progress)
    try:
        for artifact in sorted(artifacts, key=lambda entry: entry.path == MANIFEST):
            transfer = Transfer(artifact, targets[artifact.path], stopped, count.of(artifact.path))
            if (yield Run(partial(_refused, transfer, urls))):
                urls = {entry.path: entry.download_url for entry in (yield from operations.artifacts(name))}
                refusal = yield Run(partial(_refused, transfer, urls))
                if refusal:
                    remedy = "with a fresh URL too; is the file still in the store?"
                    raise DownloadError(f"{refusal}, {remedy}") from refusal
    finally:
        stopped.set()
    return [targets[artifact.path] for artifact in artifacts]


def _refused(transfer: Transfer, urls: dict[str, str]) -> ExpiredUrlError | None:
    """Fetch a file; the error where its URL is refused."""
    try:
        transfer.fetch(urls.get(transfer.artifact.path, ""))
    except ExpiredUrlError as error:
        return error
    except OSError as error:
        raise DownloadError(
            f"{transfer.artifact.path} cannot be written: {error.strerror or error} ({transfer.target})"
        ) from error
    return None


class _Count:
    """Adds the bytes of all files up and tells the caller."""

    def __init__(self, artifacts: list[Artifact], progress: ProgressCallback | None) -> None:
        self._total = sum(artifact.size_bytes for artifact in artifacts)
        self._done = 0
        self._progress = progress

    def of(self, path: str) -> Callable[[int], None]:
        """What to call with the bytes of one file."""

        def advanced(size: int) -> None:
            self._done += size
            if self._progress is not None:
                self._progress(DownloadProgress(path, self._done, self._total))

        return advanced
