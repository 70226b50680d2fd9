"""Whether results can be written where they are to go: a marker is put there and removed again.

What was found writable is believed for a while, so that many submissions do not become many requests to a store.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from secateur_service.artifacts import InstrumentedStore, ObjectStore, open_store
from secateur_service.artifacts.probing import PROBE_READ_SECONDS, PROBE_RETRIES, try_folder, try_store
from secateur_service.destination import parse_destination

if TYPE_CHECKING:
    from secateur_service.artifacts.instrumented import RequestCounter
    from secateur_service.settings import Settings

BELIEVED_SECONDS = 30.0
"""How long a destination counts as writable."""


class DestinationCheck:
    """Tries destinations, each at most once in `BELIEVED_SECONDS` while it can be written.

    Args:
        open_bucket: opens the object store of an `s3://` destination, with little patience.
        tries_folders: whether folders are tried: on a replica without slots they may be read-only, or not there.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        open_bucket: Callable[[str], ObjectStore],
        *,
        tries_folders: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_bucket = open_bucket
        self._tries_folders = tries_folders
        self._clock = clock
        self._found: dict[str, float] = {}

    @classmethod
    def from_settings(cls, settings: Settings, counter: RequestCounter | None = None) -> Self:
        """With a server's accounts; requests are counted."""

        def open_bucket(uri: str) -> ObjectStore:
            account = settings.account_of(uri)
            store = open_store(uri, account, retries=PROBE_RETRIES, read_timeout_seconds=PROBE_READ_SECONDS)
            return InstrumentedStore(store, counter) if counter else store

        return cls(open_bucket, tries_folders=bool(settings.devices))

    def check(self, destination: str) -> None:
        """Return if results can be written there, or could a moment ago.

        Raises:
            PermanentError: they cannot; says why, and the remedy.
            ResourceError: there is no space left.
            TransientError: the store does not answer.
        """
        now = self._clock()
        if now - self._found.get(destination, -BELIEVED_SECONDS) < BELIEVED_SECONDS:
            return
        parsed = parse_destination(destination)
        if not isinstance(parsed, Path):
            try_store(self._open_bucket(destination))
        elif self._tries_folders:
            try_folder(parsed)
        self._found = {known: at for known, at in self._found.items() if now - at < BELIEVED_SECONDS}
        self._found[destination] = now
