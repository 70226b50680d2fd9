"""An object store whose requests are counted and traced, whichever adapter it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from secateur_service.artifacts.port import NOT_SUPPORTED, OBJECT_NOT_FOUND, ObjectInfo, ObjectStore
from secateur_service.errors import AttemptError
from secateur_service.telemetry.tracing import OBJECT, request_span

OK = "OK"


class RequestCounter(Protocol):
    """Counts requests to object stores; may be called from several threads."""

    def count_request(self, operation: str, outcome: str) -> None:
        """Count a finished request; `outcome` is OK or the reason of an error."""

    def count_bytes(self, direction: str, size_bytes: int) -> None:
        """Count bytes; `direction` is `read` or `written`."""


class InstrumentedStore:
    """Passes every request on and counts it."""

    def __init__(self, store: ObjectStore, counter: RequestCounter) -> None:
        self._store = store
        self._counter = counter

    def put_file(self, path: Path, key: str, media_type: str, on_read: Callable[[int], None] = lambda _: None) -> None:
        """Store a file."""
        with self._counted("put", key):
            self._store.put_file(path, key, media_type, on_read)
        self._counter.count_bytes("written", path.stat().st_size)

    def put_bytes(self, key: str, content: bytes, media_type: str) -> None:
        """Store bytes."""
        with self._counted("put", key):
            self._store.put_bytes(key, content, media_type)
        self._counter.count_bytes("written", len(content))

    def put_new(self, key: str, content: bytes, media_type: str) -> bool:
        """Store bytes unless the key exists."""
        with self._counted("put", key):
            is_new = self._store.put_new(key, content, media_type)
        self._counter.count_bytes("written", len(content) if is_new else 0)
        return is_new

    def get_bytes(self, key: str) -> bytes:
        """Read an object."""
        with self._counted("get", key):
            content = self._store.get_bytes(key)
        self._counter.count_bytes("read", len(content))
        return content

    def get_file(self, key: str, path: Path) -> None:
        """Read an object into a file."""
        with self._counted("get", key):
            self._store.get_file(key, path)
        self._counter.count_bytes("read", path.stat().st_size)

    def read_range(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Read a part of an object."""
        with self._counted("get", key):
            for piece in self._store.read_range(key, start, stop):
                self._counter.count_bytes("read", len(piece))
                yield piece

    def stat(self, key: str) -> ObjectInfo | None:
        """Look at an object."""
        with self._counted("stat", key):
            return self._store.stat(key)

    def list_keys(self, prefix: str) -> Iterator[str]:
        """All keys below a prefix."""
        with self._counted("list", prefix):
            yield from self._store.list_keys(prefix)

    def list_objects(self, prefix: str) -> Iterator[tuple[str, ObjectInfo]]:
        """All keys below a prefix, with the store's information about each."""
        with self._counted("list", prefix):
            yield from self._store.list_objects(prefix)

    def delete(self, key: str) -> None:
        """Remove an object."""
        with self._counted("delete", key):
            self._store.delete(key)

    def abort_uploads(self, prefix: str) -> int:
        """Remove unfinished uploads."""
        with self._counted("abort", prefix):
            return self._store.abort_uploads(prefix)

    def download_url(self, key: str, expires_seconds: float) -> tuple[str, datetime | None]:
        """Where anyone may read the object; sends no request to the store."""
        return self._store.download_url(key, expires_seconds)

    def uri(self, key: str) -> str:
        """The object's full name."""
        return self._store.uri(key)

    @contextmanager
    def _counted(self, operation: str, name: str) -> Iterator[None]:
        try:
            with request_span(f"object store {operation}", {OBJECT: name}, answers=(OBJECT_NOT_FOUND, NOT_SUPPORTED)):
                yield
        except AttemptError as error:
            self._counter.count_request(operation, error.reason)
            raise
        self._counter.count_request(operation, OK)
