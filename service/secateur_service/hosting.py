"""What a server and an agent do alike, since both host workers: how they open the store, start and are told to end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.engine import make_url

from secateur._redaction import redact_text
from secateur_service import __version__
from secateur_service.control.backoff import Backoff
from secateur_service.control.dispatcher import Dispatcher
from secateur_service.control.presence import Presence
from secateur_service.durable import write_durably
from secateur_service.errors import PermanentError, ResourceError, TransientError
from secateur_service.executors.locks import locks_folder
from secateur_service.executors.port import Executor
from secateur_service.jobs.agents import AgentRecord
from secateur_service.jobs.store import SqlJobStore, open_job_store
from secateur_service.private_files import exposed, tighten
from secateur_service.settings import Settings
from secateur_service.sizing.slots import Slots
from secateur_service.sources import Cache
from secateur_service.variables import unknown_variables

# The start does not wait longer for the store of the results.
_FIRST_TRY_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class CannotStartError(Exception):
    """A server or an agent cannot start as it is configured; the message says what to change."""


def tell_what_is_odd(settings: Settings) -> None:
    """Warn about settings that have no effect."""
    for name, meant in unknown_variables().items():
        _log.warning(
            "this variable is no setting and has no effect; correct or remove it", variable=name, did_you_mean=meant
        )
    for root in settings.file_roots:
        if not root.is_dir():
            _log.warning(
                "no such folder, so jobs that name files below it are refused; create it, mount it, or take it out of "
                "file_roots (--file-root, SECATEUR_FILE_ROOTS)",
                file_root=str(root),
            )


def remove_ready_file(path: Path | None) -> None:
    """Remove the file that a process left that was killed, before anything else that can go wrong at a start.

    Raises:
        CannotStartError: it cannot be removed.
    """
    try:
        if path is not None:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise CannotStartError(f"the ready file {path} cannot be replaced: {error.strerror}") from error


def require_data_dir(settings: Settings) -> None:
    """Make the data folder, if there is none.

    Raises:
        CannotStartError: nothing can be written there.
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.data_dir):
            pass
    except OSError as error:
        raise CannotStartError(
            f"the data folder {settings.data_dir} cannot be written: {error.strerror}; choose another one (--data-dir, "
            "SECATEUR_DATA_DIR)"
        ) from error


def prepared_store(settings: Settings, prepare: Callable[[SqlJobStore], str | None]) -> SqlJobStore:
    """Open the store.

    Args:
        settings: name the database.
        prepare: makes sure of the schema, see `SqlJobStore.migrate` and `SqlJobStore.check_schema`.

    Raises:
        CannotStartError: there is no database, its schema cannot be used, or others may write what must be private.
    """
    try:
        _close_to_others(settings)
        store = open_job_store(settings.database_url)
        newer = prepare(store)
    except (OSError, ValueError, TransientError) as error:
        raise CannotStartError(f"the job store cannot be opened: {error}{cause(error)}") from error
    if newer is not None:
        _log.warning("the job store has the schema of a newer release, which this one may use", revision=newer)
    return store


def _close_to_others(settings: Settings) -> None:
    """Revoke other users' access to files that earlier releases left open; warn where this user may not change it.

    Raises:
        CannotStartError: others may write the files that decide who may call.
    """
    slots = sorted(locks_folder(settings.data_dir).glob("*"))
    own = [("data_dir", settings.data_dir), *(("the lock of a slot,", path) for path in slots)]
    database = make_url(settings.database_url)
    if database.get_backend_name() == "sqlite" and database.database:
        own += [("database_url", Path(database.database + suffix)) for suffix in ("", "-wal", "-shm")]
    for finding in filter(None, (tighten(what, path) for what, path in own)):
        _log.warning("UNSAFE: other users have access to files", finding=str(finding))
    for what, path, secret in (("tokens_file", settings.tokens_file, False), ("tls_key", settings.tls_key, True)):
        for finding in exposed(what, path, secret=secret) if path is not None else ():
            if finding.writable:
                raise CannotStartError(str(finding))
            _log.warning("UNSAFE: other users have access to files", finding=str(finding))


def cause(error: Exception) -> str:
    """The library's own message, for whoever starts the process; clients only get ours."""
    if error.__cause__ is None:
        return ""
    said = getattr(error.__cause__, "orig", None) or error.__cause__  # a driver's own words, without SQLAlchemy's
    return f" ({redact_text(' '.join(str(said).split()))})"


async def require_destination(destination: str, check: Callable[[str], None]) -> None:
    """Refuse to start where results cannot be written by default; a store that does not answer may do so later.

    Raises:
        CannotStartError: they cannot.
    """
    trying = asyncio.create_task(asyncio.to_thread(check, destination))
    await asyncio.wait({trying}, timeout=_FIRST_TRY_SECONDS)
    try:
        if trying.done():
            trying.result()
        else:
            trying.add_done_callback(lambda task: task.exception())  # tried again soon
    except PermanentError as error:
        problem = f"results cannot be written to {destination}: {error.message}{cause(error)}"
        raise CannotStartError(f"{problem}; or set SECATEUR_DESTINATIONS") from error
    except (ResourceError, TransientError) as error:
        _log.warning("results cannot be written at the moment", problem=error.message, reason=error.reason)


def process_id(name: str | None = None) -> str:
    """An id that no other process has, which begins with its name: by default that of the host, and its number there.

    Containers may share a host's name, and each has a first process; and a name may be given again.
    """
    return f"{name or f'{socket.gethostname()}:{os.getpid()}'}:{secrets.token_hex(4)}"


def dispatcher_of(
    settings: Settings,
    store: SqlJobStore,
    executor: Executor,
    *,
    name: str | None = None,
    most_jobs: int | None = None,
    **given: Any,
) -> Dispatcher:
    """A dispatcher for the slots of the settings, which announces itself; its other arguments are `given`.

    Looks for accelerators, which can take seconds.
    """
    slots = len(settings.devices)
    record = AgentRecord(
        id=process_id(name),
        node=socket.gethostname(),
        version=__version__,
        slots=slots if most_jobs is None else min(slots, most_jobs),
        busy=0,
        capacity=Slots.of(settings.data_dir, settings.devices).capacity(),
    )
    return Dispatcher(
        store,
        executor,
        owner=record.id,
        lease_seconds=settings.lease_seconds,
        start_seconds=settings.start_seconds,
        poll_seconds=settings.poll_seconds,
        drain_seconds=settings.drain_seconds,
        cancel_grace_seconds=settings.cancel_grace_seconds,
        stall_seconds=settings.stall_seconds,
        backoff=Backoff(settings.retry_base_seconds, settings.retry_max_seconds),
        most_jobs=most_jobs,
        presence=Presence(store.agents, record) if slots else None,
        models=Cache(settings.cache_dir).models,
        **given,
    )


def end_on_signals() -> asyncio.Event:
    """An event set by the first SIGTERM or SIGINT; the second ends the process at once."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # Python's own for SIGINT would wait for threads
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    return ended


@contextlib.contextmanager
def ready_file(path: Path | None, says: Mapping[str, Any]) -> Iterator[None]:
    """Keep a file while the process takes work; what it says is JSON, with the process's id.

    Raises:
        CannotStartError: it cannot be written.
    """
    if path is None:
        yield
        return
    try:
        write_durably(path.absolute(), json.dumps({**says, "pid": os.getpid()}).encode())
    except OSError as error:
        raise CannotStartError(f"the ready file cannot be written: {error}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
