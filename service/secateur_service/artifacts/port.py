"""What the service needs from an object store; `directory` and `s3` implement it.

A store is opened below one destination (`s3://bucket/prefix`, `file:///folder`); keys are relative to it. Every method
raises `TransientError` if waiting may help and `PermanentError` if it cannot, with one of the reasons below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from secateur_service.destination import MAX_KEY_BYTES
from secateur_service.errors import PermanentError

UNREACHABLE = "OBJECT_STORE_UNREACHABLE"  # transient: no connection, or it broke off
TIMEOUT = "OBJECT_STORE_TIMEOUT"  # transient: connected, no answer in time
UNAVAILABLE = "OBJECT_STORE_UNAVAILABLE"  # transient: the store itself answers 5xx or "slow down"
FORBIDDEN = "OBJECT_STORE_FORBIDDEN"  # permanent: credentials wrong, revoked or without permission
REFUSED = "OBJECT_STORE_REFUSED"  # permanent: any other refusal
NOT_SUPPORTED = "OBJECT_STORE_LACKS_CALL"  # permanent: the store does not have this part of S3
BUCKET_NOT_FOUND = "BUCKET_NOT_FOUND"
OBJECT_NOT_FOUND = "OBJECT_NOT_FOUND"
OBJECT_TRUNCATED = "OBJECT_TRUNCATED"  # transient: fewer bytes arrived than were announced
STORE_FULL = "OBJECT_STORE_FULL"
INVALID_KEY = "INVALID_OBJECT_KEY"

OUTAGES = frozenset({UNREACHABLE, TIMEOUT, UNAVAILABLE, OBJECT_TRUNCATED})
"""Reasons that pass when the store answers again."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a store says about an object without sending it.

    Attributes:
        version: changes with the content; empty if the store does not give one.
    """

    size_bytes: int
    version: str = ""


class ObjectStore(Protocol):
    """Named, immutable-by-convention byte strings below one destination."""

    def put_file(self, path: Path, key: str, media_type: str, on_read: Callable[[int], None] = lambda _: None) -> None:
        """Store a file's content under `key`, atomically replacing what is there.

        Args:
            path: the file.
            key: its name in the store.
            media_type: the content's media type.
            on_read: called with the number of bytes after every piece of a large file; may raise to stop.
        """

    def put_bytes(self, key: str, content: bytes, media_type: str) -> None:
        """Store `content` under `key`, atomically replacing what is there."""

    def put_new(self, key: str, content: bytes, media_type: str) -> bool:
        """Store `content` under `key` unless the key exists.

        Returns:
            False if the key existed; after a lost reply that may be this very content, so compare.
        """

    def get_bytes(self, key: str) -> bytes:
        """Read an object; PermanentError with OBJECT_NOT_FOUND if there is none."""

    def get_file(self, key: str, path: Path) -> None:
        """Read an object into a file, which gets its name only when complete."""

    def stat(self, key: str) -> ObjectInfo | None:
        """Look at an object; None if there is none."""

    def list_keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with `prefix`, in no particular order."""

    def list_objects(self, prefix: str) -> Iterator[tuple[str, ObjectInfo]]:
        """All keys that start with `prefix` and what the store says about them, in no particular order."""

    def read_range(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) of an object, in pieces; PermanentError with OBJECT_NOT_FOUND if there is none."""

    def delete(self, key: str) -> None:
        """Remove an object; harmless if there is none."""

    def abort_uploads(self, prefix: str) -> int:
        """Remove unfinished uploads to keys that start with `prefix`; returns how many there were.

        Only for keys that nobody is writing any more.
        """

    def download_url(self, key: str, expires_seconds: float) -> tuple[str, datetime | None]:
        """A URL where anyone may read the object without credentials, and until when (None: for ever)."""

    def uri(self, key: str) -> str:
        """The object's full name, for people and for other programs."""


def check_key(key: str) -> str:
    """Return `key` if it is a plain relative path that names one object in every kind of store.

    Raises:
        PermanentError: with reason INVALID_OBJECT_KEY.
    """
    parts = key.split("/")
    if (
        any(part in {"", ".", ".."} for part in parts)
        or any(ord(character) < 0x20 or character in "\\\x7f" for character in key)
        or len(key.encode("utf-8", "replace")) > MAX_KEY_BYTES
    ):
        raise PermanentError(
            f"{key[:80]!r} is not an object key: give a relative path without '.', '..', empty parts or control"
            f" characters, at most {MAX_KEY_BYTES} bytes long",
            reason=INVALID_KEY,
        )
    return key
