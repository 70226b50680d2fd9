"""Reads the published results of finished jobs, and removes them.

The job's row has the manifest's digest, and the manifest has everything else's; what does not match is not shown.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any

from secateur.v1 import prune_service_pb2 as service_pb
from secateur_service.api import conversion
from secateur_service.artifacts.leftovers import remove_leftovers, remove_result
from secateur_service.artifacts.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from secateur_service.artifacts.port import OBJECT_NOT_FOUND, ObjectStore
from secateur_service.bounded import JsonLimits, UnreadableJsonError, parse_json
from secateur_service.errors import DamagedResultError, NotReadyError, PermanentError
from secateur_service.jobs.job import Job

REPORT_PATH = "report/report.json"
PAGE_PATH = "report/report.html"
DOWNLOAD_URL_SECONDS = 3600.0
# The size that a response may have, and the number of values that fit into a client's memory.
_REPORT_LIMITS = JsonLimits(64 << 20, values=2_000_000)


class PublishedResults:
    """Manifest, report and download URLs of jobs that published something; `open_store` opens a destination."""

    def __init__(self, open_store: Callable[[str], ObjectStore]) -> None:
        self._open_store = open_store

    def report(self, job: Job) -> dict[str, Any]:
        """The report of a job.

        Raises:
            NotReadyError: the job has no result.
            DamagedResultError: the report is missing or differs from what was published.
        """
        content = self._file(job, REPORT_PATH)
        try:
            report: dict[str, Any] = parse_json(content, _REPORT_LIMITS)
        except UnreadableJsonError as error:
            raise DamagedResultError(f"the report of job {job.id} cannot be read: {error}") from error
        return report

    def page(self, job: Job) -> str:
        """The report of a job as a page.

        Raises:
            NotReadyError: the job has no result.
            DamagedResultError: the page is missing or differs from what was published.
        """
        return self._file(job, PAGE_PATH).decode(errors="replace")

    def artifacts(self, job: Job) -> list[service_pb.Artifact]:
        """All published files of a job, the manifest first, each with a download URL.

        Raises:
            NotReadyError: the job has no result.
            DamagedResultError: the manifest is missing or differs from what was published.
        """
        store, manifest = self._manifest(job)
        content = manifest.to_bytes()
        own = service_pb.Artifact(
            path=MANIFEST_NAME,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            media_type="application/json",
        )
        files = [
            service_pb.Artifact(
                path=file.path, size_bytes=file.size_bytes, sha256=file.sha256, media_type=file.media_type
            )
            for file in manifest.files
        ]
        for artifact in (own, *files):
            url, expires = store.download_url(f"{job.id}/{artifact.path}", DOWNLOAD_URL_SECONDS)
            artifact.download_url = url
            if expires is not None:
                artifact.download_url_expire_time.CopyFrom(conversion.timestamp(expires))
        return [own, *files]

    def remove(self, job: Job, *, result: bool) -> int:
        """Remove what the attempts of an ended job left, and, if asked to, what it published.

        Returns:
            The number of objects and unfinished uploads removed.

        Raises:
            DamagedResultError: the result is to be removed, and is not what was published.
        """
        store, published = self._store_of(job), job.published_sha256
        removed = 0
        with contextlib.suppress(DamagedResultError):  # somebody removed or replaced it, and knows what lies beside it
            removed = remove_leftovers(store, job.id, published)
        return removed + (remove_result(store, job.id, published) if result and published else 0)

    def _store_of(self, job: Job) -> ObjectStore:
        destination = job.destination
        assert destination is not None, "a resolved specification names its destination"
        return self._open_store(destination)

    def _file(self, job: Job, path: str) -> bytes:
        store, manifest = self._manifest(job)
        for file in manifest.files:
            if file.path == path:
                return _read(store, f"{job.id}/{path}", file.sha256, _REPORT_LIMITS.size_bytes)
        raise DamagedResultError(f"the manifest of job {job.id} names no {path}")

    def _manifest(self, job: Job) -> tuple[ObjectStore, Manifest]:
        published = job.published_sha256
        if published is None:
            raise NotReadyError(_why_nothing(job), metadata={"state": job.state.value})
        store = self._store_of(job)
        return store, parse_manifest(_read(store, f"{job.id}/{MANIFEST_NAME}", published, MAX_MANIFEST_BYTES))


def _why_nothing(job: Job) -> str:
    """Why a job has published nothing, and what to do."""
    failure = job.failure
    if failure is not None and job.state.is_terminal:
        remedy = "; retry it" if failure.retryable else ", and would fail again as it is"
        return f"job {job.id} failed with {failure.reason}: {failure.message}; it has no result{remedy}"
    remedy = "retry it" if job.state.is_terminal else "watch it until it is SUCCEEDED"
    return f"job {job.id} is {job.state} and has no result; {remedy}"


def _read(store: ObjectStore, key: str, sha256: str, limit_bytes: int) -> bytes:
    try:
        info = store.stat(key)
        if info is not None and info.size_bytes > limit_bytes:
            raise DamagedResultError(f"{store.uri(key)} is not what was published: it has {info.size_bytes} bytes")
        content = store.get_bytes(key)
    except PermanentError as error:
        if error.reason != OBJECT_NOT_FOUND:
            raise
        raise DamagedResultError(f"{store.uri(key)} was published but is no longer there") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedResultError(f"{store.uri(key)} is not what was published: its SHA-256 is not {sha256}")
    return content
