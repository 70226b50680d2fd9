"""What attempts left in a job's corner of the store, removed once the job has ended: never what was published."""

from __future__ import annotations

import hashlib
import re

from secateur_service.artifacts.manifest import MANIFEST_NAME, parse_manifest
from secateur_service.artifacts.port import OBJECT_NOT_FOUND, ObjectStore
from secateur_service.errors import DamagedResultError, PermanentError

# Names that only the service gives: shards (earlier releases began them with the block), and manifests before their
# commit.
_OURS = re.compile(r"checkpoint/(model-)?(block|other)-\d+-[0-9a-f]{12,64}\.safetensors|manifests/[0-9a-f]{64}\.json")


def remove_leftovers(store: ObjectStore, prefix: str, published: str | None) -> int:
    """Remove the objects below a job's prefix that no manifest names, and what unfinished uploads hold.

    What the manifest names stays. Beside a published result only objects of the service's own naming are removed, for
    somebody may have put something there; of a job without a result all is removed.

    Args:
        store: where the job was to be published.
        prefix: the job's; empty for the store's root.
        published: digest of the manifest that the job store names as the result, None where there is no result.

    Returns:
        How many objects and uploads were removed.

    Raises:
        DamagedResultError: the manifest is gone or another one; nothing was removed.
        PermanentError, TransientError: as the store says.
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


def _named(store: ObjectStore, key: str, published: str | None) -> set[str]:
    """The paths of the result, empty where there is none."""
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
