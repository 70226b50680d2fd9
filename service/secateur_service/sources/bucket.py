"""Prefixes of an object store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import islice

from secateur_service.artifacts.port import FORBIDDEN, ObjectStore
from secateur_service.errors import PermanentError, TransientError
from secateur_service.sources.reference import BucketReference, ReferenceRefusedError
from secateur_service.sources.remote import RemoteFile

_MAX_OBJECTS = 10_000


class BucketFolder:
    """The objects below a prefix, as they were when this object was created.

    Args:
        store: object store opened at the prefix.
        reference: reference to the prefix.

    Raises:
        ReferenceRefusedError: there are no objects, or they may not be read.
        TransientError: the store cannot be reached.
    """

    def __init__(self, store: ObjectStore, reference: BucketReference) -> None:
        self._store = store
        self._reference = reference
        try:
            listed = dict(islice(store.list_objects(""), _MAX_OBJECTS + 1))
        except PermanentError as error:
            raise ReferenceRefusedError(error.message) from error
        except TransientError as error:
            problem = f"the service cannot reach {reference} ({error.message.removeprefix('listing : ')})"
            raise TransientError(f"{problem}; try again later", reason=error.reason) from error
        if not listed:
            raise ReferenceRefusedError(f"there are no objects below {reference}/; check bucket and prefix")
        if len(listed) > _MAX_OBJECTS:
            raise ReferenceRefusedError(f"there are more than {_MAX_OBJECTS} objects below {reference}/; name a folder")
        self.files: Mapping[str, RemoteFile] = {
            name: RemoteFile(name, info.size_bytes) for name, info in sorted(listed.items())
        }
        lines = [f"{name}\t{listed[name].size_bytes}\t{listed[name].version}\n" for name in self.files]
        self.revision = hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def identity(self) -> str:
        """Location, and the names, sizes and versions of all objects."""
        return f"{self._store.uri('-')} {self.revision}"

    def read(self, file: RemoteFile, start: int, stop: int) -> Iterator[bytes]:
        """Read a range of an object."""
        if stop <= start:
            return
        try:
            yield from self._store.read_range(file.name, start, stop)
        except PermanentError as error:
            remedy = "; it was there before" if error.reason != FORBIDDEN else ""
            raise ReferenceRefusedError(f"{self._reference}/{file.name}: {error.message}{remedy}") from error
