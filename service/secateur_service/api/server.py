"""The gRPC server: the API, health and reflection behind one interceptor, with limits and an orderly shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable, Sequence
from typing import Self

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from secateur.v1 import prune_service_pb2 as service_pb
from secateur.v1 import prune_service_pb2_grpc as service_grpc
from secateur_service import __version__
from secateur_service.api.follower import EventFollower, Subscriber
from secateur_service.api.interceptors import CallInterceptor
from secateur_service.api.published_results import PublishedResults
from secateur_service.api.servicer import Admit, Describe, PruneServicer
from secateur_service.api.thread_pool import ThreadPool
from secateur_service.api.tls import Certificates
from secateur_service.api.tokens import Tokens
from secateur_service.api.watch import JobWatcher, WatchHub
from secateur_service.artifacts.port import ObjectStore
from secateur_service.calibration.mixing import POLICIES
from secateur_service.calibration.presets import presets
from secateur_service.inspection.shares import Shares
from secateur_service.jobs.port import Jobs
from secateur_service.metrics.job_figures import JobFigures
from secateur_service.metrics.registry import Metrics
from secateur_service.models.architectures import ARCHITECTURES, WRAPPERS
from secateur_service.pruning.methods import METHODS, UPDATES
from secateur_service.settings import Settings
from secateur_service.spec import ALLOCATIONS, ORDERS

SERVICE = service_pb.DESCRIPTOR.services_by_name["PruneService"].full_name

_STORE_THREADS = 9  # one of them waits for changes in the store
_FILE_THREADS = 8
_WAITING_FOR_FILES = 256  # per caller
_MAX_METADATA_BYTES = 16 * 2**10
# As much as the SDK accepts; only reports come near it (80 blocks: about 0.2 MiB). Stock clients accept 4 MiB.
_MAX_ANSWER_BYTES = 64 * 2**20
# A new connection must complete its handshake within this time, TLS included.
_HANDSHAKE_MS = 10_000
# A connection without a call is closed after this time; the next call opens another.
_IDLE_MS = 600_000
# Descriptors reserved for the database, files and inspections.
_KEPT_DESCRIPTORS = 256
_KEEPALIVE_MS = 60_000
_KEEPALIVE_TIMEOUT_MS = 20_000
# Clients may ping every 20 s, with or without calls; the slack allows for their clocks.
_SHORTEST_PING_INTERVAL_MS = 15_000
# How often the certificate and token files are checked: a revoked token is refused within a second.
_LOOK_SECONDS = 0.5


class ApiServer:
    """Serves the API on one address. Belongs to the event loop in which it is created."""

    def __init__(
        self,
        settings: Settings,
        store: Jobs,
        metrics: Metrics,
        *,
        admit: Admit,
        describe: Describe,
        open_results: Callable[[str], ObjectStore],
        subscribers: Sequence[Subscriber] = (),
    ) -> None:
        """Prepare the server.

        Args:
            settings: addresses, limits, and the certificate and token files.
            store: the jobs.
            metrics: where calls, streams and jobs are counted.
            admit: checks and resolves a specification.
            describe: tells what is known of an architecture.
            open_results: opens a destination to read what was published there.
            subscribers: called in the event loop with every new event of the store; must be quick.

        Raises:
            UnusableFileError: certificates or tokens cannot be read.
        """
        self._certificates = Certificates.from_settings(settings)
        tokens = Tokens.from_settings(settings)
        self._looks = [source.look for source in (self._certificates, tokens) if source is not None]
        self._looking: asyncio.Task[None] | None = None
        if self._certificates is not None:
            certificates = self._certificates
            metrics.show_certificate_expiry(lambda: certificates.expires)
        self._store_pool = ThreadPool("store", threads=_STORE_THREADS)
        self._file_pool = ThreadPool("files", threads=_FILE_THREADS)
        self._hub = WatchHub(
            max_watchers=settings.max_watchers,
            gauge=metrics.watch_streams,
            max_per_caller=settings.max_watchers_per_caller,
        )
        self._figures = JobFigures(metrics, store)
        self._follower = EventFollower(
            store, self._store_pool, on_loop=[self._hub.notify, *subscribers], in_thread=[self._figures.consume]
        )
        self._health = health.aio.HealthServicer()
        self._listen = settings.listen
        self._server = grpc.aio.server(interceptors=[CallInterceptor(metrics, tokens)], options=_options(settings))
        servicer = PruneServicer(
            store=store,
            admit=admit,
            describe=describe,
            results=PublishedResults(open_results),
            watcher=JobWatcher(store, self._store_pool, self._hub, heartbeat_seconds=settings.watch_heartbeat_seconds),
            hub=self._hub,
            store_pool=self._store_pool,
            file_pool=self._file_pool,
            file_shares=Shares(
                "calls for results",
                slots=_FILE_THREADS,
                per_caller=_FILE_THREADS // 2,
                waiting_per_caller=_WAITING_FOR_FILES,
            ),
            info=describe_service(settings),
        )
        service_grpc.add_PruneServiceServicer_to_server(servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.address = ""

    async def start(self) -> Self:
        """Start serving; `address` is then the address, with the actual port if 0 was asked for.

        Raises:
            OSError: the address cannot be bound.
        """
        try:
            if self._certificates is None:
                port = self._server.add_insecure_port(self._listen)
            else:
                port = self._server.add_secure_port(self._listen, self._certificates.credentials())
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {self._listen}: it is in use, or not an address of this machine"
            ) from error
        host, separator, _ = self._listen.rpartition(":")
        self.address = self._listen if self._listen.startswith("unix:") else f"{host}{separator}{port}"
        await self._store_pool.call(self._figures.seed)
        await self._follower.start()
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        self._looking = asyncio.create_task(self._look_at_files())
        return self

    async def show_ready(self, ready: bool) -> None:  # noqa: FBT001 - what is shown
        """Report SERVING or NOT_SERVING; calls go on either way. Has no effect on a server that drains."""
        if not self._hub.draining:
            status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
            await self._health.set(SERVICE, status)

    async def drain(self) -> None:
        """Report NOT_SERVING, admit no new jobs or watches, and end open watches; other calls go on."""
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._hub.drain()

    async def stop(self, *, grace_seconds: float) -> None:
        """Accept no more calls, give open calls `grace_seconds` to end, then cancel them."""
        await self._server.stop(grace_seconds)
        await self._follower.stop()
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
        self._store_pool.close()
        self._file_pool.close()

    async def _look_at_files(self) -> None:
        """Follow the certificate and token files, outside the event loop because disks may hang."""
        while self._looks:
            await asyncio.sleep(_LOOK_SECONDS)
            for look in self._looks:
                await asyncio.to_thread(look)


def describe_service(settings: Settings) -> service_pb.ServiceInfo:
    """What this replica can do, as GetServiceInfo reports it."""
    return service_pb.ServiceInfo(
        version=__version__,
        methods=METHODS,
        updates=UPDATES,
        orders=ORDERS,
        policies=POLICIES,
        allocations=ALLOCATIONS,
        architectures=sorted({**ARCHITECTURES, **WRAPPERS}),
        devices=settings.devices,
        file_roots=[str(root) for root in settings.file_roots],
        destinations=settings.destinations,
        max_request_bytes=settings.max_request_bytes,
        presets=[
            service_pb.CorpusPreset(
                name=preset.name,
                title=preset.title,
                repository=preset.repository,
                license=preset.license,
                gated=preset.gated,
                verified=preset.verified,
                languages=preset.configurations,
            )
            for preset in presets().values()
        ],
    )


def max_connections() -> int:
    """How many connections to allow, so that answering calls never runs out of descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft - _KEPT_DESCRIPTORS) if soft > 2 * _KEPT_DESCRIPTORS else max(1, soft // 2)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        ("grpc.max_send_message_length", _MAX_ANSWER_BYTES),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        ("grpc.max_allowed_incoming_connections", max_connections()),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        # A reader that vanished silently is noticed within 80 seconds.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _SHORTEST_PING_INTERVAL_MS),
        # A second server on the same port must fail, not take half of the calls.
        ("grpc.so_reuseport", 0),
    ]
