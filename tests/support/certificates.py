"""Certificates for tests, made by the command `openssl`."""

from __future__ import annotations

import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from support.waiting import HANG_SECONDS

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path

    @property
    def expires(self) -> int:
        """Unix time of the end, as `openssl` tells it."""
        shown = _openssl("x509", "-in", str(self.certificate), "-noout", "-enddate")
        return int(ssl.cert_time_to_seconds(shown.strip().removeprefix("notAfter=")))

    def replace(self, other: Pair) -> None:
        """Put another pair into our files, as whoever renews certificates does: whole files, one after the other."""
        for old, new in ((self.certificate, other.certificate), (self.key, other.key)):
            put(old, new.read_bytes())


def put(path: Path, content: bytes) -> None:
    """Replace a file as a whole."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    fresh.replace(path)


class Authority:
    """Issues certificates for localhost."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self.pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        _openssl("req", "-x509", *_CURVE, "-subj", f"/CN={name}", "-days", "30", *_outputs(self.pair))
        self.certificate = self.pair.certificate

    def issue(self, name: str, *, days: int = 30, hosts: str = "DNS:localhost,IP:127.0.0.1") -> Pair:
        """A certificate of the common name given; expired with negative days."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
        extensions.write_text(f"basicConstraints=critical,CA:FALSE\nsubjectAltName={hosts}\n")
        _openssl("req", "-new", *_CURVE, "-subj", f"/CN={name}", "-keyout", str(pair.key), "-out", str(request))
        signer = ("-CA", str(self.certificate), "-CAkey", str(self.pair.key), "-CAcreateserial")
        output = ("-days", str(days), "-extfile", str(extensions), "-out", str(pair.certificate))
        _openssl("x509", "-req", "-in", str(request), *signer, *output)
        return pair


def encrypted(pair: Pair) -> Path:
    """The key of a pair, protected by a passphrase."""
    path = pair.key.with_suffix(".encrypted")
    _openssl("pkey", "-in", str(pair.key), "-aes256", "-passout", "pass:secret", "-out", str(path))
    return path


def served_name(address: str) -> str:
    """The common name of the certificate that a new connection gets."""
    host, _, port = address.rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)), timeout=HANG_SECONDS)
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-subject"], input=pem, capture_output=True, text=True, check=True
    ).stdout
    return shown.strip().rpartition("=")[2].strip()


def _outputs(pair: Pair) -> tuple[str, ...]:
    return "-keyout", str(pair.key), "-out", str(pair.certificate)


def _openssl(*arguments: str) -> str:
    return subprocess.run(
        ["openssl", *arguments], capture_output=True, text=True, check=True, timeout=HANG_SECONDS
    ).stdout
