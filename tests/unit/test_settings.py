import os

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from secateur_service.settings import FILE_VARIABLE, PREFIX, Settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_default_needs_nothing_and_allows_nothing(tmp_path):
    settings = Settings()
    assert settings.data_dir == tmp_path / "secateur-data"
    assert settings.database_url == f"sqlite:///{tmp_path}/secateur-data/secateur.sqlite3"
    assert settings.destinations == ((tmp_path / "secateur-data" / "artifacts").as_uri(),)
    assert settings.file_roots == ()
    assert settings.devices == ("cpu",)
    assert settings.public_addresses == {}


def test_defaults_below_the_data_folder_follow_it(tmp_path):
    settings = Settings(data_dir=tmp_path / "other place")
    assert settings.destinations == (f"file://{tmp_path}/other%20place/artifacts",)
    assert f"{tmp_path}/other place/secateur.sqlite3" in settings.database_url


def test_lists_come_from_the_environment_with_their_separators(monkeypatch):
    monkeypatch.setenv("SECATEUR_FILE_ROOTS", os.pathsep.join(["/models", "/a,b"]))
    monkeypatch.setenv("SECATEUR_DESTINATIONS", "s3://bucket/prefix, file:///out")
    monkeypatch.setenv("SECATEUR_DEVICES", "cuda:0,cuda:1")
    settings = Settings()
    assert [str(root) for root in settings.file_roots] == ["/models", "/a,b"]
    assert settings.destinations == ("s3://bucket/prefix", "file:///out")
    assert settings.devices == ("cuda:0", "cuda:1")


def test_a_replica_may_have_no_slots(monkeypatch):
    monkeypatch.setenv("SECATEUR_DEVICES", "")
    assert Settings().devices == ()
    assert Settings().worker_threads >= 1


def test_arguments_win_over_the_environment_and_the_environment_over_the_file(monkeypatch, tmp_path):
    file = tmp_path / "secateur.toml"
    file.write_text('lease_seconds = 1.5\npoll_seconds = 2.5\ndrain_seconds = 3.5\nfile_roots = ["/from/file"]\n')
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    monkeypatch.setenv("SECATEUR_POLL_SECONDS", "20")
    monkeypatch.setenv("SECATEUR_DRAIN_SECONDS", "30")
    settings = Settings(drain_seconds=40)
    assert (settings.lease_seconds, settings.poll_seconds, settings.drain_seconds) == (1.5, 20, 40)
    assert str(settings.file_roots[0]) == "/from/file"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "cannot be read: No such file"), ("lease_seconds = ", "not a TOML file"), (b"\xff", "not a TOML file")],
)
def test_a_settings_file_that_cannot_be_used_is_refused_with_its_name(monkeypatch, tmp_path, content, complaint):
    file = tmp_path / "secateur.toml"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    with pytest.raises(SettingsError, match=complaint) as caught:
        Settings()
    assert str(file) in str(caught.value)


def test_an_unknown_name_in_the_file_is_refused(monkeypatch, tmp_path):
    file = tmp_path / "secateur.toml"
    file.write_text("leese_seconds = 3\n")
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    with pytest.raises(ValidationError, match="leese_seconds"):
        Settings()


@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:50051", "192.168.1.4:1", "myhost:50051", "127.0.0.1.a:1"])
def test_a_public_address_needs_tls_and_tokens_or_must_be_asked_for(listen):
    tls, tokens = {"tls_certificate": "/c.pem", "tls_key": "/k.pem"}, {"tokens_file": "/t.json"}
    for given, missing in ({}, "no TLS and no tokens"), (tls, "no tokens;"), (tokens, "no TLS;"):
        with pytest.raises(ValidationError, match=f"{missing}.*SECATEUR_ALLOW_PUBLIC_LISTEN=true"):
            Settings(listen=listen, **given)
        allowed = Settings(listen=listen, allow_public_listen=True, **given)
        assert allowed.public_addresses == {"listen": listen}
        assert len(allowed.missing_protection) == missing.count("no ")
    assert Settings(listen=listen, **tls, **tokens).missing_protection == ()


def test_a_public_address_for_metrics_is_permission_enough_and_gives_none_for_calls():
    settings = Settings(metrics_listen="0.0.0.0:9464")
    assert settings.public_addresses == {"metrics_listen": "0.0.0.0:9464"}
    assert settings.missing_protection == ()
    with pytest.raises(ValidationError, match="listen is"):
        Settings(metrics_listen="0.0.0.0:9464", listen="0.0.0.0:1")


def test_files_of_the_doors_are_absolute_and_may_be_empty(monkeypatch, tmp_path):
    monkeypatch.setenv("SECATEUR_TLS_CLIENT_CA", "")
    monkeypatch.setenv("SECATEUR_TOKENS_FILE", "tokens.json")
    settings = Settings(tls_certificate="c.pem", tls_key="~/k.pem")
    assert settings.tls_client_ca is None
    assert (settings.tokens_file, settings.tls_certificate) == (tmp_path / "tokens.json", tmp_path / "c.pem")
    assert settings.tls_key.is_absolute()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.8.8.8:50051", "[::1]:50051", "localhost:50051", "unix:/run/s"])
def test_a_local_address_needs_no_permission(listen):
    assert Settings(listen=listen).public_addresses == {}


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"listen": "50051"}, "host:port"),
        ({"listen": "127.0.0.1:99999"}, "host:port"),
        ({"listen": ""}, "give the gRPC server an address"),
        ({"metrics_listen": "unix:/run/m.sock"}, "host:port only"),
        ({"devices": ["gpu"]}, "cuda:0"),
        ({"destinations": []}, "at least 1"),
        ({"destinations": ["http://bucket"]}, "s3://bucket/prefix"),
        ({"destinations": ["file:///a,b"]}, "without commas"),
        ({"file_roots": [f"/a{os.pathsep}b"]}, "move the folder"),
        ({"database_url": "not a url"}, "sqlite:////absolute/path"),
        ({"s3_endpoint": "minio:9000"}, "https://host:port"),
        ({"s3_endpoint": "https://user:secret@host"}, "set s3_access_key"),
        ({"s3_access_key": "a"}, "belong together"),
        ({"tls_certificate": "/c.pem"}, "tls_certificate and tls_key belong together"),
        ({"tls_key": "/k.pem"}, "tls_certificate and tls_key belong together"),
        ({"tls_client_ca": "/ca.pem"}, "tls_client_ca needs TLS"),
        ({"lease_seconds": 0}, "greater than 0"),
        ({"lease_seconds": float("nan")}, "finite"),
    ],
)
def test_a_wrong_value_is_refused_with_the_remedy_and_without_repeating_secrets(given, remedy):
    with pytest.raises(ValidationError, match=remedy) as caught:
        Settings(**given)
    assert "secret@" not in str(caught.value)


def test_redacted_settings_show_everything_but_secrets():
    settings = Settings(
        s3_access_key="visible",
        s3_secret_key="hidden-1",
        database_url="postgresql+psycopg://secateur:hidden-2@db/secateur",
        log_level="debug",
    )
    shown = settings.redacted()
    assert "hidden" not in str(shown)
    assert "hidden" not in repr(settings).replace("hidden-2", "")
    assert (shown["s3_access_key"], shown["log_level"]) == ("visible", "debug")
    assert "@db/secateur" in shown["database_url"]
    assert shown.keys() == Settings.model_fields.keys()


def test_a_worker_reads_exactly_its_servers_settings(monkeypatch, tmp_path):
    settings = Settings(
        data_dir="relative",
        file_roots=["/a", "/b c"],
        destinations=["s3://bucket/x", "file:///y"],
        s3_endpoint="http://minio:9000",
        s3_access_key="key",
        s3_secret_key="secret",
        devices=["cpu", "cpu"],
        lease_seconds=0.1 + 0.2,
        metrics_listen="",
        allow_public_listen=True,
        listen="0.0.0.0:1",
        tls_certificate="c.pem",
        tls_key="k.pem",
        tls_client_ca="ca.pem",
        tokens_file="tokens.json",
    )
    monkeypatch.chdir("/")
    for name, text in settings.worker_environment().items():
        monkeypatch.setenv(name, text)
    assert Settings() == settings


def test_every_setting_is_documented():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_threads_are_divided_over_the_slots_unless_given():
    cores = len(os.sched_getaffinity(0))
    assert Settings().worker_threads == cores
    assert Settings(devices=["cpu"] * (2 * cores)).worker_threads == 1
    assert Settings(threads_per_worker=7).worker_threads == 7
