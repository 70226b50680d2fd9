"""Fetches the model and corpora that a job names onto this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from secateur._text import fetched_text, size
from secateur_service.errors import ResourceError
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.companions import Companions, take_companions
from secateur_service.models.files import Use, checkpoint_files, left_out, rule_of
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.tensors import open_here
from secateur_service.models.weights import named_files
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.throttle import Throttle
from secateur_service.sources import Source, Sources
from secateur_service.sources.access import Wanted
from secateur_service.spec import ModelSpec

_MAX_TOLD = 20
_TELL_SECONDS = 60.0  # the log stays with the job, and the progress says how far it is
_LEAST_SECONDS = 1.0  # over which a pace says something


def fetch(sources: Sources, observer: JobObserver, what: str, wanted: Wanted, uri: str, meter: Meter) -> Path:
    """Fetch the folder that a reference names.

    Args:
        sources: where it may be.
        observer: receives the progress and may stop the job.
        what: its name in the log.
        wanted: which of its files to fetch.
        uri: the folder's URI.
        meter: counts the bytes.

    Raises:
        ReferenceRefusedError, TransientError, ResourceError: as `Cache.fetch` does.
    """
    return _fetch(sources.open(uri), observer, what, wanted, meter)


@dataclass(frozen=True)
class FetchedModel:
    """A model on this machine.

    Attributes:
        open_file: opens its weight files.
        companions: the files that go with it.
        left_out: its files that are not published in any form, each with the reason.
    """

    checkpoint: Checkpoint
    open_file: Callable[[Path], BinaryIO]
    companions: Companions
    left_out: Mapping[str, str]


def fetch_model(
    sources: Sources, observer: JobObserver, model: ModelSpec, workdir: Path, meter: Meter, *, needs_all: bool
) -> FetchedModel:
    """Fetch a model: as a whole, or a few shards at a time where there is no room for all of it.

    Files that are only carried over are read here, and never again; unreadable ones are left out with a warning.

    Args:
        sources: where it may be.
        observer: receives the progress and may stop the job.
        model: names it.
        workdir: where the shards are kept in the latter case.
        meter: counts the bytes.
        needs_all: whether the whole model is required.

    Raises:
        ModelRefusedError, ReferenceRefusedError, TransientError, ResourceError: it cannot be fetched or used.
    """
    source = sources.open(model.uri, model.revision)
    folder, open_file = _fetch_files(source, observer, workdir, meter, needs_all=needs_all)
    checkpoint = open_checkpoint(folder)
    companions = take_companions(
        folder,
        source.names,
        workdir / "companions",
        {key: value for key, value in checkpoint.config.items() if key != "auto_map"},
        repository=_repository(source),
        check_generation=_check_generation,
    )
    checkpoint = replace(checkpoint, companions=companions.folder)
    weights = {info.path.name for info in checkpoint.tensors.values()}
    others = [name for name in source.names if rule_of(name).use is Use.WEIGHTS and name not in weights]
    left = {**left_out(source.names), **dict.fromkeys(others, "no index names it"), **companions.left_out}
    _tell(observer, checkpoint, companions, left)
    return FetchedModel(checkpoint, open_file, companions, dict(sorted(left.items())))


def _fetch_files(
    source: Source, observer: JobObserver, workdir: Path, meter: Meter, *, needs_all: bool
) -> tuple[Path, Callable[[Path], BinaryIO]]:
    """The folder of a model, and a function that opens its weight files."""

    def small(names: Collection[str]) -> list[str]:
        return [name for name in checkpoint_files(names) if rule_of(name).use is not Use.WEIGHTS]

    try:
        # Work is counted from the weights on, whose size is known only then: these files are nothing to it.
        folder = source.fetch(small, check=observer.check, on_progress=meter.fetched)
        named = named_files(folder)  # the folder may have more weight files than the index names
        all_of_it = lambda names: [*small(names), *(named & set(names))]  # noqa: E731
        return _fetch(source, observer, "model", all_of_it, meter), open_here
    except ResourceError as error:
        if needs_all:
            raise
        observer.log("warning", f"the model is fetched a few shards at a time: {error.message}")

        def report(shard: str, size_bytes: int) -> None:
            observer.log("info", "fetching a shard", shard=shard, bytes=size_bytes)

        window = source.window(
            checkpoint_files, workdir / "model", check=observer.check, on_shard=report, on_progress=meter.fetched
        )
        return window.folder, window.open


def _tell(observer: JobObserver, checkpoint: Checkpoint, companions: Companions, left: Mapping[str, str]) -> None:
    for note in checkpoint.notes:
        observer.log("warning", note)
    for name, reason in companions.left_out.items():
        observer.log("warning", f"{name} is left out: {reason}")
    reasons: dict[str, list[str]] = {}
    for name, reason in left.items():
        if name not in companions.left_out:
            reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - _MAX_TOLD} more" if len(names) > _MAX_TOLD else ""
        observer.log("info", f"left out: {reason}", files=", ".join(names[:_MAX_TOLD]) + more)


def _repository(source: Source) -> str | None:
    """The web address of a hub model's files; None for other sources."""
    if not source.uri.startswith("hf://"):
        return None
    return f"https://huggingface.co/{source.uri.removeprefix('hf://')}/blob/{source.revision}"


def _check_generation(content: dict[str, Any]) -> None:
    """Raise ValueError for values that transformers refuses now, or fails on when the model generates."""
    from transformers import GenerationConfig

    GenerationConfig.from_dict(content)
    for name, value in content.items():
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if name.endswith("_token_id") and not all(type(number) is int for number in ids):
            raise ValueError(f"{name} is no id of a token")


def _fetch(source: Source, observer: JobObserver, what: str, wanted: Wanted, meter: Meter) -> Path:
    """Fetch a folder: the progress says how much of it is here, the log now and then how fast it comes."""
    began: tuple[float, int] | None = None
    tick: Callable[[float], None] | None = None

    def report(done: int, total: int) -> None:
        assert began is not None
        seconds, come = time.monotonic() - began[0], done - began[1]
        pace = f", {size(come / seconds)} a second" if come and seconds >= _LEAST_SECONDS else ""
        message = f"fetching {what}: {fetched_text(done, total)}{pace}"
        observer.log("info", message, source=source.pinned_uri, bytes=done, of_bytes=total)

    throttled = Throttle(report, _TELL_SECONDS)

    def on_progress(done: int, total: int) -> None:
        nonlocal began, tick
        if began is None or tick is None:
            began, tick = (time.monotonic(), done), meter.reach("fetch", done, total)
        throttled(done, total)
        meter.fetched(done, total)
        tick(done)

    return source.fetch(wanted, check=observer.check, on_progress=on_progress)
