"""Secrets at the border: stripped or refused by name, never repeated; and what is said when an operation fails."""

import json
import os
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs

from secateur import Client, ConfigError
from secateur._config import load_config
from secateur_service.accounts import clean_environment, secrets_of_environment
from secateur_service.artifacts.s3 import S3Store
from secateur_service.errors import ServiceError
from secateur_service.settings import FILE_VARIABLE, PREFIX, Settings
from secateur_service.sources.hub import Hub
from secateur_service.sources.reference import ReferenceRefusedError, parse_reference
from servers import free_port, http_server
from support.forking import run_command

SECRET = "Kx-secret-0123456789-Zq"
AROUND = st.text(st.sampled_from(" \t\n\r\v\f\x85\u2028\ufeff"), max_size=4)
INSIDE = st.sampled_from(["\n", "\r\n", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\u202e", "\u200b"])


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def account(**secrets):
    both = {"s3_access_key": "a", "s3_secret_key": "b", "hub_token": "c", **secrets}
    return {"credentials": {"team": {"prefixes": ["s3://team"], **both}}}


# What is given, where it is found afterwards, and the name that a refusal says.
SETTINGS = {
    "hub_token": (
        lambda secret: {"hub_token": secret},
        lambda settings: settings.hub_token.get_secret_value(),
        "hub_token",
    ),
    "s3_secret_key": (
        lambda secret: {"s3_access_key": "a", "s3_secret_key": secret},
        lambda settings: settings.s3_secret_key.get_secret_value(),
        "s3_secret_key",
    ),
    "s3_access_key": (
        lambda secret: {"s3_access_key": secret, "s3_secret_key": "b"},
        lambda settings: settings.s3_access_key,
        "s3_access_key",
    ),
    "database_url": (
        lambda secret: {"database_url": f"postgresql://u:{secret}@h/d"},
        lambda settings: settings.database_url.split(":")[2].split("@")[0],
        "database_url",
    ),
    "the table's hub_token": (
        lambda secret: account(hub_token=secret),
        lambda settings: settings.credentials["team"].hub_token.get_secret_value(),
        "credentials.team.hub_token",
    ),
    "the table's s3_secret_key": (
        lambda secret: account(s3_secret_key=secret),
        lambda settings: settings.credentials["team"].s3_secret_key.get_secret_value(),
        "credentials.team.s3_secret_key",
    ),
}
IN_A_URL = "database_url"


def refusal(given):
    with pytest.raises(ValidationError) as caught:
        Settings(**given)
    return ["".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}") for entry in caught.value.errors()]


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != IN_A_URL])
@given(before=AROUND, after=AROUND)
def test_white_space_around_a_secret_is_no_part_of_it(setting, before, after):
    give, found, _ = SETTINGS[setting]
    assert found(Settings(**give(before + SECRET + after))) == SECRET


@pytest.mark.parametrize("setting", SETTINGS)
@given(inside=INSIDE)
def test_a_control_character_in_a_secret_is_refused_by_the_settings_name_and_without_the_value(setting, inside):
    give, _, name = SETTINGS[setting]
    messages = refusal(give(SECRET + inside + SECRET))
    assert any(message.startswith(name) for message in messages)
    assert SECRET not in str(messages)


def test_a_password_with_an_encoded_line_break_is_refused_too():
    assert SECRET not in str(refusal({"database_url": f"postgresql://u:{SECRET}%0A@h/d"}))


@pytest.mark.parametrize("source", ["environment", "file", "json"])
def test_the_border_is_the_same_wherever_a_setting_comes_from(source, monkeypatch, tmp_path):
    if source == "environment":
        monkeypatch.setenv("SECATEUR_HUB_TOKEN", f" {SECRET}\n")
    elif source == "file":
        (tmp_path / "s.toml").write_text(f'hub_token = "{SECRET}\\n"\n')
        monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "s.toml"))
    else:
        monkeypatch.setenv("SECATEUR_CREDENTIALS", json.dumps(account(hub_token=SECRET + "\r\n")["credentials"]))
        assert Settings().credentials["team"].hub_token.get_secret_value() == SECRET
        return
    assert Settings().hub_token.get_secret_value() == SECRET


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
@given(after=AROUND, inside=INSIDE)
def test_proxies_are_stripped_or_refused_by_the_variables_name(variable, after, inside):
    environment = {variable: f"http://u:{SECRET}@proxy:1{after}", "OTHER": "x\n"}
    clean_environment(environment)
    assert environment == {variable: f"http://u:{SECRET}@proxy:1", "OTHER": "x\n"}
    assert set(secrets_of_environment(environment)) == {SECRET}
    with pytest.raises(ValueError, match=variable) as caught:
        clean_environment({variable: f"http://u:{SECRET}{inside}{SECRET}@proxy:1"})
    assert SECRET not in str(caught.value)


def test_all_secrets_of_the_settings_are_known(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://u:in-proxy@h")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20in-header,x=y")
    given = account(s3_secret_key="in-table", hub_token="in-table-too")
    settings = Settings(
        hub_token="in-token",
        s3_access_key="a",
        s3_secret_key="in-key",
        database_url="postgresql://u:in%2Durl@h/d",
        **given,
    )
    known = {"in-token", "in-key", "in-url", "in-table", "in-table-too", "in-proxy", "Bearer in-header"}
    assert known <= set(settings.secrets())


# --- the client


@pytest.mark.parametrize("source", ["argument", "environment", "file"])
@given(before=AROUND, after=AROUND, inside=INSIDE)
def test_the_clients_token_is_stripped_or_refused_without_being_repeated(
    source, tmp_path_factory, before, after, inside
):
    def load(token):
        if source == "argument":
            return load_config({"token": token}, {})
        if source == "environment":
            return load_config({}, {"SECATEUR_TOKEN": token})
        file = tmp_path_factory.mktemp("config") / "c.toml"
        file.write_text(f"token = {json.dumps(token)}\n", encoding="utf-8")
        return load_config({}, {"SECATEUR_CONFIG": str(file)})

    config = load(before + SECRET + after)
    assert config.token == SECRET
    assert SECRET not in repr(config)
    with pytest.raises(ConfigError, match="token") as caught:
        load(SECRET + inside + SECRET)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("token", [f"{SECRET} {SECRET}", f"{SECRET}é", "sëcret"])
def test_what_cannot_be_a_header_is_refused_before_anything_is_sent(token):
    with pytest.raises(ConfigError, match="token") as caught:
        Client("localhost:1", token=token)
    assert token not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["https://u:{}@h:1", "u:{}@h:1", "dns:///u:{}@h:1"])
def test_an_endpoint_with_a_password_is_refused_without_repeating_it(endpoint):
    with pytest.raises(ConfigError, match="password") as caught:
        Client(endpoint.format(SECRET))
    assert SECRET not in str(caught.value)


def test_a_token_that_is_no_text_is_refused_without_being_repeated(tmp_path):
    (tmp_path / "c.toml").write_text("token = 1234567890123\n")
    with pytest.raises(ConfigError, match="token") as caught:
        load_config({}, {"SECATEUR_CONFIG": str(tmp_path / "c.toml")})
    assert "1234567890123" not in str(caught.value)


# --- operations that fail


def echo(request):
    """What an unkind server may do: quote the request that it refuses."""
    body = (
        f"<Error><Code>Odd {request.headers}</Code><Message>{request.headers} {request.path}</Message></Error>".encode()
    )
    request.send_response(400)
    request.send_header("Content-Length", str(len(body)))
    request.send_header("Content-Type", "application/xml")
    request.end_headers()
    request.wfile.write(body)


def ask_hub(endpoint, secret, tmp_path):
    Hub(endpoint, secret, memory=tmp_path).open(parse_reference("hf://org/name"))


def read_hub(endpoint, secret, tmp_path):
    hub = Hub(endpoint, secret, memory=tmp_path)
    with hub.translated(parse_reference("hf://org/name")):
        list(hub.read(f"{endpoint}/a", 0, 1))


def store(endpoint, secret):
    return S3Store("bucket", "p", endpoint=endpoint, access_key=secret, secret_key=secret, retries=0)


OPERATIONS = {
    "hub": ask_hub,
    "hub, a file": read_hub,
    "store, list": lambda endpoint, secret, _: list(store(endpoint, secret).list_keys("")),
    "store, read": lambda endpoint, secret, _: store(endpoint, secret).get_bytes("k"),
    "store, write": lambda endpoint, secret, _: store(endpoint, secret).put_bytes("k", b"x", "text/plain"),
    "store, write anew": lambda endpoint, secret, _: store(endpoint, secret).put_new("k", b"x", "text/plain"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("secret", [SECRET, SECRET + "\n" + SECRET, SECRET + "\r"])
@pytest.mark.parametrize("place", ["echo", "nobody"])
def test_what_fails_says_nothing_of_what_was_sent(operation, secret, place, tmp_path, monkeypatch):
    """Also a secret that came past the border: nobody repeats what a library says of it."""
    monkeypatch.setattr("secateur_service.artifacts.s3.BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr("secateur_service.sources.hub.WAIT_SECONDS", 0.0)
    with http_server(echo) as echoing, capture_logs() as logged:
        endpoint = echoing if place == "echo" else f"http://127.0.0.1:{free_port()}"
        with pytest.raises((ServiceError, ReferenceRefusedError)) as caught:
            OPERATIONS[operation](endpoint, secret, tmp_path)
    assert SECRET not in str(caught.value)
    assert SECRET not in str(getattr(caught.value, "metadata", ""))
    assert SECRET not in str(logged)


@pytest.mark.parametrize("value", [SECRET + "\n", SECRET + "\n" + SECRET])
def test_no_command_prints_a_secret(value, tmp_path):
    """Commands whose settings hold a secret that is stripped or refused, and that fail for another reason."""
    (tmp_path / "spec.yaml").write_text("model: {uri: hf://org/name}\n")
    given = {
        "SECATEUR_HUB_TOKEN": value,
        "SECATEUR_HUB_ENDPOINT": "http://127.0.0.1:1",
        "HTTPS_PROXY": f"http://u:{value.strip()}@h",
        "SECATEUR_DATABASE_URL": f"postgresql://u:{value.strip()}@127.0.0.1:1/d",
    }
    run = ["run", str(tmp_path / "spec.yaml"), "--output", str(tmp_path / "out")]
    for command in (["migrate"], ["presets", "mc4", "--check"], run):
        done = run_command(command, tmp_path, environment={**os.environ, **given})
        assert done.returncode not in (0, None)
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_the_text_of_a_refused_setting_is_not_in_the_traceback_either():
    try:
        Settings(hub_token=f"{SECRET}\n{SECRET}")
    except ValidationError:
        assert SECRET not in traceback.format_exc()
