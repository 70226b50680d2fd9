"""The port that Prometheus scrapes, and who holds its connections."""

from __future__ import annotations

import contextlib
import socket
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from secateur_service.metrics import scrapes
from secateur_service.metrics.scrapes import MetricsServer

PATIENCE = 60


class Site:
    """A server, and a clock that the test moves."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        Gauge("figure", "One.", registry=registry).set(1)
        self.server = MetricsServer.start(registry, "127.0.0.1", 0)
        self.now = 1000.0
        self.server._server.clock = lambda: self.now
        self.host, _, port = self.server.address.rpartition(":")
        self.port = int(port)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=PATIENCE)

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://{self.server.address}/metrics", timeout=PATIENCE) as answer:
            return answer.read().decode()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.stop()


@pytest.mark.parametrize("beginning", [b"", b"GET /metrics HTTP/1.1\r\nX: ", b"\x16\x03\x01", b"\xff" * 100])
def test_whoever_holds_connections_shuts_no_scrape_out(site: Site, beginning: bytes):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(site.connect()) for _ in range(200)]
        for connection in held:
            with contextlib.suppress(OSError):  # it may have been sent away already
                connection.sendall(beginning)
        assert "figure 1.0" in site.scrape()
        assert site.server.connections <= scrapes.MAX_CONNECTIONS
        for connection in held[: 200 - scrapes.MAX_CONNECTIONS]:
            _read_to_the_end(connection)


def test_a_connection_ends_when_its_time_is_over_however_busy_it_is(site: Site):
    with site.connect() as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert "figure 1.0" in site.scrape()  # so it has been accepted
        site.now += scrapes.CONNECTION_SECONDS - 1
        slow.sendall(b"X: y\r\n")
        site.now += 1
        _read_to_the_end(slow)
    assert "figure 1.0" in site.scrape()


def _read_to_the_end(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4096):
            pass
