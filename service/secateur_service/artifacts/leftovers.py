"""Removes what attempts left below a job's prefix once the job has ended, and, where asked to, what was published."""

from __future__ import annotations

import hashlib
import re

from secateur_service.artifacts.manifest import MANIFEST_NAME, parse_manifest
from secateur_service.artifacts.port import OBJECT_NOT_FOUND, ObjectStore
from secateur_service.errors import DamagedResultError, PermanentError

# Names that only the service gives: shards (in earlier releases they began with the block), and uncommitted manifests.
_OURS = re.compile(r"checkpoint/(model-)?(block|other)-\d+-[0-9a-f]{12,64}\.safetensors|manifests/[0-9a-f]{64}\.json")


def remove_leftovers(store: ObjectStore, prefix: str, published: str | None) -> int:
    """Remove objects below a job's prefix that no manifest names, and the parts of unfinished uploads.

    What the manifest names stays. Beside a published result, only objects with the service's own names are removed,
    since somebody may have put other files there; if a job has no result, everything is removed.

    Args:
        store: where the job was to be published.
        prefix: the job's prefix; empty for the store's root.
        published: digest of the manifest that the job store has as the result; None if there is no result.

    Returns:
        The number of objects and uploads removed.

    Raises:
        DamagedResultError: the manifest is gone or was replaced; nothing was removed.
        PermanentError, TransientError: the store's own errors.
    """
    start = f"{prefix}/" if prefix else ""
    keys = list(store.list_keys(start))
    if not keys:
        return store.abort_uploads(start)
    named = _named(store, start + MANIFEST_NAME, published)
    removed = 0
    for key in keys:
        path = key.removeprefix(start)
        if path not in named and (not named or _OURS.fullmatch(path)):
            store.delete(key)
            removed += 1
    return removed + store.abort_uploads(start)


def remove_result(store: ObjectStore, prefix: str, published: str) -> int:
    """Remove what a job published, by its manifest, which goes last: whoever is interrupted can go on.

    Other files below the prefix stay; what attempts left there is for `remove_leftovers`, which has to come first.

    Args:
        store: where the job was published.
        prefix: the job's prefix.
        published: digest of the manifest that the job store has as the result.

    Returns:
        The number of objects removed; 0 if the manifest is gone.

    Raises:
        DamagedResultError: the manifest was replaced; nothing was removed.
        PermanentError, TransientError: the store's own errors.
    """
    manifest = f"{prefix}/{MANIFEST_NAME}"
    if store.stat(manifest) is None:
        return 0
    paths = _named(store, manifest, published)
    for path in sorted(paths - {MANIFEST_NAME}):
        store.delete(f"{prefix}/{path}")
    store.delete(manifest)
    return len(paths)


def _named(store: ObjectStore, key: str, published: str | None) -> set[str]:
    """The paths of the result; empty if there is none."""
    try:
        content = store.get_bytes(key)
    except PermanentError as error:
        if error.reason == OBJECT_NOT_FOUND and published is None:
            return set()
        if error.reason == OBJECT_NOT_FOUND:
            raise DamagedResultError(f"{store.uri(key)} is gone; what lies beside it was left alone") from error
        raise
    if published not in (None, hashlib.sha256(content).hexdigest()):
        raise DamagedResultError(f"{store.uri(key)} is not what was published; what lies beside it was left alone")
    return {MANIFEST_NAME, *(file.path for file in parse_manifest(content).files)}
