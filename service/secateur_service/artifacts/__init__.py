"""Published results: the object store behind one port, the manifest, and the publisher. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr

from secateur_service.artifacts.instrumented import InstrumentedStore
from secateur_service.artifacts.manifest import LocalFile, Manifest, ManifestFile, describe_file, parse_manifest
from secateur_service.artifacts.port import ObjectInfo, ObjectStore
from secateur_service.artifacts.publisher import publish
from secateur_service.destination import DestinationRefusedError, parse_destination
from secateur_service.errors import PermanentError

__all__ = [
    "InstrumentedStore",
    "LocalFile",
    "Manifest",
    "ManifestFile",
    "ObjectInfo",
    "ObjectStore",
    "S3Settings",
    "describe_file",
    "open_store",
    "parse_manifest",
    "publish",
]

INVALID_DESTINATION = "INVALID_DESTINATION"
S3_NOT_CONFIGURED = "S3_NOT_CONFIGURED"


class S3Settings(Protocol):
    """What an S3 destination needs from the service's settings."""

    @property
    def s3_endpoint(self) -> str | None:
        """`http://host:port` or `https://host`."""

    @property
    def s3_access_key(self) -> str | None:
        """Access key."""

    @property
    def s3_secret_key(self) -> SecretStr | None:
        """Secret key."""

    @property
    def s3_region(self) -> str:
        """Region of the store's buckets."""


def open_store(destination: str, settings: S3Settings, **patience: Any) -> ObjectStore:
    """Open the object store that a destination names; nothing is sent yet.

    Args:
        destination: `s3://bucket/prefix` or `file:///folder`.
        settings: The S3 endpoint and our account there.
        patience: `retries` and `read_timeout_seconds` of `S3Store`.

    Raises:
        PermanentError: with reason INVALID_DESTINATION or S3_NOT_CONFIGURED.
    """
    try:
        parsed = parse_destination(destination)
    except DestinationRefusedError as error:
        raise PermanentError(str(error), reason=INVALID_DESTINATION) from error
    if isinstance(parsed, Path):
        from secateur_service.artifacts.directory import DirectoryStore

        return DirectoryStore(parsed)
    from secateur_service.artifacts.s3 import S3Store

    if not (settings.s3_endpoint and settings.s3_access_key and settings.s3_secret_key):
        raise PermanentError(
            f"{destination} needs an S3 store: set SECATEUR_S3_ENDPOINT, SECATEUR_S3_ACCESS_KEY and "
            "SECATEUR_S3_SECRET_KEY",
            reason=S3_NOT_CONFIGURED,
        )
    return S3Store(
        parsed.name,
        parsed.prefix,
        endpoint=settings.s3_endpoint,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value(),
        region=settings.s3_region,
        **patience,
    )
