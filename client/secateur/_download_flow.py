"""The steps of a download: list, check all paths, compare with the manifest, fetch file by file, the manifest last."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from secateur._artifact import Artifact
from secateur._download import (
    Downloaded,
    DownloadProgress,
    ExpiredUrlError,
    Outcome,
    Transfer,
    check_free,
    plan_targets,
)
from secateur._errors import DownloadError, IntegrityError
from secateur._flow import Flow, Run
from secateur._job import NAME_PREFIX
from secateur._operations import Operations, manifest_digest
from secateur._verify import MANIFEST, MAX_MANIFEST_BYTES

ProgressCallback = Callable[[DownloadProgress], None]


def download(
    operations: Operations,
    name: str,
    folder: str | os.PathLike[str],
    *,
    progress: ProgressCallback | None,
    local_files: bool | None,
) -> Flow[Downloaded]:
    """Fetch all files of a job; returns their paths here, in the order of the listing.

    Raises:
        JobFailedError, JobCancelledError, NotReadyError: the job has no files.
        DownloadError: a file cannot be fetched.
        IntegrityError: a file, or what the service says about it, is not what was published.
    """
    if (yield Run(lambda: Path(folder).exists() and not Path(folder).is_dir())):
        raise DownloadError(f"{folder} is a file; name a folder")
    digest = manifest_digest((yield from operations.get(name)))
    artifacts = yield from operations.artifacts(name)
    _check_places(artifacts, local_files=operations.local if local_files is None else local_files)
    targets = yield Run(lambda: plan_targets(Path(folder), artifacts))
    root = Path(folder).resolve()
    yield Run(lambda: check_free(root, name.removeprefix(NAME_PREFIX), targets, artifacts))
    stopped = threading.Event()
    outcomes: dict[Path, Outcome] = {}
    count = _Count(artifacts, progress)
    fetching = _Fetching(operations, name, {artifact.path: artifact.download_url for artifact in artifacts})
    try:
        with tempfile.TemporaryDirectory(prefix="secateur-") as scratch:
            manifest = _manifest_of(artifacts, digest)
            copy = Transfer(manifest, Path(scratch) / MANIFEST, stopped, lambda _size: None)
            yield from fetching.fetch(copy)
            yield Run(lambda: _check_listing(copy.target.read_bytes(), artifacts))
        for artifact in sorted(artifacts, key=lambda entry: entry.path == MANIFEST):
            target = targets[artifact.path]
            outcomes[target] = yield from fetching.fetch(Transfer(artifact, target, stopped, count.of(artifact.path)))
    finally:
        stopped.set()
    return Downloaded(
        (targets[artifact.path] for artifact in artifacts),
        (path for path, outcome in outcomes.items() if outcome is Outcome.FETCHED),
        (path for path, outcome in outcomes.items() if outcome is Outcome.REPAIRED),
    )


class _Fetching:
    """Fetches files by the URLs in a listing, or in a fresh listing if they are refused."""

    def __init__(self, operations: Operations, name: str, urls: dict[str, str]) -> None:
        self._operations = operations
        self._name = name
        self._urls = urls

    def fetch(self, transfer: Transfer) -> Flow[Outcome]:
        """Put a file into place."""
        found: Outcome | ExpiredUrlError = yield Run(partial(_fetched, transfer, self._urls))
        if isinstance(found, ExpiredUrlError):
            listed = yield from self._operations.artifacts(self._name)
            self._urls = {entry.path: entry.download_url for entry in listed}
            found = yield Run(partial(_fetched, transfer, self._urls))
            if isinstance(found, ExpiredUrlError):
                remedy = "with a fresh URL too; is the file still in the store?"
                raise DownloadError(f"{found}, {remedy}") from found
        return found


def _check_places(artifacts: Sequence[Artifact], *, local_files: bool) -> None:
    """Refuse folders on another machine: the same path here holds something else."""
    if local_files or not any(urlsplit(artifact.download_url).scheme == "file" for artifact in artifacts):
        return
    raise DownloadError(
        "the service keeps its results in a folder of its own machine, which by its endpoint is not this one; download "
        "there, or give the service an S3 destination. Where this machine has that folder under the same name, say so: "
        "local_files=True (--local-files)"
    )


def _manifest_of(artifacts: Sequence[Artifact], sha256: str) -> Artifact:
    """The manifest in a listing."""
    found = next((artifact for artifact in artifacts if artifact.path == MANIFEST), None)
    if found is None or found.sha256 != sha256:
        raise IntegrityError(
            "the manifest that the service lists is not what the job published; nothing was downloaded"
        )
    if found.size_bytes > MAX_MANIFEST_BYTES:
        raise IntegrityError(f"the manifest has {found.size_bytes} bytes, more than any; nothing was downloaded")
    return found


def _check_listing(content: bytes, artifacts: Sequence[Artifact]) -> None:
    """Check that the listing has exactly the files that the manifest names."""
    try:
        files = json.loads(content)["files"]
        named = {(entry["path"], entry["size_bytes"], entry["sha256"]) for entry in files}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError("the manifest is damaged; nothing was downloaded") from error
    listed = {(entry.path, entry.size_bytes, entry.sha256) for entry in artifacts if entry.path != MANIFEST}
    odd = sorted({path for path, *_ in named ^ listed})
    if odd:
        raise IntegrityError(f"the service lists {odd[0]!r} otherwise than the manifest does; nothing was downloaded")


def _fetched(transfer: Transfer, urls: dict[str, str]) -> Outcome | ExpiredUrlError:
    """Fetch a file; returns the error if its URL is refused."""
    try:
        return transfer.fetch(urls.get(transfer.artifact.path, ""))
    except ExpiredUrlError as error:
        return error
    except OSError as error:
        raise DownloadError(
            f"{transfer.artifact.path} cannot be written: {error.strerror or error} ({transfer.target})"
        ) from error


class _Count:
    """Adds up the bytes of all files and reports them to the caller."""

    def __init__(self, artifacts: list[Artifact], progress: ProgressCallback | None) -> None:
        self._total = sum(artifact.size_bytes for artifact in artifacts)
        self._done = 0
        self._progress = progress

    def of(self, path: str) -> Callable[[int], None]:
        """The function to call with the bytes of one file."""

        def advanced(size: int) -> None:
            self._done += size
            if self._progress is not None:
                self._progress(DownloadProgress(path, self._done, self._total))

        return advanced
