"""Where models and corpora come from: references, and folders on this machine with what they name. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from secateur_service.artifacts import S3Settings, open_store
from secateur_service.sources.access import Source, Sources
from secateur_service.sources.cache import Cache
from secateur_service.sources.reference import HubReference, ReferenceRefusedError
from secateur_service.sources.remote import RemoteFolder

__all__ = ["Cache", "ReferenceRefusedError", "Source", "SourceSettings", "Sources", "open_sources"]


class SourceSettings(S3Settings, Protocol):
    """What sources need of the service's settings."""

    @property
    def hub_endpoint(self) -> str:
        """URL of the hub; empty for none."""

    @property
    def hub_token(self) -> SecretStr | None:
        """Of the service's account."""

    @property
    def hub_offline(self) -> bool:
        """Whether the hub is not to be asked."""

    @property
    def s3_sources(self) -> tuple[str, ...]:
        """Prefixes that may be read."""

    @property
    def file_roots(self) -> tuple[Path, ...]:
        """Folders that may be read."""

    @property
    def cache_dir(self) -> Path:
        """Where fetched models lie."""

    @property
    def cache_bytes(self) -> int:
        """The most that they may take; 0 for no limit."""


def open_sources(settings: SourceSettings, *, everywhere: bool = False) -> Sources:
    """The sources that settings describe.

    Args:
        settings: endpoints, credentials, limits.
        everywhere: read whatever this process may, for somebody who owns the machine.
    """
    return Sources(
        file_roots=None if everywhere else settings.file_roots,
        bucket_prefixes=None if everywhere else settings.s3_sources,
        open_bucket=lambda uri: open_store(uri, settings),
        hub=_Hub(settings) if settings.hub_endpoint else None,
        cache=Cache(settings.cache_dir, settings.cache_bytes),
    )


class _Hub:
    """The hub, whose library is loaded with the first repository: it takes a second."""

    def __init__(self, settings: SourceSettings) -> None:
        self._settings = settings

    def __call__(self, reference: HubReference) -> RemoteFolder:
        from secateur_service.sources.hub import Hub

        given = self._settings
        token = given.hub_token.get_secret_value() if given.hub_token else None
        hub = Hub(given.hub_endpoint, token, memory=given.cache_dir / "hub", offline=given.hub_offline)
        return hub.open(reference)
