"""Where configuration comes from, and how an endpoint becomes a connection."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import secateur
from secateur._channel import connection
from secateur._config import ClientConfig, load_config
from secateur.cli._app import app

FIELDS = {"endpoint": st.sampled_from(["a:1", "b:2"]), "token": st.sampled_from(["t", "u"])}
SOURCES = st.fixed_dictionaries({}, optional=FIELDS)


@given(arguments=SOURCES, variables=SOURCES, file=SOURCES)
def test_arguments_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path_factory, arguments, variables, file
):
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text("".join(f'{name} = "{value}"\n' for name, value in file.items()))
    environment = {"SECATEUR_CONFIG": str(path)} | {f"SECATEUR_{name.upper()}": v for name, v in variables.items()}
    expected = {"endpoint": "localhost:50051", "token": None, **file, **variables, **arguments}
    config = load_config(arguments, environment)
    assert {"endpoint": config.endpoint, "token": config.token} == expected


def test_the_file_in_the_home_folder_is_found_and_may_be_absent(tmp_path):
    assert load_config({}, {"HOME": str(tmp_path)}) == ClientConfig()
    folder = tmp_path / ".config" / "secateur"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('endpoint = "here:1"\ntimeout_seconds = 5\n')
    config = load_config({"token": None}, {"HOME": str(tmp_path), "SECATEUR_TOKEN": ""})
    assert (config.endpoint, config.timeout_seconds, config.token) == ("here:1", 5.0, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("endpont = 'a:1'", "endpont"),
        ("endpoint = 3", "expected a text"),
        ("timeout_seconds = 'soon'", "expected a number of seconds"),
        ("timeout_seconds = 1e308", "at most 31536000, a year"),
        ("timeout_seconds = -1", "expected a number of seconds"),
        ("endpoint", "not a TOML file"),
    ],
)
def test_a_faulty_file_is_named_with_its_fault(tmp_path, content, message):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(secateur.ConfigError, match=message) as caught:
        load_config({}, {"SECATEUR_CONFIG": str(path)})
    assert "mine.toml" in str(caught.value)


def test_a_file_that_is_named_must_exist():
    with pytest.raises(secateur.ConfigError, match="cannot read"):
        load_config({}, {"SECATEUR_CONFIG": "/nowhere/config.toml"})


@pytest.mark.parametrize(
    ("endpoint", "target", "tls"),
    [
        ("localhost:50051", "localhost:50051", False),
        ("http://host:1", "host:1", False),
        ("https://host:443/", "host:443", True),
        ("[::1]:50051", "[::1]:50051", False),
        ("dns:///host:1", "dns:///host:1", False),
        ("unix:/run/secateur.sock", "unix:/run/secateur.sock", False),
        ("10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2", False),
        ("localhost:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2", False),
        ("[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2", False),
    ],
)
def test_an_endpoint_becomes_a_target(endpoint, target, tls):
    made = connection(ClientConfig(endpoint=endpoint))
    assert (made.target, made.credentials is not None) == (target, tls)


@pytest.mark.parametrize(
    "endpoint", ["", "host", "host:", "http://", "ftp://host:1", "host:port", "a:1,b:2", "host:1/x"]
)
def test_an_endpoint_that_cannot_be_one_is_refused_with_the_form_it_should_have(endpoint):
    with pytest.raises(secateur.ConfigError, match=r"expected host:port|for host names use"):
        connection(ClientConfig(endpoint=endpoint))


@pytest.mark.parametrize(
    "endpoint", ["localhost:1", "127.0.0.1:1", "https://far.example:1", "unix:/s", "dns:///localhost:1"]
)
def test_a_token_goes_over_tls_or_stays_on_this_machine(endpoint):
    assert connection(ClientConfig(endpoint=endpoint, token="t")).metadata == (("authorization", "Bearer t"),)


@pytest.mark.parametrize(
    "endpoint", ["far.example:1", "http://10.0.0.1:1", "dns:///far.example:1", "127.0.0.1:1,10.0.0.1:1"]
)
def test_a_token_is_never_sent_in_the_clear_to_another_machine(endpoint):
    with pytest.raises(secateur.ConfigError, match="in the clear"):
        connection(ClientConfig(endpoint=endpoint, token="t"))


@pytest.mark.parametrize("endpoint", ["localhost:65536", "https://a:99999", "a:1,b:70000", "dns:///x:123456"])
def test_a_port_that_no_machine_has_is_refused(endpoint):
    with pytest.raises(secateur.ConfigError, match=r"SECATEUR_ENDPOINT.*a port is at most 65535"):
        load_config(environment={"SECATEUR_ENDPOINT": endpoint, "HOME": "/nowhere"})


def test_config_prints_what_is_in_force_and_where_it_comes_from(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('endpoint = "https://here:1"\nca_file = "ca.pem"\ntoken = "swordfish"\ntimeout_seconds = 5\n')
    (tmp_path / "ca.pem").write_text("no certificate")
    environment = {"SECATEUR_CONFIG": str(file), "SECATEUR_CA_FILE": str(tmp_path / "ca.pem"), "SECATEUR_TOKNE": "x"}
    line = CliRunner().invoke(app, ["--endpoint", "localhost:1", "config", "-o", "json"], env=environment)
    assert line.exit_code == 0, line.output
    assert json.loads(line.stdout) == {
        "file": str(file),
        "file_exists": True,
        "settings": {
            "endpoint": {"value": "localhost:1", "source": "the argument endpoint"},
            "token": {"value": "[redacted]", "source": str(file)},
            "ca_file": {"value": str(tmp_path / "ca.pem"), "source": "SECATEUR_CA_FILE"},
            "certificate_file": {"value": None, "source": "default"},
            "key_file": {"value": None, "source": "default"},
            "timeout_seconds": {"value": 5.0, "source": str(file)},
            "reconnect_seconds": {"value": 300.0, "source": "default"},
        },
        "misspelt": {"SECATEUR_TOKNE": "SECATEUR_TOKEN"},
    }
    text = CliRunner().invoke(app, ["config"], env=environment)
    assert "swordfish" not in line.output + text.output
    assert f"https://here:1 {file}" in " ".join(text.stdout.split())
    assert "SECATEUR_TOKNE has no effect; did you mean SECATEUR_TOKEN?" in text.stderr


def test_config_shows_the_settings_and_says_why_no_connection_can_be_made_with_them(tmp_path):
    environment = {"HOME": str(tmp_path), "SECATEUR_TOKEN": "swordfish", "SECATEUR_ENDPOINT": "elsewhere:1"}
    done = CliRunner().invoke(app, ["config"], env=environment)
    assert done.exit_code == 2
    assert "elsewhere:1" in done.stdout
    assert "(there is none)" in done.stdout
    assert "in the clear" in done.stderr
