"""What the client finds out about an endpoint that does not speak as it does."""

import asyncio
from concurrent import futures

import grpc
import pytest

import secateur
from secateur._channel import connection
from secateur._config import load_config


@pytest.fixture
def encrypted(authority):
    """The port of a server with TLS, on 127.0.0.1 only: of the addresses of `localhost`, one refuses."""
    pair = authority.issue("encrypted")
    server = grpc.server(futures.ThreadPoolExecutor(1))
    credentials = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.certificate.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield port
    server.stop(None).wait()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "dns:///localhost"])
def test_a_service_with_tls_is_told_as_that_where_the_endpoint_has_no_https(encrypted, host):
    with (
        secateur.Client(f"{host}:{encrypted}") as client,
        pytest.raises(secateur.ProtocolError, match="speaks TLS; use https://HOST:PORT"),
    ):
        client.info()


def test_the_asynchronous_client_and_a_watch_find_it_too(encrypted):
    async def watched():
        async with secateur.AsyncClient(f"127.0.0.1:{encrypted}") as client:
            await anext(client.job("j").watch())

    with pytest.raises(secateur.ProtocolError, match="speaks TLS"):
        asyncio.run(watched())


def test_only_addresses_that_may_speak_tls_are_asked(encrypted):
    def question(endpoint):
        return connection(load_config({"endpoint": endpoint})).speaks_tls

    assert question(f"127.0.0.1:1,127.0.0.1:{encrypted}")()
    assert not question("127.0.0.1:1")()
    assert not question("[::1]:1")()
    assert question(f"https://127.0.0.1:{encrypted}") is None
    assert question("unix:/run/secateur") is None
