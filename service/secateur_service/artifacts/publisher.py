"""Publishes a job's files so that readers see all of them or nothing, exactly once, whatever crashes in between.

The order is: files, each verified by the store on arrival → their sizes as the store reports them → the manifest under
a name that carries its digest → the digest in the job store, which is the authority → `manifest.json`. A later attempt
first looks for what an earlier one left behind: if all files of a manifest are there, it is as good as the attempt's
own and is adopted, never mixed with new files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import structlog

from secateur_service import faults
from secateur_service.artifacts.manifest import (
    MANIFEST_NAME,
    MEDIA_TYPE,
    LocalFile,
    Manifest,
    ManifestFile,
    parse_manifest,
)
from secateur_service.artifacts.port import OBJECT_NOT_FOUND, ObjectStore
from secateur_service.errors import AttemptError, PermanentError, TransientError

_log = structlog.get_logger(__name__)

CANDIDATES = "manifests/"
MANIFEST_CONFLICT = "MANIFEST_CONFLICT"
UPLOAD_INCOMPLETE = "UPLOAD_INCOMPLETE"

Commit = Callable[[str], str]
"""Commits a manifest's digest to the job store, under the attempt's fence; returns the valid one (first wins)."""


class Interruptible(Protocol):
    """What the publisher needs from a job's observer."""

    def check(self) -> None:
        """Raise if the job is to stop."""


class _Prefix:
    """The part of the store below a job's prefix."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.store, self.prefix = store, prefix

    def key(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path

    def read(self, path: str) -> bytes | None:
        try:
            return self.store.get_bytes(self.key(path))
        except PermanentError as error:
            if error.reason != OBJECT_NOT_FOUND:
                raise
            return None

    def holds(self, file: ManifestFile) -> bool:
        """Whether the file is there with the right content; a name that carries the digest vouches for it."""
        info = self.store.stat(self.key(file.path))
        if info is None or info.size_bytes != file.size_bytes:
            return False
        if file.is_content_named:
            return True
        content = self.read(file.path)
        return content is not None and hashlib.sha256(content).hexdigest() == file.sha256

    def holds_all(self, manifest: Manifest) -> bool:
        return all(self.holds(file) for file in manifest.files)

    def candidates(self) -> Iterator[Manifest]:
        """Manifests that attempts left before committing; skips objects that are not named by their digest."""
        for key in sorted(self.store.list_keys(self.key(CANDIDATES))):
            manifest = self.candidate(key.rpartition("/")[2].removesuffix(".json"))
            if manifest is not None:
                yield manifest

    def candidate(self, digest: str) -> Manifest | None:
        content = self.read(_candidate_path(digest))
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            return None
        return parse_manifest(content)

    def published(self) -> Manifest | None:
        content = self.read(MANIFEST_NAME)
        return None if content is None else parse_manifest(content)


def publish(
    store: ObjectStore,
    prefix: str,
    files: Sequence[LocalFile],
    manifest: Manifest,
    *,
    commit: Commit,
    observer: Interruptible,
    on_uploaded: Callable[[int, int], None] | None = None,
) -> str:
    """Publish a job's files, or adopt what an earlier attempt published.

    Args:
        store: The destination.
        prefix: The job's prefix in the store; empty for the store's root.
        files: The files; those whose names carry their digest are skipped if they are already there.
        manifest: Describes exactly these files.
        commit: See `Commit`.
        observer: Asked before every file whether to go on; no longer asked once the digest is committed.
        on_uploaded: Called after every file with the bytes done and the total bytes.

    Returns:
        The digest of the valid manifest.

    Raises:
        PermanentError: with reason MANIFEST_CONFLICT, if the prefix holds the result of another job.
        TransientError: with reason UPLOAD_INCOMPLETE, if the store lost or truncated a file.
    """
    described = {file.path: file for file in manifest.files}
    if sorted(described) != sorted(file.path for file in files):
        raise ValueError("the manifest does not describe the files that are to be published")
    corner = _Prefix(store, prefix)
    held = _adoptable(corner, manifest)
    if held is None:
        _upload(corner, files, described, observer, on_uploaded)
        faults.reached("publish.uploaded")
        store.put_bytes(corner.key(_candidate_path(manifest.digest())), manifest.to_bytes(), MEDIA_TYPE)
        faults.reached("publish.proposed")
        held = manifest
    observer.check()
    digest = commit(held.digest())
    faults.reached("publish.committed")
    if digest != held.digest():
        held = _committed(corner, digest)
    _write_manifest(corner, held)
    faults.reached("publish.published")
    _remove_candidates(corner)
    return digest


def _adoptable(corner: _Prefix, ours: Manifest) -> Manifest | None:
    """An earlier attempt's manifest for the same job, if all its files are there."""
    published = corner.published()
    if published is not None:
        if published.job_id != ours.job_id or not _agree(published.resolved_spec, ours.resolved_spec):
            raise PermanentError(
                f"{corner.store.uri(corner.key(MANIFEST_NAME))} belongs to another job; choose another destination",
                reason=MANIFEST_CONFLICT,
            )
        if corner.holds_all(published):
            return published
        if published.digest() != ours.digest():
            raise PermanentError(
                f"{corner.store.uri(corner.key(MANIFEST_NAME))} names files that are missing or changed; remove what "
                "lies beside it and submit the job again",
                reason=MANIFEST_CONFLICT,
            )
        return None
    same_job = (found for found in corner.candidates() if found.job_id == ours.job_id)
    return next((found for found in same_job if corner.holds_all(found)), None)


def _agree(one: Any, other: Any) -> bool:
    """Whether two specifications agree in their common fields; releases differ in the fields that they know."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_agree(one[name], other[name]) for name in one.keys() & other.keys())
    return bool(one == other)


def _upload(
    corner: _Prefix,
    files: Sequence[LocalFile],
    described: Mapping[str, ManifestFile],
    observer: Interruptible,
    on_uploaded: Callable[[int, int], None] | None,
) -> None:
    """Upload what is missing, then ask the store for the size of every file."""
    total_bytes = sum(file.size_bytes for file in described.values())
    done_bytes = 0
    for file in files:
        observer.check()
        entry = described[file.path]
        if not (entry.is_content_named and corner.holds(entry)):
            if not file.source.exists():
                raise TransientError(
                    f"the object store has lost {entry.path}; it is made again", reason=UPLOAD_INCOMPLETE
                )
            corner.store.put_file(file.source, corner.key(file.path), file.media_type, lambda _: observer.check())
            faults.reached("publish.uploading")
        done_bytes += entry.size_bytes
        if on_uploaded is not None:
            on_uploaded(done_bytes, total_bytes)
    for entry in described.values():
        info = corner.store.stat(corner.key(entry.path))
        if info is None or info.size_bytes != entry.size_bytes:
            stored = "nothing" if info is None else f"{info.size_bytes} bytes"
            raise TransientError(
                f"the object store holds {stored} of {entry.path}, which has {entry.size_bytes} bytes",
                reason=UPLOAD_INCOMPLETE,
            )


def _committed(corner: _Prefix, digest: str) -> Manifest:
    """The manifest committed to the job store, which an earlier attempt left behind."""
    manifest = corner.candidate(digest)
    if manifest is None or not corner.holds_all(manifest):
        raise PermanentError(
            f"the job store names the manifest {digest}, and {corner.store.uri(corner.key(CANDIDATES[:-1]))} does not"
            " hold it with all its files; submit the job again",
            reason=MANIFEST_CONFLICT,
        )
    return manifest


def _write_manifest(corner: _Prefix, manifest: Manifest) -> None:
    """Create manifest.json; an existing one must be the same."""
    if corner.store.put_new(corner.key(MANIFEST_NAME), manifest.to_bytes(), MEDIA_TYPE):
        return
    there = corner.read(MANIFEST_NAME)
    if there != manifest.to_bytes():
        raise PermanentError(
            f"{corner.store.uri(corner.key(MANIFEST_NAME))} holds another manifest than {manifest.digest()}, which "
            "the job store names; nothing was replaced",
            reason=MANIFEST_CONFLICT,
        )


def _remove_candidates(corner: _Prefix) -> None:
    """Tidy up; everything is published, so the job does not fail if the store refuses or does not answer."""
    try:
        for key in list(corner.store.list_keys(corner.key(CANDIDATES))):
            corner.store.delete(key)
    except AttemptError as error:
        _log.warning("manifests of earlier attempts could not be removed", reason=error.reason, error=error.message)


def _candidate_path(digest: str) -> str:
    return f"{CANDIDATES}{digest}.json"
