"""What a job names, on this machine."""

from __future__ import annotations

import time
from pathlib import Path

from secateur_service.pipeline.observer import JobObserver
from secateur_service.sources import Sources
from secateur_service.sources.access import Wanted

_TELL_SECONDS = 5.0


def fetch(
    sources: Sources, observer: JobObserver, what: str, wanted: Wanted, uri: str, revision: str | None = None
) -> Path:
    """The folder that a reference names; tells now and then how far it is.

    Args:
        sources: where it may lie.
        observer: hears of the progress and may stop the job.
        what: as the log names it.
        wanted: which of its files.
        uri: of the folder.
        revision: the version.

    Raises:
        ReferenceRefusedError, TransientError, ResourceError: as `Cache.fetch` does.
    """
    source = sources.open(uri, revision)
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_SECONDS or done == total:
            told = time.monotonic()
            observer.log("info", f"fetching {what}", source=source.pinned_uri, bytes=done, of_bytes=total)

    return source.fetch(wanted, check=observer.check, on_progress=tell)
