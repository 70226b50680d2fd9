"""The server's certificate: read from PEM files, checked before use, replaced without a restart.

gRPC asks for the certificate at every new connection, so the next caller gets a replaced one while open calls go on.
Faults that gRPC would refuse silently (the key of another certificate, a file that is not PEM) are found here, by
OpenSSL.
"""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import grpc
import structlog

from secateur_service.api.reloading import Reloading, UnusableFileError
from secateur_service.settings import Settings

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, in the form that gRPC takes.

    Attributes:
        chain: The server's certificate and those between it and its authority, PEM.
        key: Its private key, PEM.
        client_ca: The authorities of clients' certificates, PEM; None if clients need no certificate.
        expires: When the server's certificate expires, as Unix time.
    """

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    expires: float

    def configuration(self) -> Any:
        """The certificate in gRPC's own type."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)], root_certificates=self.client_ca)


class Certificates:
    """The certificate that new connections get; follows its files if `look` is called regularly."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """Read the files.

        Raises:
            UnusableFileError: one cannot be read, or they do not belong together.
        """
        paths = [certificate, key] + ([] if client_ca is None else [client_ca])
        self._source = Reloading(paths, lambda: read_certificate(certificate, key, client_ca))
        self._mutual = client_ca is not None
        self._given = self._source.value
        self.look = self._source.look

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The certificates that the settings name; None if they name none.

        Raises:
            UnusableFileError: one cannot be read, or they do not belong together.
        """
        if settings.tls_certificate is None or settings.tls_key is None:
            return None
        return cls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)

    @property
    def expires(self) -> float:
        """When the certificate that new connections get expires, as Unix time."""
        return self._source.value.expires

    def credentials(self) -> Any:
        """Server credentials that follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._given.configuration(), self._configuration_if_new, require_client_authentication=self._mutual
        )

    def _configuration_if_new(self) -> Any:
        """Called by gRPC at every connection; None keeps the current configuration."""
        current = self._source.value
        if current is self._given:
            return None
        self._given = current
        return current.configuration()


def read_certificate(certificate: Path, key: Path, client_ca: Path | None) -> Certificate:
    """Read and check the files of a certificate.

    Raises:
        UnusableFileError: one cannot be read, is not a PEM file, or they do not belong together.
    """
    chain, secret = _content("tls_certificate", certificate), _content("tls_key", key)
    authorities = None if client_ca is None else _content("tls_client_ca", client_ca)
    expires = _expiry(certificate)
    _check_pair(certificate, key, secret)
    if authorities is not None:
        _check_authorities(client_ca, authorities)
    # OpenSSL read the files by name: its findings hold for our copies only if the files have not changed.
    if (chain, secret) != (_content("tls_certificate", certificate), _content("tls_key", key)):
        raise UnusableFileError(f"tls_certificate {certificate} or tls_key {key} changed while they were read")
    if expires <= time.time():
        _log.warning(
            "the certificate has expired: clients will refuse it; renew it",
            tls_certificate=str(certificate),
            expired=datetime.fromtimestamp(expires, UTC).isoformat(),
        )
    return Certificate(chain, secret, authorities, expires)


def _content(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableFileError(
            f"{setting} {path} cannot be read: {error.strerror}; name a PEM file that this user may read"
        ) from error


def _expiry(path: Path) -> float:
    """When the first certificate of a file expires, as Unix time."""
    try:
        # The only way to read a certificate's dates in the standard library; ssl itself gives them only for peers.
        decoded = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]
        return float(ssl.cert_time_to_seconds(decoded["notAfter"]))
    except (ssl.SSLError, OSError, ValueError, KeyError) as error:
        raise UnusableFileError(
            f"tls_certificate {path} is not a certificate: name a PEM file that begins with the server's own "
            "certificate, then those between it and its authority"
        ) from error


def _check_pair(certificate: Path, key: Path, secret: bytes) -> None:
    if b"ENCRYPTED" in secret:
        raise UnusableFileError(
            f"tls_key {key} is protected by a passphrase, which a server cannot type; decrypt it with: "
            "openssl pkey -in FILE -out NEW"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UnusableFileError(
                f"tls_key {key} is not the key of tls_certificate {certificate}: name the pair that was issued together"
            ) from error
        raise UnusableFileError(
            f"tls_certificate {certificate} and tls_key {key} cannot be used ({error.reason or error}); "
            "name PEM files of a certificate and of its private key"
        ) from error
    except OSError as error:
        raise UnusableFileError(f"tls_key {key} cannot be read: {error.strerror}") from error


def _check_authorities(path: Path | None, content: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise UnusableFileError(
            f"tls_client_ca {path} holds no certificate: name a PEM file with the authorities of clients' certificates"
        ) from error
