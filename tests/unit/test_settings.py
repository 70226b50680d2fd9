import json
import os

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from secateur._redaction import redact
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
        with pytest.raises(ValueError, match=f"{missing}.*SECATEUR_ALLOW_PUBLIC_LISTEN=true"):
            Settings(listen=listen, **given).check_listen()
        allowed = Settings(listen=listen, allow_public_listen=True, **given)
        allowed.check_listen()
        assert allowed.public_addresses == {"listen": listen}
        assert len(allowed.missing_protection) == missing.count("no ")
    protected = Settings(listen=listen, **tls, **tokens)
    protected.check_listen()
    assert protected.missing_protection == ()


def test_a_public_address_for_metrics_is_permission_enough_and_gives_none_for_calls():
    settings = Settings(metrics_listen="0.0.0.0:9464")
    assert settings.public_addresses == {"metrics_listen": "0.0.0.0:9464"}
    assert settings.missing_protection == ()
    with pytest.raises(ValueError, match="listen is"):
        Settings(metrics_listen="0.0.0.0:9464", listen="0.0.0.0:1").check_listen()


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
        ({"lease_seconds": 1e300}, "less than or equal"),
        ({"threads_per_worker": 10**12}, "less than or equal"),
        ({"devices": ["cuda:12345678901"]}, "cuda:0"),
        ({"destinations": ["s3://models/a//b"]}, "two slashes in a row are no part"),
        ({"destinations": ["s3://models/a#b"]}, "'#' may not"),
        ({"s3_endpoint": "http://host:123456"}, "https://host:port"),
        ({"s3_endpoint": "http://[::1"}, "https://host:port"),
        ({"hub_endpoint": "https://hub:port"}, "not the URL of a hub"),
        ({"data_dir": "~no-such-user-here/data"}, "a user whom this machine does not know"),
        ({"tokens_file": "~no-such-user-here/tokens"}, "a user whom this machine does not know"),
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


def credentials(**changes):
    """Accounts of two teams, beside the service's own."""
    return {
        "s3_endpoint": "https://own.example",
        "s3_access_key": "own",
        "s3_secret_key": "hidden-own",
        "s3_region": "eu-west-1",
        "hub_token": "hidden-own-token",
        "credentials": {
            "team-a": {
                "prefixes": ["s3://team", "s3://shared/a/", "hf://team-a"],
                "s3_access_key": "a",
                "s3_secret_key": "hidden-a",
                "hub_token": "hidden-a-token",
            },
            "team-b": {
                "prefixes": ["s3://team/b/deep", "hf://team-a/model-b", "hf://datasets/team-b", "hf://gpt2"],
                "s3_endpoint": "https://b.example",
                "s3_access_key": "b",
                "s3_secret_key": "hidden-b",
                "s3_region": "us-west-2",
                "hub_token": "hidden-b-token",
            },
        },
        **changes,
    }


HIDDEN = ["hidden-own", "hidden-a", "hidden-b"]


@pytest.mark.parametrize(
    ("reference", "key", "place"),
    [
        ("s3://team", "a", ("https://own.example", "eu-west-1")),
        ("s3://team/", "a", ("https://own.example", "eu-west-1")),
        ("s3://team/b", "a", ("https://own.example", "eu-west-1")),
        ("s3://team/b/deeper", "a", ("https://own.example", "eu-west-1")),
        ("s3://team/b/deep", "b", ("https://b.example", "us-west-2")),
        ("s3://team/b/deep/er", "b", ("https://b.example", "us-west-2")),
        ("s3://shared/a", "a", ("https://own.example", "eu-west-1")),
        ("s3://shared/a/model", "a", ("https://own.example", "eu-west-1")),
        ("s3://shared/ab", "own", ("https://own.example", "eu-west-1")),
        ("s3://shared", "own", ("https://own.example", "eu-west-1")),
        ("s3://team2", "own", ("https://own.example", "eu-west-1")),
        ("s3://team2/b/deep", "own", ("https://own.example", "eu-west-1")),
        ("file:///team", "own", ("https://own.example", "eu-west-1")),
    ],
)
def test_an_object_store_is_entered_with_the_account_of_the_longest_prefix(reference, key, place):
    account = Settings(**credentials()).account_of(reference)
    assert account.s3_access_key == key
    assert account.s3_secret_key.get_secret_value() == f"hidden-{key}"
    assert (account.s3_endpoint, account.s3_region) == place


@pytest.mark.parametrize(
    ("reference", "whose"),
    [
        ("hf://team-a/model", "a"),
        ("hf://team-a/model-b", "b"),
        ("hf://team-a/model-bb", "a"),
        ("hf://team-ab/model", "own"),
        ("hf://datasets/team-a/text", "own"),
        ("hf://datasets/team-b/text", "b"),
        ("hf://team-b/model", "own"),
        ("hf://gpt2", "b"),
        ("hf://gpt2-large", "own"),
        ("hf://other/model", "own"),
    ],
)
def test_the_hub_is_asked_with_the_token_of_the_longest_prefix(reference, whose):
    account = Settings(**credentials()).account_of(reference)
    assert account.hub_token.get_secret_value() == f"hidden-{whose}-token"


def test_an_account_of_its_own_takes_over_the_place_and_no_secret_of_the_services():
    only_hub = {"team": {"prefixes": ["hf://team"], "hub_token": "t"}}
    account = Settings(**credentials(credentials=only_hub)).account_of("hf://team/model")
    assert (account.s3_endpoint, account.s3_region) == ("https://own.example", "eu-west-1")
    assert (account.s3_access_key, account.s3_secret_key) == (None, None)


def test_without_accounts_everything_is_reached_as_the_service():
    settings = Settings(**credentials(credentials={}))
    assert settings.account_of("s3://team/x") == settings.account_of("hf://team-a/x")
    assert settings.account_of("s3://team/x").s3_access_key == "own"


S3 = {"s3_access_key": "a", "s3_secret_key": "hidden-a"}


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        *[
            ({"prefixes": [prefix], **S3, "hub_token": "hidden-a"}, "use s3://bucket/prefix, hf://org/name or hf://org")
            for prefix in (
                "",
                "team",
                "s3://",
                "s3:///a",
                "s3://a,b",
                "http://team",
                "file:///a",
                "hf://",
                "hf://a/b/c",
            )
        ],
        ({"prefixes": ["hf://datasets/a/b/c"], "hub_token": "hidden-a"}, "not a prefix"),
        ({"prefixes": ["hf://a", "hf://b@main"], "hub_token": "hidden-a"}, "not a prefix: 'hf://b@main'"),
        ({"prefixes": [], **S3}, "at least 1"),
        (S3, "required"),
        ({"prefixes": ["s3://team"], "s3_access_key": "a"}, "belong together"),
        ({"prefixes": ["s3://team"], "s3_access_key": "", "s3_secret_key": "hidden-a"}, "belong together"),
        ({"prefixes": ["hf://team", "s3://team"], "hub_token": "hidden-a"}, "no keys for s3://team; set s3_access_key"),
        ({"prefixes": ["s3://team", "hf://team"], **S3}, "no token for hf://team; set hub_token"),
        ({"prefixes": ["hf://team"], "hub_token": ""}, "no token for hf://team; set hub_token"),
        ({"prefixes": ["s3://team"], **S3, "s3_endpoint": "minio:9000"}, "https://host:port"),
        ({"prefixes": ["s3://team"], **S3, "s3_endpoint": "https://user:hidden-a@host"}, "set s3_access_key"),
        ({"prefixes": ["s3://team"], **S3, "secret": "hidden-a"}, "secret"),
    ],
)
def test_an_account_that_cannot_be_used_is_refused_with_the_remedy_and_without_repeating_secrets(given, remedy):
    with pytest.raises(ValidationError, match=remedy) as caught:
        Settings(credentials={"team-a": given})
    assert "team-a" in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_accounts_stand_in_tables_of_the_file(monkeypatch, tmp_path):
    file = tmp_path / "secateur.toml"
    file.write_text(
        """
        [credentials.team-a]
        prefixes = ["s3://team", "hf://team-a"]
        s3_access_key = "a"
        s3_secret_key = "hidden-a"
        hub_token = "hidden-a-token"

        [credentials.team-b]
        prefixes = ["hf://datasets/team-b"]
        hub_token = "hidden-b"
        """
    )
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    settings = Settings()
    assert list(settings.credentials) == ["team-a", "team-b"]
    assert settings.account_of("s3://team/x").s3_secret_key.get_secret_value() == "hidden-a"
    assert settings.account_of("hf://datasets/team-b/x").hub_token.get_secret_value() == "hidden-b"
    other = {"team-a": {"prefixes": ["hf://team-a"], "hub_token": "of-the-environment"}}
    monkeypatch.setenv("SECATEUR_CREDENTIALS", json.dumps(other))
    settings = Settings()  # as a whole, like every setting
    assert list(settings.credentials) == ["team-a"]
    assert settings.credentials["team-a"].s3_access_key is None


def test_a_worker_reads_the_accounts_of_its_server_with_their_secrets_and_no_others(monkeypatch, tmp_path):
    settings = Settings(**credentials())
    for name, text in settings.worker_environment().items():
        monkeypatch.setenv(name, text)
    assert Settings() == settings
    assert Settings().account_of("s3://team/b/deep").s3_secret_key.get_secret_value() == "hidden-b"
    assert Settings().account_of("hf://team-a/x").hub_token.get_secret_value() == "hidden-a-token"
    file = tmp_path / "secateur.toml"
    file.write_text('[credentials.team-c]\nprefixes = ["hf://c"]\nhub_token = "c"\n')
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    assert Settings() == settings


def test_neither_redacted_settings_nor_accounts_nor_the_log_show_secrets():
    settings = Settings(**credentials())
    shown = settings.redacted()
    assert shown["credentials"]["team-a"]["prefixes"] == ["s3://team", "s3://shared/a/", "hf://team-a"]
    assert shown["credentials"]["team-b"]["s3_access_key"] == "b"
    logged = redact(settings.redacted())
    assert json.loads(json.dumps(logged)) == logged
    assert logged["s3_region"] == "eu-west-1"
    for text in (str(shown), str(logged), repr(settings), str(settings), repr(settings.account_of("s3://team"))):
        assert not [secret for secret in HIDDEN if secret in text]
    assert all(any(secret in value for value in settings.worker_environment().values()) for secret in HIDDEN)
