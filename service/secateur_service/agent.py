"""Wires up an agent: settings → store, dispatcher; signals; orderly end.

An agent has devices, for as long as a scheduler lends them, and nobody calls it: it takes jobs from the store and runs
them, with the dispatcher of a server with slots. It leaves to the replicas what concerns the whole store (expired
leases, deadlines, retention, the schema) and ends when it is no longer needed. Its workers end with it, however that
ends: the scheduler gives the devices to somebody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy.engine import make_url

from secateur._redaction import protect, redact
from secateur_service import __version__, hosting
from secateur_service.admission.destinations import DestinationCheck
from secateur_service.control.dispatcher import Dispatcher
from secateur_service.control.janitor import clear_folders
from secateur_service.errors import PreemptedError
from secateur_service.executors.local import LocalExecutor
from secateur_service.executors.port import WorkFolders
from secateur_service.jobs.port import Reading
from secateur_service.jobs.store import SqlJobStore
from secateur_service.settings import Settings
from secateur_service.sizing import accelerators
from secateur_service.telemetry.logging import configure_logging
from secateur_service.telemetry.tracing import exporting_spans

EXIT_DONE = 0
EXIT_STOPPED = PreemptedError.exit_code
"""It was told to stop before it had done what it was started for."""

_log = structlog.get_logger(__name__)


def with_devices(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """The settings with the devices that a process with this environment sees, unless they name some.

    Raises:
        ValueError: they name none, or one that it does not see.
    """
    seen = accelerators.visible(environment)
    listed = environment.get(accelerators.VISIBLE)
    if "devices" not in settings.model_fields_set:
        if listed and not seen:
            _log.warning(
                "CUDA_VISIBLE_DEVICES lists devices, but nvidia-smi knows none of them: jobs run on the CPU; is the "
                "driver there, and does the container ask for a GPU?",
                listed=listed,
            )
        devices = tuple(f"cuda:{index}" for index in range(len(seen))) or ("cpu",)
        return settings.model_copy(update={"devices": devices})
    if not settings.devices:
        raise ValueError(
            "devices (SECATEUR_DEVICES) is empty, and an agent without a device runs nothing; leave it out"
        )
    if not seen and any(device.startswith("cuda") for device in settings.devices):
        _look_for(settings.devices, environment)
    for device in settings.devices:
        if device.startswith("cuda") and seen and int(device.partition(":")[2] or 0) >= len(seen):
            named = "" if listed is None else f" (CUDA_VISIBLE_DEVICES={listed})"
            raise ValueError(
                f"devices (SECATEUR_DEVICES) names {device}, and this process sees {len(seen)} GPUs{named}; correct "
                "it, or leave it out to have a slot for each"
            )
    return settings


def _look_for(devices: Sequence[str], environment: Mapping[str, str]) -> None:
    """Have PyTorch look for devices that nvidia-smi does not know, in a process of its own.

    Raises:
        ValueError: one is not there: every job that the agent takes would fail.
    """
    given = {**environment, "SECATEUR_DEVICES": ",".join(devices)}
    command = [sys.executable, "-m", "secateur_service", "devices"]
    looked = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    if looked.returncode:
        raise ValueError(f"devices (SECATEUR_DEVICES): {looked.stderr.strip()}; correct it, or leave it out")


def run(
    settings: Settings,
    *,
    name: str | None = None,
    once: bool = False,
    idle_seconds: float | None = None,
    ready_file: Path | None = None,
) -> int:
    """Run jobs until there is a reason to end; SIGTERM and SIGINT are one. A second signal ends the process at once.

    Args:
        settings: those of the replicas, and the devices of this agent.
        name: by which it is known to the replicas.
        once: end after one attempt of one job.
        idle_seconds: end when no job has run here for so long.
        ready_file: file that exists while the agent takes jobs.

    Returns:
        The exit code: EXIT_STOPPED if a signal ended it although it was to end by itself, else EXIT_DONE.

    Raises:
        CannotStartError: there is no database, or its schema is not that of this release; a folder or the destination
            of results cannot be written.
    """
    protect(settings.secrets())
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    with exporting_spans():
        told = asyncio.run(_work(settings, name, 1 if once else None, idle_seconds, ready_file))
    return EXIT_STOPPED if told and (once or idle_seconds is not None) else EXIT_DONE


async def _work(
    settings: Settings, name: str | None, most_jobs: int | None, idle_seconds: float | None, ready_file: Path | None
) -> bool:
    """Run jobs; returns whether a signal ended this."""
    _log.info("settings", version=__version__, **redact(settings.redacted()))
    hosting.tell_what_is_odd(settings)
    hosting.remove_ready_file(ready_file)
    hosting.require_data_dir(settings)
    _require_database(settings)
    told = hosting.end_on_signals()
    opening = partial(hosting.prepared_store, settings, SqlJobStore.check_schema)
    with contextlib.closing(await asyncio.to_thread(opening)) as store:
        check = DestinationCheck.from_settings(settings).check
        await hosting.require_destination(settings.destinations[0], check)
        executor = LocalExecutor(settings, tied=True)
        dispatcher = hosting.dispatcher_of(
            settings,
            store,
            executor,
            name=name,
            expires=False,
            most_jobs=most_jobs,
            idle_seconds=idle_seconds,
        )
        clearing = _clearing(store, executor.folders, settings.cleaning_seconds)
        with hosting.ready_file(ready_file, {"devices": settings.devices}), clearing:
            _log.info("taking jobs", pid=os.getpid(), devices=settings.devices)
            dispatcher.start()
            is_told = await _end_of(dispatcher, told)
        if is_told:
            _log.info("draining", drain_seconds=settings.drain_seconds)
            await asyncio.to_thread(dispatcher.drain)
    _log.info("stopped")
    return is_told


def _require_database(settings: Settings) -> None:
    """Make no new database: it would be nobody else's."""
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise hosting.CannotStartError(
            f"there is no job store {url.database}; name the database of the replicas (SECATEUR_DATABASE_URL)"
        )


async def _end_of(dispatcher: Dispatcher, told: asyncio.Event) -> bool:
    """Wait for the dispatcher to end by itself, or a signal; returns whether it was a signal."""
    waits = [asyncio.create_task(told.wait()), asyncio.create_task(asyncio.to_thread(dispatcher.join))]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    waits[0].cancel()
    return not waits[1].done()


@contextlib.contextmanager
def _clearing(store: Reading, folders: WorkFolders, pause_seconds: float) -> Iterator[None]:
    """Meanwhile, clear the work directories again and again: a job that was here may have ended elsewhere."""
    over = threading.Event()

    def clear() -> None:
        while True:
            clear_folders(store, folders)
            if over.wait(pause_seconds):
                return

    threading.Thread(target=clear, name="clearing", daemon=True).start()
    try:
        yield
    finally:
        over.set()
