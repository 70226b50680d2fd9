"""A proxy in front of an object store that misbehaves as told."""

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from urllib.parse import urlsplit

from servers import http_server
from support.waiting import HANG_SECONDS

DELAY_SECONDS = 1.0
FAULTS = (
    "delay",  # before the answer
    "unavailable",  # 503, and the store does not hear of it
    "reset",  # in the middle of the request's body
    "lose reply",  # the store has done what was asked, and nobody learns it
    "truncate",  # the answer breaks off in the middle
)


class Proxy:
    """Passes requests on to `endpoint`; a share of them meet one of the faults that are in force.

    Attributes:
        endpoint: where the proxy is.
        met: how often each fault happened.
    """

    def __init__(self, endpoint):
        self._target = urlsplit(endpoint).netloc
        self._lock = threading.Lock()
        self._rng = random.Random(0)
        self._faults, self._share = (), 0.0
        self.met = dict.fromkeys(FAULTS, 0)

    def misbehave(self, *faults, share=1.0):
        """Put faults in force, all of them where none is named."""
        with self._lock:
            self._faults, self._share = faults or FAULTS, share

    def behave(self):
        with self._lock:
            self._share = 0.0

    def answer(self, request):
        fault = self._choose()
        length = int(request.headers.get("Content-Length", 0))
        if fault == "reset":
            request.rfile.read(length // 2)
            return _break_off(request)
        body = request.rfile.read(length)
        if fault == "unavailable":
            content = b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"
            return _send(request, 503, [("Content-Length", str(len(content)))], content)
        if fault == "delay":
            time.sleep(DELAY_SECONDS)
        status, headers, content = self._pass_on(request, body)
        if fault == "lose reply":
            return _break_off(request)
        if fault == "truncate":
            content = content[: len(content) // 2]
            request.close_connection = True
        return _send(request, status, headers, content)

    def _choose(self):
        with self._lock:
            if self._rng.random() >= self._share:
                return None
            fault = self._rng.choice(self._faults)
            self.met[fault] += 1
            return fault

    def _pass_on(self, request, body):
        connection = http.client.HTTPConnection(self._target, timeout=HANG_SECONDS)
        try:
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            content = response.read()
        except OSError:
            return 503, [("Content-Length", "0")], b""
        finally:
            connection.close()
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _OF_THE_CONNECTION]
        if request.command != "HEAD":
            headers.append(("Content-Length", str(len(content))))
        else:
            headers.append(("Content-Length", response.getheader("Content-Length", "0")))
        return response.status, headers, content


_OF_THE_CONNECTION = {"connection", "transfer-encoding", "content-length", "date", "server"}


@contextlib.contextmanager
def proxy_of(endpoint):
    """A running proxy."""
    proxy = Proxy(endpoint)
    with http_server(proxy.answer) as proxy.endpoint:
        yield proxy


def _send(request, status, headers, content):
    request.send_response(status)
    for name, value in headers:
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(content)


def _break_off(request):
    """Close with a reset instead of an orderly end."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.close()
