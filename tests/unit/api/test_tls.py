"""Which files are a certificate, and what is said of those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from secateur_service.api.reloading import UnusableFileError
from secateur_service.api.tls import read_certificate
from support.certificates import Authority, encrypted


def test_a_pair_is_read_with_the_time_of_its_expiry(authority: Authority):
    pair = authority.issue("server")
    read = read_certificate(pair.certificate, pair.key, authority.certificate)
    assert read.expires == pair.expires
    assert (read.chain, read.key) == (pair.certificate.read_bytes(), pair.key.read_bytes())
    assert read.client_ca == authority.certificate.read_bytes()
    assert "PRIVATE" not in repr(read)


def test_the_expiry_is_that_of_the_servers_certificate_and_not_of_its_authority(authority: Authority):
    pair = authority.issue("server", days=3)
    chain = pair.certificate.with_name("chain.pem")
    chain.write_bytes(pair.certificate.read_bytes() + authority.certificate.read_bytes())
    assert read_certificate(chain, pair.key, None).expires == pair.expires


def test_an_expired_certificate_is_used_and_warned_of(authority: Authority):
    pair = authority.issue("old", days=-1)
    with capture_logs() as lines:
        read_certificate(pair.certificate, pair.key, None)
    [line] = lines
    assert line["log_level"] == "warning"
    assert line["tls_certificate"] == str(pair.certificate)


@pytest.mark.parametrize(
    ("fault", "setting", "remedy"),
    [
        ("no certificate file", "tls_certificate", "cannot be read: No such file"),
        ("no key file", "tls_key", "cannot be read: No such file"),
        ("no authority file", "tls_client_ca", "cannot be read: No such file"),
        ("a folder", "tls_key", "cannot be read: Is a directory"),
        ("an empty certificate", "tls_certificate", "begins with the server's own"),
        ("a key as certificate", "tls_certificate", "begins with the server's own"),
        ("a certificate as key", "tls_key", "of its private key"),
        ("another key", "tls_key", "the pair that was issued together"),
        ("a passphrase", "tls_key", "openssl pkey"),
        ("rubbish as authority", "tls_client_ca", "authorities of clients' certificates"),
        ("a key as authority", "tls_client_ca", "authorities of clients' certificates"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line_with_setting_and_remedy(
    authority: Authority, tmp_path: Path, fault: str, setting: str, remedy: str
):
    pair, other = authority.issue("server"), authority.issue("other")
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"\xff\xfe rubbish")
    empty = tmp_path / "empty"
    empty.touch()
    certificate, key, client_ca = {
        "no certificate file": (tmp_path / "none", pair.key, None),
        "no key file": (pair.certificate, tmp_path / "none", None),
        "no authority file": (pair.certificate, pair.key, tmp_path / "none"),
        "a folder": (pair.certificate, tmp_path, None),
        "an empty certificate": (empty, pair.key, None),
        "a key as certificate": (pair.key, pair.key, None),
        "a certificate as key": (pair.certificate, pair.certificate, None),
        "another key": (pair.certificate, other.key, None),
        "a passphrase": (pair.certificate, encrypted(pair), None),
        "rubbish as authority": (pair.certificate, pair.key, rubbish),
        "a key as authority": (pair.certificate, pair.key, pair.key),
    }[fault]
    with pytest.raises(UnusableFileError) as caught:
        read_certificate(certificate, key, client_ca)
    message = str(caught.value)
    assert setting in message
    assert remedy in message
    assert "\n" not in message
