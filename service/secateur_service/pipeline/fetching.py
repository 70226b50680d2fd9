"""What a job names, on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from secateur_service.errors import ResourceError
from secateur_service.models.checkpoint import Checkpoint, checkpoint_files, open_checkpoint
from secateur_service.models.tensors import open_here
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.seldom import Seldom
from secateur_service.sources import Source, Sources
from secateur_service.sources.access import Wanted
from secateur_service.spec import ModelSpec


def fetch(sources: Sources, observer: JobObserver, what: str, wanted: Wanted, uri: str) -> Path:
    """The folder that a reference names; tells now and then how far it is.

    Args:
        sources: where it may lie.
        observer: hears of the progress and may stop the job.
        what: as the log names it.
        wanted: which of its files.
        uri: of the folder.

    Raises:
        ReferenceRefusedError, TransientError, ResourceError: as `Cache.fetch` does.
    """
    return _fetch(sources.open(uri), observer, what, wanted)


def fetch_model(
    sources: Sources, observer: JobObserver, model: ModelSpec, workdir: Path, *, needs_all: bool
) -> tuple[Checkpoint, Callable[[Path], BinaryIO]]:
    """A model, and what opens its files: as a whole, or where there is no room for that, a few shards at a time.

    Args:
        sources: where it may lie.
        observer: hears of the progress and may stop the job.
        model: names it.
        workdir: where the shards lie in the latter case.
        needs_all: whether it has to be there as a whole.

    Raises:
        ModelRefusedError, ReferenceRefusedError, TransientError, ResourceError: it cannot be had.
    """
    source = sources.open(model.uri, model.revision)
    try:
        folder = _fetch(source, observer, "model", checkpoint_files)
    except ResourceError as error:
        if needs_all:
            raise
        observer.log("warning", f"the model is fetched a few shards at a time: {error.message}")

        def tell(shard: str, size_bytes: int) -> None:
            observer.log("info", "fetching a shard", shard=shard, bytes=size_bytes)

        window = source.window(checkpoint_files, workdir / "model", check=observer.check, on_shard=tell)
        return open_checkpoint(window.folder), window.open
    return open_checkpoint(folder), open_here


def _fetch(source: Source, observer: JobObserver, what: str, wanted: Wanted) -> Path:
    def tell(done: int, total: int) -> None:
        observer.log("info", f"fetching {what}", source=source.pinned_uri, bytes=done, of_bytes=total)

    return source.fetch(wanted, check=observer.check, on_progress=Seldom(tell))
