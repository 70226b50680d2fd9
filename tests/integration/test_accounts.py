"""Accounts by prefix, at a real object store and a hub that answers as the real one: who may read and write what."""

import pytest

from secateur_service.admission import AccessPolicy, admit
from secateur_service.artifacts import open_store
from secateur_service.errors import InvalidSpecError, PermanentError
from secateur_service.models.files import checkpoint_files
from secateur_service.settings import Settings
from secateur_service.sources import ReferenceRefusedError, open_sources
from secateur_service.sources import hub as hub_module
from support.hub import hub_server
from support.models import TEXT, save_corpora, save_model, spec_data


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Waits between tries are for the real hub."""
    monkeypatch.setattr(hub_module, "RETRIES", 1)
    monkeypatch.setattr(hub_module, "WAIT_SECONDS", 0.01)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    save_model(folder / "model")
    save_corpora(folder)
    return folder


@pytest.fixture
def hub(files):
    with hub_server() as hub:
        for name in ("models/team/model", "models/team/other", "models/public/model"):
            hub.add(name, files / "model", private=not name.startswith("models/public"))
        for name in ("datasets/team/text", "datasets/team2/text"):
            hub.add(name, files / "calibration", private=True)
        yield hub


@pytest.fixture
def settings(tmp_path, hub, s3_server, files):
    """A service whose own keys and token open nothing, and those of a team."""
    for place in ("team/model", "team2/model"):
        for path in (files / "model").iterdir():
            target = s3_server.folder / "models" / place / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return Settings(
        data_dir=tmp_path / "data",
        destinations=["s3://models/team/results", "s3://models/team2/results"],
        s3_endpoint="http://127.0.0.1:9",  # nobody listens there
        s3_access_key="nobody",
        s3_secret_key="wrong",
        s3_sources=["s3://models"],
        hub_endpoint=hub.endpoint,
        hub_token="hf_" + "w" * 34,
        credentials={
            "team": {
                "prefixes": ["s3://models/team", "hf://team/model", "hf://datasets/team"],
                "s3_endpoint": s3_server.endpoint,
                "s3_access_key": s3_server.access_key,
                "s3_secret_key": s3_server.secret_key,
                "hub_token": hub.token,
            },
            "stranger": {
                "prefixes": ["s3://models/team2"],
                "s3_endpoint": s3_server.endpoint,
                "s3_access_key": s3_server.access_key,
                "s3_secret_key": "wrong",
            },
        },
    )


def data_of(files, model, corpus):
    data = spec_data(files / "model", files / "calibration", files / "evaluation")
    data["model"]["uri"] = model
    data["calibration"]["corpus"] = data["evaluation"]["corpus"] = corpus
    return data


def fetch(settings, uri):
    return (
        open_sources(settings)
        .open(uri)
        .fetch(checkpoint_files, check=lambda: None, on_progress=lambda _done, _total: None)
    )


def test_a_model_in_a_bucket_is_read_and_a_result_written_with_the_keys_of_the_prefix(settings, s3_server, files):
    fetched = fetch(settings, "s3://models/team/model")
    assert (fetched / "model.safetensors").read_bytes() == (files / "model" / "model.safetensors").read_bytes()
    destination = "s3://models/team/results"
    store = open_store(destination, settings.account_of(destination))
    store.put_bytes("job/report.json", b"{}", "application/json")
    assert (s3_server.folder / "models/team/results/job/report.json").read_bytes() == b"{}"
    assert store.get_bytes("job/report.json") == b"{}"


def test_a_prefix_with_other_keys_is_not_entered_with_these(settings, s3_server):
    with pytest.raises(ReferenceRefusedError, match="check the access key and its rights"):
        fetch(settings, "s3://models/team2/model")
    destination = "s3://models/team2/results"
    with pytest.raises(PermanentError):
        open_store(destination, settings.account_of(destination)).put_bytes("job/report.json", b"{}", "text/plain")
    assert not (s3_server.folder / "models/team2/results").exists()
    keys = settings.credentials["team"].model_copy(update={"prefixes": ("s3://models/team2",)})
    assert fetch(settings.model_copy(update={"credentials": {"team2": keys}}), "s3://models/team2/model")


def test_a_private_repository_is_read_with_the_token_of_its_prefix_and_with_no_other(settings, hub, files):
    fetched = fetch(settings, "hf://team/model")
    assert (fetched / "model.safetensors").read_bytes() == (files / "model" / "model.safetensors").read_bytes()
    for uri in ("hf://team/other", "hf://datasets/team2/text"):
        with pytest.raises(ReferenceRefusedError, match="or it is private") as caught:
            fetch(settings, uri)
        assert hub.token not in str(caught.value)
    without = settings.model_copy(update={"credentials": {}})
    with pytest.raises(ReferenceRefusedError, match="or it is private"):
        fetch(without, "hf://team/model")


def test_what_everybody_may_read_is_read_without_an_account(settings, hub):
    nobody = settings.model_copy(update={"credentials": {}, "hub_token": None})
    assert fetch(nobody, "hf://public/model")


@pytest.mark.parametrize("model", ["s3://models/team/model", "hf://team/model"])
def test_a_job_may_name_what_the_accounts_of_the_service_open(settings, hub, files, model):
    access = AccessPolicy.from_settings(settings)
    resolved = admit(data_of(files, model, "hf://datasets/team/text"), access).resolved
    assert resolved.model.revision
    assert resolved.calibration.corpus.startswith("hf://datasets/team/text@")
    assert resolved.output.destination == "s3://models/team/results"
    closed = AccessPolicy.from_settings(settings.model_copy(update={"credentials": {}}))
    with pytest.raises(InvalidSpecError) as caught:
        admit(data_of(files, "hf://team/model", "hf://datasets/team/text"), closed)
    assert {fault.field for fault in caught.value.violations} == {
        "model.uri",
        "calibration.corpus",
        "evaluation.corpus",
    }


def test_a_preset_is_looked_up_with_the_token_of_its_data_set(settings, hub, files):
    lines = {name: (TEXT / f"{name}.txt").read_text(encoding="utf-8").splitlines()[:3] for name in ("de", "en", "uk")}
    commit = hub.add_mc4({**lines, "en-multi": lines["en"]}).commit
    hub.repositories["datasets/allenai/c4"].private = True
    data = data_of(files, "hf://public/model", "mc4")
    with pytest.raises(InvalidSpecError, match="or it is private"):
        admit(data, AccessPolicy.from_settings(settings))
    account = {"c4": {"prefixes": ["hf://datasets/allenai/c4"], "hub_token": hub.token}}
    here = [(settings.data_dir / "results").as_uri()]
    known = Settings(**{**dict(settings), "credentials": account, "destinations": here})
    assert admit(data, AccessPolicy.from_settings(known)).resolved.calibration.corpus == f"mc4@{commit}"
