"""How to connect: turns an endpoint into a gRPC target with credentials, options and a retry policy."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from secateur._config import ClientConfig
from secateur._errors import ConfigError
from secateur._redaction import protect

_MAX_ANSWER_BYTES = 64 * 2**20
_TARGET = re.compile(r"(dns|unix|unix-abstract|ipv4|ipv6|xds|vsock):")
_ASKING_SECONDS = 2.0
_PORT = re.compile(r":[0-9]{1,5}$")


@dataclass(frozen=True)
class Connection:
    """What is needed to create a channel.

    Attributes:
        target: gRPC's name for the service.
        credentials: TLS credentials; None for an unencrypted connection.
        options: Channel arguments.
        metadata: Metadata sent with every call.
        local: Whether the service is on this machine, judging by the endpoint.
        speaks_tls: Asks the addresses of an unencrypted connection whether one speaks TLS; None for other connections.
    """

    target: str
    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, Any], ...]
    metadata: tuple[tuple[str, str], ...]
    local: bool
    speaks_tls: Callable[[], bool] | None = None


def connection(config: ClientConfig) -> Connection:
    """How to reach the service that a configuration names.

    Raises:
        ConfigError: the endpoint or a certificate cannot be used, or the token would be sent unencrypted.
    """
    tls, address = _scheme(config.endpoint)
    target = _target(address, config.endpoint)
    local = _is_local(address)
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", service_config(balanced=target != address or _TARGET.match(address) is not None)),
        ("grpc.enable_retries", 0),  # `_flow.call` repeats, as it tells why a connection failed
        ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
        # A watch notices a dead peer by pings, and reconnects soon after the service is back.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.enable_http_proxy", 0 if local else 1),
    ]
    metadata: tuple[tuple[str, str], ...] = ()
    if config.token is not None:
        if not tls and not local:
            raise ConfigError(
                f"a token would be sent to {address} in the clear; use https://, or leave the token out where "
                "something in between authenticates"
            )
        token = config.token.strip()
        if not re.fullmatch(r"[!-~]+", token):
            raise ConfigError("the token is empty or holds characters that no token has; was it cut or quoted?")
        protect([token])
        metadata = (("authorization", f"Bearer {token}"),)
    places = tuple(_places(address))
    return Connection(
        target,
        _credentials(config) if tls else None,
        tuple(options),
        metadata,
        local,
        None if tls or not places else lambda: any(_speaks_tls(host, port) for host, port in places),
    )


def certificate_names(config: ClientConfig) -> tuple[str, ...]:
    """The names and addresses in the certificate of the service, if a trusted authority issued it.

    Asks the service, which gRPC does not tell them of; empty if it cannot be asked.
    """
    host, _, port = _scheme(config.endpoint)[1].rpartition(":")
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        if config.certificate_file is not None:
            context.load_cert_chain(config.certificate_file, config.key_file, password="")
        address = host.strip("[]"), int(port)
        with (
            socket.create_connection(address, timeout=_ASKING_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=address[0]) as connected,
        ):
            certificate = connected.getpeercert() or {}
    except (OSError, ValueError):
        return ()
    entries: Any = certificate.get("subjectAltName", ())
    return tuple(name for _, name in entries)


def _places(address: str) -> Iterator[tuple[str, int]]:
    """Hosts and ports of an address; none of one that is no name or address of the internet."""
    if address.startswith(("unix", "xds:", "vsock:")):
        return
    for part in _listed(address):
        host, _, port = part.strip().rpartition(":")
        if host and port.isdecimal():
            yield host.strip("[]"), int(port)


def _speaks_tls(host: str, port: int) -> bool:
    """Whether an address of a host completes a TLS handshake, whatever its certificate: nothing is sent to it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, place in addresses:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as plain:
            plain.settimeout(_ASKING_SECONDS)
            plain.connect(place)
            with context.wrap_socket(plain, server_hostname=host):
                return True
    return False


def service_config(*, balanced: bool) -> str:
    """`balanced` spreads calls over all addresses instead of staying with the first that answers."""
    return json.dumps({"loadBalancingConfig": [{"round_robin" if balanced else "pick_first": {}}]})


def _scheme(endpoint: str) -> tuple[bool, str]:
    """Whether TLS is wanted, and the address without its scheme."""
    scheme, separator, rest = endpoint.strip().partition("://")
    if separator and scheme in ("http", "https") and rest:
        return scheme == "https", rest.rstrip("/")
    return False, endpoint.strip()


def _target(address: str, endpoint: str) -> str:
    if "@" in address and not address.startswith("unix"):
        raise ConfigError("the endpoint holds a user or a password, which nobody reads; leave it out, and use token")
    if _TARGET.match(address):
        return address
    parts = [part.strip() for part in address.split(",")]
    if not all(_PORT.search(part) and "/" not in part for part in parts):
        raise ConfigError(
            f"{endpoint!r} is not an endpoint; expected host:port, e.g. localhost:50051, or https://host:443"
        )
    if len(parts) == 1:
        return address
    hosts = [_ip_address(part) for part in parts]
    versions = {host.version for host in hosts if host is not None}
    if None in hosts or len(versions) != 1:
        raise ConfigError(
            f"{endpoint!r} lists addresses that are not all IPv4 or all IPv6; for host names use one name that "
            "resolves to all replicas, dns:///name:port"
        )
    ports = [part.rpartition(":")[2] for part in parts]
    family = versions.pop()
    shown = [f"[{host}]" if family == 6 else str(host) for host in hosts]
    return f"ipv{family}:" + ",".join(f"{host}:{port}" for host, port in zip(shown, ports, strict=True))


def _ip_address(part: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    host = part.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return None


def _is_local(address: str) -> bool:
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    hosts: Sequence[Any] = [_ip_address(part) for part in _listed(address)]
    return all(host is not None and host.is_loopback for host in hosts)


def _listed(address: str) -> list[str]:
    """The parts of an address, `HOST:PORT` each."""
    return re.sub(r"^(dns:(//[^/]*/)?|ipv4:|ipv6:)", "", address).split(",")


def _credentials(config: ClientConfig) -> grpc.ChannelCredentials:
    authorities = None if config.ca_file is None else _authorities(config.ca_file)
    key, chain = _own_certificate(config)
    return grpc.ssl_channel_credentials(authorities, key, chain)


def _authorities(name: str) -> bytes:
    content = _content("ca_file", name)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"ca_file {name} holds no certificate; name a PEM file with the authorities that vouch for the service"
        ) from error
    return content


def _own_certificate(config: ClientConfig) -> tuple[bytes | None, bytes | None]:
    """Key and chain of our own certificate; None for both if there is none."""
    certificate, key = config.certificate_file, config.key_file
    if certificate is None and key is None:
        return None, None
    if certificate is None or key is None:
        raise ConfigError("certificate_file and key_file belong together; set both or none")
    contents = _content("key_file", key), _content("certificate_file", certificate)
    try:
        # An empty passphrase keeps OpenSSL from asking for one at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"certificate_file {certificate} and key_file {key} cannot be used; name PEM files of a certificate and of "
            "its own private key, without a passphrase"
        ) from error
    return contents


def _content(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {name} {path}: {error.strerror}") from error
