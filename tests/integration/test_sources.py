"""Models and corpora from a hub, a bucket and a folder, through the whole service."""

import json

import pytest
import torch

import secateur
from support.hub import hub_server
from support.models import TEXT, save_corpora, save_model, spec_data
from support.service import WITH_WORKERS, Service, checkpoint_digests, folder_of


@pytest.fixture
def files(tmp_path):
    files = tmp_path / "files"
    save_model(files / "model", "llama", dtype=torch.bfloat16, hidden_size=256, max_shard_size="1MB")
    (files / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    save_corpora(files)
    return files


@pytest.fixture
def hub(files):
    with hub_server() as hub:
        hub.add("models/org/tiny", files / "model")
        for part in ("calibration", "evaluation"):
            hub.add(f"datasets/org/{part}", files / part)
        yield hub


@pytest.fixture
def service(tmp_path, files, hub, s3_server):
    for folder in ("model", "calibration", "evaluation"):
        for path in (files / folder).iterdir():
            target = s3_server.folder / "models" / "given" / folder / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    settings = {
        "SECATEUR_HUB_ENDPOINT": hub.endpoint,
        "SECATEUR_S3_SOURCES": "s3://models/given",
        **s3_server.environment(),
    }
    service = Service(tmp_path, file_root=files, **WITH_WORKERS, **settings)
    yield service
    service.close()


def data_from(files, model, calibration, evaluation):
    data = spec_data(files / "model", files / "calibration", files / "evaluation")
    data["model"]["uri"] = model
    data["calibration"]["corpus"] = calibration
    data["evaluation"]["corpus"] = evaluation
    return data


def test_the_same_model_and_text_give_the_same_bytes_wherever_they_lie(service, files, hub):
    places = {
        "file": [(files / name).as_uri() for name in ("model", "calibration", "evaluation")],
        "s3": [f"s3://models/given/{name}" for name in ("model", "calibration", "evaluation")],
        "hf": ["hf://org/tiny", "hf://datasets/org/calibration", "hf://datasets/org/evaluation@main"],
    }
    hub.break_off_after = [300_000, 200_000]  # more than is looked at before the job is accepted
    results = {}
    with secateur.Client(service.endpoint) as client:
        for place, uris in places.items():
            job = client.submit(data_from(files, *uris))
            results[place] = job.result(timeout_seconds=120)
            resolved = job.get().resolved_spec
            if place == "hf":
                commits = {name: repository.commit for name, repository in hub.repositories.items()}
                assert resolved["model"] == {"uri": "hf://org/tiny", "revision": commits["models/org/tiny"]}
                corpus = f"hf://datasets/org/calibration@{commits['datasets/org/calibration']}"
                assert resolved["calibration"]["corpus"] == corpus
                told = [e for e in job.watch(after_sequence=0) if getattr(e, "message", "") == "fetching model"]
                assert int(told[-1].fields["bytes"]) == int(told[-1].fields["of_bytes"]) > 100_000
    card = (folder_of(results["hf"]) / "checkpoint" / "README.md").read_text()
    assert f"hf://org/tiny at {hub.repositories['models/org/tiny'].commit}" in card
    assert "license: " in card, "the card of the model was not looked at"
    page = (folder_of(results["hf"]) / "report" / "report.html").read_text()
    assert hub.repositories["models/org/tiny"].commit in page
    digests = {place: checkpoint_digests(result) for place, result in results.items()}
    assert digests["file"] == digests["s3"] == digests["hf"] != {}
    models = {json.dumps(result.report["model"]["digest"]) for result in results.values()}
    assert len(models) == 1
    assert not hub.break_off_after, "nothing was interrupted"


def test_a_preset_is_read_from_the_hub_a_part_at_a_time_and_pinned_to_its_commit(service, files, hub):
    texts = {name: (TEXT / f"{name}.txt").read_text().splitlines() for name in ("de", "en", "uk")}
    commit = hub.add_mc4({**texts, "en-multi": texts["en"]}).commit
    model = (files / "model").as_uri()
    data = data_from(files, model, "mc4", "mc4")
    del data["calibration"]["corpus"], data["evaluation"]["corpus"]  # it is the default
    with secateur.Client(service.endpoint) as client:
        hub.break_off_after = [4_000, 2_000]
        results = [client.submit(data).result(timeout_seconds=120) for _ in range(2)]
        assert not hub.break_off_after, "nothing was interrupted"
        first, second = (result.report for result in results)
        assert first["spec"]["calibration"]["corpus"] == first["spec"]["evaluation"]["corpus"] == f"mc4@{commit}"
        assert [entry["digest"] for entry in first["calibration"]] == [
            entry["digest"] for entry in second["calibration"]
        ]
        other = client.submit({**data, "calibration": {**data["calibration"], "seed": 1}}).result(timeout_seconds=120)
        assert first["calibration"][0]["digest"] != other.report["calibration"][0]["digest"]
        assert first["calibration"][0]["tokens"] == 3 * 64
        with pytest.raises(secateur.InvalidSpecError) as caught:
            client.submit(data_from(files, model, "mc4", "fineweb-2"))
        assert {fault.field for fault in caught.value.violations} == {"evaluation.corpus", "evaluation.languages[2]"}
        data["calibration"] = {**data["calibration"], "corpus": "mc4", "languages": ["de", "fr", "rw"]}
        with pytest.raises(secateur.InvalidSpecError) as caught:
            client.submit(data)
        faults = {fault.field: fault.description for fault in caught.value.violations}
        assert set(faults) == {"calibration.languages[1].language", "calibration.languages[2].language"}
        assert "no configuration fr" in faults["calibration.languages[1].language"]
        assert "mc4 has no rw" in faults["calibration.languages[2].language"]


def test_what_cannot_be_had_is_refused_when_it_is_submitted(service, files):
    refusals = {
        "hf://org/absent": "or it is private",
        "hf://org/tiny@absent": "has no revision absent",
        "s3://models/elsewhere": "not below a prefix",
        "s3://models/given/absent": "no objects below",
        "http://169.254.169.254/latest": "unknown scheme",
    }
    corpora = [(files / name).as_uri() for name in ("calibration", "evaluation")]
    with secateur.Client(service.endpoint) as client:
        for uri, complaint in refusals.items():
            with pytest.raises(secateur.InvalidSpecError) as caught:
                client.submit(data_from(files, uri, *corpora))
            [violation] = caught.value.violations
            assert violation.field == "model.uri"
            assert complaint in violation.description
        assert list(client.list_jobs()) == []
