"""A server with TLS and tokens on a public address, as operators run it, with the SDK and both command lines."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import secateur
from secateur.cli._app import app as client_command
from secateur_service.commands.main import app as service_command
from secateur_service.jobs.store import open_job_store
from support import processes
from support.certificates import Authority, put
from support.forking import forked_command, run_command
from support.jobs import new_job
from support.waiting import until

WRONG = "sct_" + "w" * 43


def tokens(file: Path, *arguments: str) -> Result:
    """Run `secateur-service tokens`."""
    return CliRunner().invoke(service_command, ["tokens", *arguments], env={"SECATEUR_TOKENS_FILE": str(file)})


class Site:
    """A server with both doors, who vouches for it, and a token for it."""

    def __init__(self, folder: Path, authority: Authority, **settings: str) -> None:
        self.folder = folder
        self.authority = authority
        self.pair = authority.issue("server")
        self.tokens_file = folder / "tokens.json"
        self.token = tokens(self.tokens_file, "create", "ci").stdout.strip()
        ready = folder / "ready.json"
        command = ["serve", "--listen", "0.0.0.0:0", "--metrics-listen", ""]
        command += ["--tls-certificate", str(self.pair.certificate), "--tls-key", str(self.pair.key)]
        command += ["--tokens-file", str(self.tokens_file), "--data-dir", str(folder / "data")]
        command += ["--ready-file", str(ready)]
        environment = {**os.environ, "SECATEUR_DEVICES": "", **settings}
        (folder / "log").touch()
        self.process = forked_command(command, environment=environment, errors=folder / "log")
        processes.await_ready(self.process, ready.exists, folder / "log")
        self.port = json.loads(ready.read_text())["grpc"].rpartition(":")[2]
        # Not localhost, which may be two addresses: gRPC then tells why it did not reach the second.
        self.url = f"https://127.0.0.1:{self.port}"
        self.store = open_job_store(f"sqlite:///{folder}/data/secateur.sqlite3")

    def close(self) -> None:
        self.store.close()
        self.process.kill()
        self.process.wait()

    def log(self) -> list[dict[str, Any]]:
        """The log, of which every line is JSON."""
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    def arguments(self, **given: Any) -> dict[str, Any]:
        """What a client is made with."""
        return {"endpoint": self.url, "ca_file": str(self.authority.certificate), "token": self.token, **given}

    def secateur(self, *arguments: str, **variables: str) -> Result:
        """Run the SDK's command line."""
        shown = {"ENDPOINT": self.url, "CA_FILE": str(self.authority.certificate), "TOKEN": self.token, **variables}
        environment = {f"SECATEUR_{name}": value for name, value in shown.items()}
        return CliRunner().invoke(client_command, arguments, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"), authority)
    yield site
    site.close()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def test_with_tls_and_tokens_a_public_address_needs_no_permission_and_is_no_warning(site: Site):
    assert [line for line in site.log() if line["level"] in ("warning", "error")] == []


def test_both_clients_reach_a_service_with_tls_and_tokens(site: Site):
    job = site.store.create(new_job())
    with secateur.Client(**site.arguments(endpoint=f"https://localhost:{site.port}")) as client:
        assert client.info().version
        assert next(iter(client.job(job.id).watch()))

    async def ask() -> str:
        async with secateur.AsyncClient(**site.arguments()) as client:
            return (await client.info()).version

    assert asyncio.run(ask())


@pytest.mark.parametrize(
    ("given", "kind", "reason"),
    [
        ({"token": None}, secateur.UnauthenticatedError, "TOKEN_MISSING"),
        ({"token": WRONG}, secateur.UnauthenticatedError, "TOKEN_INVALID"),
        ({"ca_file": "that of a stranger"}, secateur.CertificateError, "CERTIFICATE_NOT_TRUSTED"),
        ({"ca_file": None}, secateur.CertificateError, "CERTIFICATE_NOT_TRUSTED"),
    ],
)
def test_the_sdk_tells_what_is_wrong_and_tries_no_watch_that_cannot_succeed(
    site: Site, stranger: Authority, given: dict[str, Any], kind: type[secateur.SecateurError], reason: str
):
    if given.get("ca_file"):
        given = {"ca_file": str(stranger.certificate)}
    with secateur.Client(**site.arguments(timeout_seconds=2, **given)) as client:
        watching = iter(client.job("any").watch())
        with pytest.raises(kind) as caught:
            next(watching)
        assert caught.value.reason == reason
        assert not caught.value.retryable
        assert WRONG not in str(caught.value)


def test_the_sdk_trusts_a_service_only_under_a_name_of_its_certificate(site: Site):
    with secateur.Client(**site.arguments(endpoint=f"https://127.0.0.2:{site.port}")) as client:
        watching = iter(client.job("any").watch())
        with pytest.raises(secateur.CertificateError, match="by a name that is in the certificate"):
            next(watching)
    refused = site.secateur("info", ENDPOINT=f"https://127.0.0.2:{site.port}")
    assert (refused.exit_code, "\nthe certificate is for localhost, 127.0.0.1" in refused.stderr) == (5, True)


def test_the_command_line_ends_with_a_code_and_a_remedy_of_its_own(site: Site):
    done = site.secateur("info")
    assert done.exit_code == 0, done.stderr
    without = site.secateur("info", TOKEN="")
    assert (without.exit_code, without.stdout) == (9, "")
    assert "SECATEUR_TOKEN" in without.stderr
    machine = site.secateur("info", "--output", "json", TOKEN=WRONG)
    assert machine.exit_code == 9
    assert json.loads(machine.stderr)["error"]["reason"] == "TOKEN_INVALID"
    untrusted = site.secateur("watch", "any", CA_FILE="")
    assert untrusted.exit_code == 5
    assert "SECATEUR_CA_FILE" in untrusted.stderr
    assert site.token not in done.output + without.output + untrusted.output


def test_a_token_is_made_shown_once_listed_and_refused_within_about_a_second_of_its_revocation(site: Site):
    made = tokens(site.tokens_file, "create", "laptop", "--expires", "30d")
    token = made.stdout.strip()
    assert (made.exit_code, made.stdout.count("\n")) == (0, 1)
    assert token not in made.stderr
    assert token not in site.tokens_file.read_text()
    assert site.tokens_file.stat().st_mode & 0o777 == 0o600
    listed = tokens(site.tokens_file, "list").stdout
    assert [line.split()[0] for line in listed.splitlines()[1:]] == ["ci", "laptop"]
    assert token not in listed
    with secateur.Client(**site.arguments(token=token)) as client:

        def is_accepted() -> bool:
            try:
                client.info()
            except secateur.UnauthenticatedError as error:
                assert error.reason == "TOKEN_INVALID"  # noqa: PT017 - so is every other refusal
                return False
            return True

        until(is_accepted)
        assert tokens(site.tokens_file, "revoke", "laptop").exit_code == 0
        until(lambda: not is_accepted())
    with secateur.Client(**site.arguments()) as client:
        assert client.info().version


def test_the_log_names_the_caller_of_every_call_and_holds_no_secret(site: Site):
    before = len(site.log())
    job = site.store.create(new_job())
    with secateur.Client(**site.arguments()) as client:
        client.info()
        client.job(job.id).cancel()
        events = [str(event) for event in client.job(job.id).watch()]
    log = site.log()
    calls = [line for line in log[before:] if line["event"] == "call"]
    assert {line["caller"] for line in calls} == {"ci"}
    key = site.pair.key.read_text().splitlines()[1]
    kept = json.loads(site.tokens_file.read_text())["tokens"][0]["sha256"]
    for secret in (site.token, WRONG, key, kept):
        assert secret not in str(log)
        assert secret not in str(events)


def test_the_sdk_shows_a_certificate_of_its_own_where_one_is_asked_for(tmp_path: Path, authority: Authority):
    site = Site(tmp_path, authority, SECATEUR_TLS_CLIENT_CA=str(authority.certificate))
    mine = authority.issue("mine")
    try:
        with secateur.Client(
            **site.arguments(certificate_file=str(mine.certificate), key_file=str(mine.key))
        ) as client:
            assert client.info().version
        refused = site.secateur("info", TIMEOUT_SECONDS="1")
        assert refused.exit_code == 5
        assert "SECATEUR_CERTIFICATE_FILE" in refused.stderr
    finally:
        site.close()


@pytest.mark.parametrize(
    ("arguments", "code", "remedy"),
    [
        (("create", "ci"), 1, "tokens revoke ci"),
        (("create", "two words"), 2, "letters, digits"),
        (("create", "x", "--expires", "soon"), 2, "30d"),
        (("create", "x", "--expires", "0d"), 2, "30d"),
        (("create", "x", "--expires", "999999w"), 2, "leave --expires out"),
        (("revoke", "nobody"), 1, "tokens list"),
        (("list", "--tokens-file", "none.json"), 1, "cannot be read"),
        (("revoke", "ci", "--tokens-file", "none.json"), 1, "cannot be read"),
        (("create", "x", "--tokens-file", "tokens.json/none.json"), 1, "cannot be written"),
    ],
)
def test_what_the_tokens_command_cannot_do_is_one_line_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, remedy: str
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tokens.json"
    assert tokens(file, "create", "ci").exit_code == 0
    before = file.read_bytes()
    ended = tokens(file, *arguments)
    assert (ended.exit_code, ended.stdout) == (code, "")
    assert remedy in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.json"]


def test_the_tokens_command_asks_where_the_tokens_are():
    ended = CliRunner().invoke(service_command, ["tokens", "list"], env={"SECATEUR_TOKENS_FILE": ""})
    assert ended.exit_code == 2
    assert "SECATEUR_TOKENS_FILE" in ended.stderr


@pytest.mark.parametrize("fault", ["the key of another certificate", "no tokens file"])
def test_a_server_refuses_to_start_with_files_that_it_cannot_use(tmp_path: Path, authority: Authority, fault: str):
    pair, other = authority.issue("server"), authority.issue("other")
    key = other.key if fault.startswith("the key") else pair.key
    command = ["serve", "--data-dir", str(tmp_path / "data")]
    command += ["--tls-certificate", str(pair.certificate), "--tls-key", str(key), "--listen", "127.0.0.1:0"]
    command += ["--tokens-file", str(tmp_path / "none"), "--metrics-listen", ""]
    ended = run_command(command, tmp_path, environment={**os.environ, "SECATEUR_DEVICES": ""})
    setting, remedy = ("tls_key", "issued together") if key == other.key else ("tokens_file", "tokens create NAME")
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 1
    assert last.startswith(f"the server cannot start: {setting} ")
    assert remedy in last
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"ca_file": "none"}, "cannot read ca_file"),
        ({"ca_file": "rubbish"}, "ca_file .* holds no certificate"),
        ({"certificate_file": "certificate"}, "belong together"),
        ({"certificate_file": "certificate", "key_file": "other"}, "of its own private key"),
        ({"certificate_file": "rubbish", "key_file": "key"}, "of its own private key"),
        ({"certificate_file": "certificate", "key_file": "none"}, "cannot read key_file"),
    ],
)
def test_certificate_files_that_the_sdk_cannot_use_are_told_before_anything_is_sent(
    tmp_path: Path, authority: Authority, files: dict[str, str], message: str
):
    pair, other = authority.issue("mine"), authority.issue("other")
    put(tmp_path / "rubbish", b"\xff rubbish")
    paths = {"certificate": pair.certificate, "key": pair.key, "other": other.key}
    given = {name: str(paths.get(file, tmp_path / file)) for name, file in files.items()}
    with pytest.raises(secateur.ConfigError, match=message):
        secateur.Client("https://localhost:1", **given)
