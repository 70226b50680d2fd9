"""Where settings come from, and which variables only look like settings."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from secateur_service.commands.main import app
from secateur_service.settings import FILE_VARIABLE, PREFIX, Settings
from secateur_service.variables import DEFAULT, sources_of, unknown_variables

NAMES = sorted(Settings.model_fields)
LINKS = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_50051_TCP", "PORT_50051_TCP_PROTO")


def test_variables_that_only_look_like_settings_are_found_with_what_was_meant():
    known = {
        "SECATEUR_DEVICES": "cpu",
        "secateur_listen": "127.0.0.1:1",
        "SECATEUR_TOKEN": "of the SDK",
        "SECATEUR_TIMEOUT_SECONDS": "of the SDK",
        "SECATEUR_CONFIG": "of the SDK",
        FILE_VARIABLE: "settings.toml",
        "OTHER_DEVICE": "cpu",
    }
    wrong = {"SECATEUR_DEVICE": "cuda:0", "secateur_retention": "1", "SECATEUR_LISTNE": "x"}
    assert unknown_variables({**known, **wrong}) == {
        "SECATEUR_DEVICE": "SECATEUR_DEVICES",
        "SECATEUR_LISTNE": "SECATEUR_LISTEN",
        "secateur_retention": None,
    }


@given(st.sampled_from(NAMES), st.data())
def test_a_slip_in_a_long_name_is_recognized(name, data):
    place = data.draw(st.integers(0, len(name) - 1))
    slip = name[:place] + name[place + 1 :]
    if slip not in NAMES:
        assert unknown_variables({PREFIX + slip.upper(): "1"}) == {PREFIX + slip.upper(): PREFIX + name.upper()}


@pytest.mark.parametrize("service", ["", "API_", "WORKER_2_"])
def test_what_kubernetes_sets_for_services_is_no_slip(service):
    assert unknown_variables({f"{PREFIX}{service}{link}": "tcp://10.0.0.1:50051" for link in LINKS}) == {}
    assert unknown_variables({f"{PREFIX}SERVICE_HOTS": "10.0.0.1"}).keys() == {f"{PREFIX}SERVICE_HOTS"}


def test_every_setting_tells_its_source(tmp_path, monkeypatch):
    file = tmp_path / "secateur.toml"
    file.write_text('s3_region = "eu-west-1"\nthreads_per_worker = 3\nhub_offline = false\n')
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    monkeypatch.setenv("SECATEUR_THREADS_PER_WORKER", "4")
    monkeypatch.setenv("secateur_log_level", "error")
    found = {name: source for name, source in sources_of(Settings()).items() if source != DEFAULT}
    assert found == {
        "s3_region": str(file),
        "hub_offline": str(file),
        "threads_per_worker": "SECATEUR_THREADS_PER_WORKER",
        "log_level": "secateur_log_level",
    }


def test_config_prints_settings_sources_and_warnings_but_no_secret(tmp_path):
    environment = {
        "SECATEUR_HUB_TOKEN": "swordfish-1",
        "SECATEUR_S3_ACCESS_KEY": "access",
        "SECATEUR_S3_SECRET_KEY": "swordfish-2",
        "SECATEUR_DATABASE_URL": "postgresql://secateur:swordfish-3@db/secateur",
        "SECATEUR_CREDENTIALS": json.dumps({"a": {"prefixes": ["hf://a"], "hub_token": "swordfish-4"}}),
        "SECATEUR_FILE_ROOTS": str(tmp_path / "absent"),
        "SECATEUR_DEVICE": "cuda:0",
    }
    text = CliRunner().invoke(app, ["config"], env=environment)
    line = CliRunner().invoke(app, ["config", "--json"], env=environment)
    assert (text.exit_code, line.exit_code) == (0, 0)
    assert "swordfish" not in text.output + line.output
    rows = dict(row.split(maxsplit=1) for row in text.stdout.splitlines() if row)
    assert rows["hub_token"].split() == ["[redacted]", "SECATEUR_HUB_TOKEN"]
    assert rows["hub_offline"].split() == ["false", DEFAULT]
    assert "SECATEUR_DEVICE is no setting" in text.stderr
    assert "did you mean SECATEUR_DEVICES?" in text.stderr
    found = json.loads(line.stdout)
    assert found["settings"].keys() == Settings.model_fields.keys()
    assert found["settings"]["s3_region"] == {"value": "us-east-1", "source": DEFAULT}
    assert found["absent_file_roots"] == [str(tmp_path / "absent")]
    assert found["unknown_variables"] == {"SECATEUR_DEVICE": "SECATEUR_DEVICES"}
