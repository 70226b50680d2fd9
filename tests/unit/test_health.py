"""`python -m secateur_service.health` against a real health service."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from secateur_service.health import main

SERVICE = "secateur.v1.PruneService"
Status = health_pb2.HealthCheckResponse


@pytest.fixture
def server() -> Iterator[tuple[str, health.HealthServicer]]:
    servicer = health.HealthServicer()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", servicer
    server.stop(None).wait()


def test_a_server_that_drains_is_alive_and_takes_no_calls(server, capsys: pytest.CaptureFixture[str]):
    address, servicer = server
    servicer.set(SERVICE, Status.SERVING)
    assert main(["--address", address]) == 0
    assert main(["--address", address, "--service", SERVICE]) == 0
    servicer.set(SERVICE, Status.NOT_SERVING)
    assert main(["--address", address]) == 0
    assert main(["--address", address, "--service", SERVICE]) == 1
    assert capsys.readouterr().out.split() == ["SERVING", "SERVING", "SERVING", "NOT_SERVING"]


def test_a_service_that_is_not_there_is_not_well(server, capsys: pytest.CaptureFixture[str]):
    assert main(["--address", server[0], "--service", "other"]) == 1
    assert "NOT_FOUND" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_not_well(capsys: pytest.CaptureFixture[str]):
    assert main(["--address", "127.0.0.1:1", "--timeout", "2"]) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err
