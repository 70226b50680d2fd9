"""Where models and corpora come from: references, and local folders with their contents. Imports no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from secateur_service.artifacts import InstrumentedStore, ObjectStore, open_store
from secateur_service.sources.access import Source, Sources
from secateur_service.sources.cache import Cache
from secateur_service.sources.reference import HubReference, ReferenceRefusedError

if TYPE_CHECKING:
    from secateur_service.artifacts.instrumented import RequestCounter
    from secateur_service.settings import Settings
    from secateur_service.sources.hub import Hub

__all__ = ["Cache", "ReferenceRefusedError", "Source", "Sources", "open_sources"]


def open_sources(settings: Settings, counter: RequestCounter | None = None, *, everywhere: bool = False) -> Sources:
    """The sources described by the settings.

    Args:
        settings: endpoints, credentials, limits.
        counter: counts requests to object stores.
        everywhere: allow whatever this process may read, for somebody who owns the machine.
    """

    def open_bucket(uri: str) -> ObjectStore:
        store = open_store(uri, settings.account_of(uri))
        return InstrumentedStore(store, counter) if counter else store

    def open_hub(reference: HubReference) -> Hub:
        from secateur_service.sources.hub import Hub  # its library takes a second to load

        token = settings.account_of(str(replace(reference, revision=None))).hub_token
        return Hub(
            settings.hub_endpoint,
            token.get_secret_value() if token else None,
            memory=settings.cache_dir / "hub",
            offline=settings.hub_offline,
        )

    return Sources(
        file_roots=None if everywhere else settings.file_roots,
        bucket_prefixes=None if everywhere else settings.s3_sources,
        open_bucket=open_bucket,
        open_hub=open_hub if settings.hub_endpoint else None,
        cache=Cache(settings.cache_dir, settings.cache_bytes),
    )
