"""The HTTP server that Prometheus scrapes, on its own port; no client can exhaust or block it.

It allows few connections at a time, each for a few seconds. One too many replaces the oldest: a scrape takes
milliseconds, so a connection that has lasted long is not a scrape.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

MAX_CONNECTIONS = 16
CONNECTION_SECONDS = 10.0
_LOOK_SECONDS = 0.5


class _Handler(WSGIRequestHandler):
    """Logs nothing, and waits no longer than a connection may last."""

    timeout = CONNECTION_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the caller's name for it
        """Log nothing: strangers can send anything."""


class ScrapeServer(ThreadingMixIn, WSGIServer):
    """One thread per connection, at most `MAX_CONNECTIONS` of them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, *arguments: Any) -> None:
        self._began: OrderedDict[socket.socket, float] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__(*arguments)

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._began)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; if there are too many connections, close the oldest."""
        with self._lock:
            self._began[request] = self.clock()
            if len(self._began) > MAX_CONNECTIONS:
                self._cut(next(iter(self._began)))
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._began.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections that have lasted too long; called every `_LOOK_SECONDS`."""
        with self._lock:
            while self._began:
                oldest, began = next(iter(self._began.items()))
                if self.clock() - began < CONNECTION_SECONDS:
                    return
                self._cut(oldest)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: the client is gone, or was cut off."""

    def _cut(self, connection: socket.socket) -> None:
        """Shut a connection down; its thread notices and closes it."""
        del self._began[connection]
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class _ScrapeServer6(ScrapeServer):
    address_family = socket.AF_INET6


@dataclass(frozen=True)
class MetricsServer:
    """Serves the figures of a registry."""

    address: str
    _server: ScrapeServer
    _thread: threading.Thread

    @classmethod
    def start(cls, registry: CollectorRegistry, host: str, port: int) -> Self:
        """Start listening; port 0 picks a free port.

        Raises:
            OSError: the address cannot be bound.
        """
        kind = _ScrapeServer6 if _is_six(host) else ScrapeServer
        server = make_server(host, port, make_wsgi_app(registry), kind, handler_class=_Handler)
        thread = threading.Thread(target=server.serve_forever, args=(_LOOK_SECONDS,), name="metrics", daemon=True)
        thread.start()
        shown = f"[{host}]" if ":" in host else host
        return cls(f"{shown}:{server.server_port}", server, thread)

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return self._server.connections

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _is_six(host: str) -> bool:
    """Whether a host's first address is an IPv6 address."""
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return socket.getaddrinfo(host, None)[0][0] is socket.AF_INET6
