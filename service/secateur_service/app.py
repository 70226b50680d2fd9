"""Wires up the server: settings → store, dispatcher, janitor, API, metrics; signals; orderly shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.engine import make_url

from secateur._redaction import protect, redact
from secateur_service import __version__, hosting
from secateur_service.admission.destinations import BELIEVED_SECONDS, DestinationCheck
from secateur_service.api.readiness import Readiness
from secateur_service.api.reloading import UnusableFileError
from secateur_service.api.server import ApiServer
from secateur_service.artifacts import InstrumentedStore, ObjectStore, open_store
from secateur_service.capacity.loop import CapacityLoop
from secateur_service.capacity.opening import open_provider
from secateur_service.capacity.plan import Offer
from secateur_service.capacity.port import Provider
from secateur_service.control.dispatcher import Dispatcher
from secateur_service.control.explainer import Explainer
from secateur_service.control.janitor import Janitor
from secateur_service.executors.local import LocalExecutor
from secateur_service.executors.locks import only_server
from secateur_service.executors.port import WorkFolders
from secateur_service.hosting import CannotStartError
from secateur_service.inspection import InspectionPool
from secateur_service.jobs.job import Event, EventKind
from secateur_service.jobs.states import JobState
from secateur_service.jobs.store import SqlJobStore
from secateur_service.metrics.registry import Metrics, StoreCollector
from secateur_service.metrics.scrapes import MetricsServer
from secateur_service.records.needs import SEEN_SECONDS, Capacity, largest
from secateur_service.settings import Settings
from secateur_service.telemetry.logging import configure_logging
from secateur_service.telemetry.tracing import exporting_spans

# For calls still open when the workers have stopped; watches have already been closed.
_LAST_CALLS_SECONDS = 2.0

# Enough for any realistic number of connections; more could cost kernel memory.
_DESCRIPTORS = 65_536

_log = structlog.get_logger(__name__)


def check(settings: Settings) -> Provider | None:
    """Refuse settings that no server can run with; returns what agents are asked of, if there is something.

    Raises:
        ValueError: other machines could reach the server although protection is missing, or what `capacity` needs is.
        CannotStartError: a file that `capacity` needs cannot be read.
    """
    settings.check_listen()
    try:
        return open_provider(settings)
    except OSError as error:
        raise CannotStartError(f"capacity is {settings.capacity}: {error}") from error
    except ValueError as error:
        raise ValueError(f"capacity is {settings.capacity}: {error}") from error


def run(settings: Settings, *, ready_file: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal ends the process at once.

    Args:
        settings: the server's settings.
        ready_file: file that holds the addresses while the server answers.

    Raises:
        ValueError: as for `check`.
        CannotStartError: an address cannot be bound, a folder or the destination of results cannot be written,
            certificates or tokens cannot be read, or there is no database.
    """
    provider = check(settings)
    protect(settings.secrets())
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    _raise_descriptor_limit()
    with exporting_spans():
        asyncio.run(_serve(settings, provider, ready_file))


async def _serve(settings: Settings, provider: Provider | None, ready_file: Path | None) -> None:
    _log.info("settings", version=__version__, **redact(settings.redacted()))
    hosting.tell_what_is_odd(settings)
    hosting.remove_ready_file(ready_file)
    _tell_who_reaches(settings)
    ended = hosting.end_on_signals()
    opening = partial(hosting.prepared_store, settings, SqlJobStore.migrate)
    with _alone(settings), contextlib.closing(await asyncio.to_thread(opening)) as store:
        metrics = Metrics(CollectorRegistry(), version=__version__)
        metrics.registry.register(StoreCollector(store, settings.data_dir))
        executor = LocalExecutor(settings)
        on_fenced = metrics.fenced_writes.inc
        dispatcher = await asyncio.to_thread(hosting.dispatcher_of, settings, store, executor, on_fenced=on_fenced)
        janitor = _janitor(settings, store, executor.folders, metrics)
        capacity = _capacity_loop(settings, provider, store, metrics)
        offered = _offered(settings)
        explainer = Explainer(store, offered)
        check = DestinationCheck.from_settings(settings, metrics).check
        await hosting.require_destination(settings.destinations[0], check)
        inspections = InspectionPool(settings, metrics, elsewhere=partial(_elsewhere, store, offered))
        server = _api_server(settings, store, metrics, dispatcher, inspections)
        async with _inspecting(inspections), _serving(server), _metrics_server(settings, metrics) as metrics_address:
            addresses = {"grpc": server.address, "metrics": metrics_address}
            _log.info("serving", pid=os.getpid(), **addresses)
            ready = Readiness(
                partial(check, settings.destinations[0]), server.show_ready, pause_seconds=BELIEVED_SECONDS
            )
            watching = asyncio.create_task(ready.watch())
            with hosting.ready_file(ready_file, addresses):
                dispatcher.start()
                janitor.start()
                explainer.start()
                if capacity is not None:
                    capacity.start()
                await ended.wait()
            watching.cancel()
            _log.info("draining", drain_seconds=settings.drain_seconds)
            await server.drain()
            await asyncio.to_thread(explainer.stop)
            await asyncio.to_thread(janitor.stop)
            if capacity is not None:
                await asyncio.to_thread(capacity.stop)
            await asyncio.to_thread(dispatcher.drain)
    _log.info("stopped")


def _raise_descriptor_limit() -> None:
    """Raise the soft limit on descriptors: every connection takes one, and shells allow 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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


def _capacity_loop(
    settings: Settings, provider: Provider | None, store: SqlJobStore, metrics: Metrics
) -> CapacityLoop | None:
    if provider is None:
        return None
    return CapacityLoop(
        store,
        provider,
        service=settings.capacity_name,
        owner=hosting.process_id(),
        classes=settings.capacity_classes,
        start_seconds=settings.start_seconds,
        on_round=metrics.show_capacity,
    )


def _offered(settings: Settings) -> dict[str, Capacity]:
    """What agents have that this service asks for, by class."""
    classes = settings.capacity_classes if settings.capacity != "none" else {}
    return {name: Offer.of(kind).capacity for name, kind in classes.items()}


def _elsewhere(store: SqlJobStore, offered: Mapping[str, Capacity]) -> list[Capacity]:
    """What a slot of every agent has, or would have."""
    there = [agent.capacity for agent in store.agents.seen(SEEN_SECONDS) if agent.slots]
    return largest([*there, *offered.values()])


def _open_results(destination: str, settings: Settings, metrics: Metrics) -> ObjectStore:
    return InstrumentedStore(open_store(destination, settings.account_of(destination)), metrics)


def _wake(dispatcher: Dispatcher, events: Sequence[Event]) -> None:
    """Wake the dispatcher when there is something to start or stop."""
    wanted = (JobState.QUEUED, JobState.CANCELLING)
    if any(event.kind is EventKind.STATE and JobState(event.body["state"]) in wanted for event in events):
        dispatcher.wake()


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
