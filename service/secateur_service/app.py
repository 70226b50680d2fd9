"""Wires up the server: settings → store, dispatcher, janitor, API, metrics; signals; orderly shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.engine import make_url

from secateur._redaction import protect, redact, redact_text
from secateur_service import __version__
from secateur_service.admission.destinations import BELIEVED_SECONDS, DestinationCheck
from secateur_service.api.readiness import Readiness
from secateur_service.api.reloading import UnusableFileError
from secateur_service.api.server import ApiServer
from secateur_service.artifacts import InstrumentedStore, ObjectStore, open_store
from secateur_service.control.backoff import Backoff
from secateur_service.control.dispatcher import Dispatcher
from secateur_service.control.explainer import Explainer
from secateur_service.control.janitor import Janitor
from secateur_service.control.presence import Presence
from secateur_service.durable import write_durably
from secateur_service.errors import PermanentError, ResourceError, TransientError
from secateur_service.executors.local import WORK_COMMAND
from secateur_service.executors.locks import only_server, slot_lock
from secateur_service.executors.opening import open_executor
from secateur_service.executors.port import Executor, WorkFolders
from secateur_service.inspection import InspectionPool
from secateur_service.jobs.agents import AgentRecord
from secateur_service.jobs.job import Event, EventKind
from secateur_service.jobs.port import JobQueue
from secateur_service.jobs.states import JobState
from secateur_service.jobs.store import SqlJobStore, open_job_store
from secateur_service.metrics.registry import Metrics, StoreCollector
from secateur_service.metrics.scrapes import MetricsServer
from secateur_service.private_files import exposed, tighten
from secateur_service.settings import Settings
from secateur_service.sizing.slots import Slots
from secateur_service.sources import Cache
from secateur_service.telemetry.logging import configure_logging
from secateur_service.telemetry.tracing import exporting_spans
from secateur_service.variables import unknown_variables

# For calls still open when the workers have stopped; watches have already been closed.
_LAST_CALLS_SECONDS = 2.0

# The start does not wait longer for the store of the results.
_FIRST_TRY_SECONDS = 5.0

# Enough for any realistic number of connections; more could cost kernel memory.
_DESCRIPTORS = 65_536

_log = structlog.get_logger(__name__)


class CannotStartError(Exception):
    """The server cannot start as it is configured; the message says what to change."""


def run(settings: Settings, *, ready_file: Path | None = None, work_command: Sequence[str] = WORK_COMMAND) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal ends the process at once.

    Args:
        settings: the server's settings.
        ready_file: file that holds the addresses while the server answers.
        work_command: command that starts a worker, see `open_executor`.

    Raises:
        ValueError: other machines could reach the server although protection is missing.
        CannotStartError: an address cannot be bound, a folder or the destination of results cannot be written,
            certificates or tokens cannot be read, or there is no database.
    """
    settings.check_listen()
    protect(settings.secrets())
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    _raise_descriptor_limit()
    with exporting_spans():
        asyncio.run(_serve(settings, ready_file, work_command))


async def _serve(settings: Settings, ready_file: Path | None, work_command: Sequence[str]) -> None:
    _log.info("settings", version=__version__, **redact(settings.redacted()))
    _tell_what_is_odd(settings)
    _tell_who_reaches(settings)
    ended = _end_on_signals()
    with _alone(settings), contextlib.closing(await asyncio.to_thread(_open_job_store, settings)) as store:
        metrics = Metrics(CollectorRegistry(), version=__version__)
        metrics.registry.register(StoreCollector(store, settings.data_dir))
        executor = open_executor(settings, work_command)
        presence = await asyncio.to_thread(_presence, settings, store)
        dispatcher = _dispatcher(settings, store, executor, metrics, presence)
        janitor = _janitor(settings, store, executor.folders, metrics)
        explainer = Explainer(store)
        check = partial(DestinationCheck.from_settings(settings, metrics).check, settings.destinations[0])
        await _require_destination(settings.destinations[0], check)
        inspections = InspectionPool(settings, metrics)
        server = _api_server(settings, store, metrics, dispatcher, inspections)
        async with _inspecting(inspections), _serving(server), _metrics_server(settings, metrics) as metrics_address:
            addresses = {"grpc": server.address, "metrics": metrics_address}
            _log.info("serving", pid=os.getpid(), **addresses)
            ready = Readiness(check, server.show_ready, pause_seconds=BELIEVED_SECONDS)
            watching = asyncio.create_task(ready.watch())
            with _ready_file(ready_file, addresses):
                dispatcher.start()
                janitor.start()
                explainer.start()
                await ended.wait()
            watching.cancel()
            _log.info("draining", drain_seconds=settings.drain_seconds)
            await server.drain()
            await asyncio.to_thread(explainer.stop)
            await asyncio.to_thread(janitor.stop)
            await asyncio.to_thread(dispatcher.drain)
    _log.info("stopped")


def _raise_descriptor_limit() -> None:
    """Raise the soft limit on descriptors: every connection takes one, and shells allow 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _tell_what_is_odd(settings: Settings) -> None:
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


def _tell_who_reaches(settings: Settings) -> None:
    if settings.missing_protection:
        _log.warning(
            "UNSAFE: other machines can reach this server",
            listen=settings.listen,
            missing=list(settings.missing_protection),
        )
    if "metrics_listen" in settings.public_addresses:
        _log.info("other machines can read the metrics", metrics_listen=settings.metrics_listen)


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Be the only server of this machine with this data folder, and with this database if it is SQLite.

    Two would share slots, work folders and the cache without knowing of each other.

    Raises:
        CannotStartError: there is another one.
    """
    places = [("data folder", settings.data_dir, settings.data_dir / "serve.lock", "--data-dir")]
    database = make_url(settings.database_url)
    if database.get_backend_name() == "sqlite" and database.database:
        file = Path(database.database)
        places.append(("database", file, file.with_name(f"{file.name}.lock"), "SECATEUR_DATABASE_URL"))
    with contextlib.ExitStack() as held:
        for what, place, lock, setting in places:
            try:
                settings.data_dir.mkdir(parents=True, exist_ok=True)
                holder = held.enter_context(only_server(lock))
            except OSError as error:
                raise CannotStartError(f"{lock} cannot be written: {error.strerror}; choose another folder") from error
            if holder is not None:
                other = f"the server with process id {holder}" if holder else "another server"
                raise CannotStartError(
                    f"{other} has the {what} {place} already; end it, or give this one its own ({setting}). Several "
                    "servers share jobs through one PostgreSQL (SECATEUR_DATABASE_URL), each with its own data folder"
                )
        yield


def _open_job_store(settings: Settings) -> SqlJobStore:
    """Open the store and bring its schema up to date."""
    try:
        _close_to_others(settings)
        store = open_job_store(settings.database_url)
        newer = store.migrate()
    except (OSError, ValueError, TransientError) as error:
        raise CannotStartError(f"the job store cannot be opened: {error}{_cause(error)}") from error
    if newer is not None:
        _log.warning("the job store has the schema of a newer release, which this one may use", revision=newer)
    return store


async def _require_destination(destination: str, check: Callable[[], None]) -> None:
    """Refuse to start where results cannot be written by default; a store that does not answer may do so later."""
    trying = asyncio.create_task(asyncio.to_thread(check))
    await asyncio.wait({trying}, timeout=_FIRST_TRY_SECONDS)
    try:
        if trying.done():
            trying.result()
        else:
            trying.add_done_callback(lambda task: task.exception())  # tried again soon
    except PermanentError as error:
        problem = f"results cannot be written to {destination}: {error.message}{_cause(error)}"
        raise CannotStartError(f"{problem}; or set SECATEUR_DESTINATIONS") from error
    except (ResourceError, TransientError) as error:
        _log.warning("results cannot be written at the moment", problem=error.message, reason=error.reason)


def _close_to_others(settings: Settings) -> None:
    """Revoke other users' access to files that earlier releases left open; warn where this user may not change it.

    Raises:
        CannotStartError: others may write the files that decide who may call.
    """
    slots = sorted(slot_lock(settings.data_dir, 0).parent.glob("*"))
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


def _cause(error: Exception) -> str:
    """The library's own message, for whoever starts the server; clients only get ours."""
    return f" ({redact_text(' '.join(str(error.__cause__).split()))})" if error.__cause__ is not None else ""


def _api_server(
    settings: Settings, store: SqlJobStore, metrics: Metrics, dispatcher: Dispatcher, inspections: InspectionPool
) -> ApiServer:
    try:
        return ApiServer(
            settings,
            store,
            metrics,
            admit=inspections.admit,
            describe=inspections.support,
            open_results=partial(_open_results, settings=settings, metrics=metrics),
            subscribers=[partial(_wake, dispatcher)],
        )
    except UnusableFileError as error:
        raise CannotStartError(str(error)) from error


def _presence(settings: Settings, store: SqlJobStore) -> Presence | None:
    """What announces this server; None for one without slots. Looks for accelerators, which can take seconds."""
    if not settings.devices:
        return None
    slots = Slots.of(settings.data_dir, settings.devices, settings.worker_threads)
    record = AgentRecord(
        id=_owner(),
        node=socket.gethostname(),
        version=__version__,
        slots=len(settings.devices),
        busy=0,
        capacity=slots.capacity(),
    )
    return Presence(store.agents, record)


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _dispatcher(
    settings: Settings, store: JobQueue, executor: Executor, metrics: Metrics, presence: Presence | None
) -> Dispatcher:
    return Dispatcher(
        store,
        executor,
        owner=_owner(),
        lease_seconds=settings.lease_seconds,
        start_seconds=settings.start_seconds,
        poll_seconds=settings.poll_seconds,
        drain_seconds=settings.drain_seconds,
        cancel_grace_seconds=settings.cancel_grace_seconds,
        stall_seconds=settings.stall_seconds,
        backoff=Backoff(settings.retry_base_seconds, settings.retry_max_seconds),
        on_fenced=metrics.fenced_writes.inc,
        presence=presence,
        models=Cache(settings.cache_dir).models,
    )


def _janitor(settings: Settings, store: SqlJobStore, folders: WorkFolders, metrics: Metrics) -> Janitor:
    return Janitor(
        store,
        store.retention,
        folders,
        lambda job: _open_results(job.destination or settings.destinations[0], settings, metrics),
        leftovers_seconds=settings.leftovers_retention_seconds,
        jobs_seconds=settings.job_retention_seconds,
        pause_seconds=settings.cleaning_seconds,
        on_round=metrics.count_removed,
        agents=store.agents,
    )


def _open_results(destination: str, settings: Settings, metrics: Metrics) -> ObjectStore:
    return InstrumentedStore(open_store(destination, settings.account_of(destination)), metrics)


def _wake(dispatcher: Dispatcher, events: Sequence[Event]) -> None:
    """Wake the dispatcher when there is something to start or stop."""
    wanted = (JobState.QUEUED, JobState.CANCELLING)
    if any(event.kind is EventKind.STATE and JobState(event.body["state"]) in wanted for event in events):
        dispatcher.wake()


def _end_on_signals() -> asyncio.Event:
    """An event set by the first SIGTERM or SIGINT; the second has its default effect."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    return ended


@contextlib.asynccontextmanager
async def _inspecting(inspections: InspectionPool) -> AsyncIterator[None]:
    inspections.open()
    try:
        yield
    finally:
        await inspections.close()


@contextlib.asynccontextmanager
async def _serving(server: ApiServer) -> AsyncIterator[None]:
    try:
        try:
            await server.start()
        except OSError as error:
            raise CannotStartError(str(error)) from error
        yield
    finally:
        await server.stop(grace_seconds=_LAST_CALLS_SECONDS)


@contextlib.asynccontextmanager
async def _metrics_server(settings: Settings, metrics: Metrics) -> AsyncIterator[str]:
    """Serve the metrics; yields the address, empty if they are turned off."""
    if not settings.metrics_listen:
        yield ""
        return
    host, _, port = settings.metrics_listen.rpartition(":")
    try:
        server = MetricsServer.start(metrics.registry, host.removeprefix("[").removesuffix("]"), int(port))
    except OSError as error:
        raise CannotStartError(f"cannot listen on {settings.metrics_listen} for Prometheus: {error}") from error
    try:
        yield server.address
    finally:
        await asyncio.to_thread(server.stop)


@contextlib.contextmanager
def _ready_file(path: Path | None, addresses: Mapping[str, str]) -> Iterator[None]:
    """Keep the addresses in a file while the server answers."""
    if path is None:
        yield
        return
    try:
        write_durably(path.absolute(), json.dumps({**addresses, "pid": os.getpid()}).encode())
    except OSError as error:
        raise CannotStartError(f"the ready file cannot be written: {error}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
