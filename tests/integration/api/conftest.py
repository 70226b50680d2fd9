"""A real gRPC server on a free port over a real SQLite store; the tests play the workers by calling the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from secateur.v1 import prune_service_pb2_grpc as service_grpc
from secateur_service.api.server import ApiServer
from secateur_service.artifacts.directory import DirectoryStore
from secateur_service.jobs.store import open_job_store
from secateur_service.metrics.registry import Metrics
from secateur_service.models.support import Support, support_of
from secateur_service.settings import Settings
from secateur_service.spec import OutputSpec, parse_spec
from support.api import Admitted, Api, StartApi


@pytest.fixture
async def start_api(tmp_path: Path) -> AsyncIterator[StartApi]:
    """Starts servers with the settings given; `admit` replaces the admission, `credentials` are the client's."""
    async with AsyncExitStack() as stack:

        async def start(
            admit: Callable[[Mapping[str, Any]], Any] | None = None, credentials: Any = None, **overrides: Any
        ) -> Api:
            settings = Settings(**{"listen": "127.0.0.1:0", "data_dir": tmp_path, **overrides})

            def admit_by_rules(data: Mapping[str, Any]) -> Admitted:
                spec = parse_spec(data)
                return Admitted(spec.model_copy(update={"output": OutputSpec(destination=settings.destinations[0])}))

            async def admit_for(data: Mapping[str, Any], _caller: str) -> Any:
                return (admit or admit_by_rules)(data)

            async def describe(model_type: str, _caller: str) -> Support:
                return support_of(model_type)

            store = open_job_store(settings.database_url)
            stack.callback(store.close)
            store.migrate()
            metrics = Metrics(CollectorRegistry(), version="1.2.3")
            server = ApiServer(
                settings,
                store,
                metrics,
                admit=admit_for,
                describe=describe,
                open_results=lambda uri: DirectoryStore(Path(uri.removeprefix("file://"))),
            )
            await server.start()
            stack.push_async_callback(server.stop, grace_seconds=0)
            channel = (
                grpc.aio.insecure_channel(server.address)
                if credentials is None
                else grpc.aio.secure_channel(server.address, credentials)
            )
            await stack.enter_async_context(channel)
            return Api(server, store, settings, metrics, service_grpc.PruneServiceStub(channel), channel)

        yield start


@pytest.fixture
async def api(start_api: StartApi) -> Api:
    """A server with the default settings."""
    return await start_api()
