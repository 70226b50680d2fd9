"""Models and corpora from a hub, a bucket and a folder, through the whole service."""

import json
import os

import pytest
import torch
from transformers import AutoModelForCausalLM

import secateur
from secateur._text import size
from secateur_service.admission import AccessPolicy, admit
from secateur_service.errors import InvalidSpecError
from secateur_service.settings import Settings
from secateur_service.sources import open_sources
from support.forking import run_command
from support.hub import hub_server
from support.models import TEXT, save_corpora, save_model, spec_data
from support.service import WITH_WORKERS, Service, checkpoint_digests, folder_of
from support.waiting import HANG_SECONDS


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
def service(request, tmp_path, files, hub, s3_server):
    """Of tests marked `started`, workers are started as an installation starts them."""
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
    started = request.node.get_closest_marker("started") is not None
    service = Service(tmp_path, file_root=files, started=started, **WITH_WORKERS, **settings)
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
            results[place] = job.result(timeout_seconds=HANG_SECONDS)
            resolved = job.get().resolved_spec
            if place == "hf":
                commits = {name: repository.commit for name, repository in hub.repositories.items()}
                assert resolved["model"] == {"uri": "hf://org/tiny", "revision": commits["models/org/tiny"]}
                corpus = f"hf://datasets/org/calibration@{commits['datasets/org/calibration']}"
                assert resolved["calibration"]["corpus"] == corpus
                events = list(job.watch(after_sequence=0))
                told = [e for e in events if getattr(e, "message", "").startswith("fetching model: ")]
                size_bytes = int(told[-1].fields["of_bytes"])
                assert int(told[-1].fields["bytes"]) == size_bytes > 100_000
                assert f" of {size(size_bytes)}" in told[-1].message
                progress = [event.progress for event in events if isinstance(event, secateur.ProgressEvent)]
                assert 0 < progress[0].bytes_total <= size_bytes
                assert progress[-1].bytes_total == 0
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


@pytest.mark.started  # `datasets` takes the hub's address from the environment when it is loaded
def test_a_preset_is_read_from_the_hub_a_part_at_a_time_and_pinned_to_its_commit(service, files, hub):
    texts = {name: (TEXT / f"{name}.txt").read_text().splitlines() for name in ("de", "en", "uk")}
    commit = hub.add_mc4({**texts, "en-multi": texts["en"]}).commit
    model = (files / "model").as_uri()
    data = data_from(files, model, "mc4", "mc4")
    del data["calibration"]["corpus"], data["evaluation"]["corpus"]  # it is the default
    with secateur.Client(service.endpoint) as client:
        hub.break_off_after = [4_000, 2_000]
        report = client.submit(data).result(timeout_seconds=HANG_SECONDS).report
        assert not hub.break_off_after, "nothing was interrupted"
        assert report["spec"]["calibration"]["corpus"] == report["spec"]["evaluation"]["corpus"] == f"mc4@{commit}"
        assert [entry["tokens"] for entry in report["calibration"]] == [3 * 64] * 2
        assert [entry["identified"]["share"] for entry in report["calibration"]] == [1, 1]
        with pytest.raises(secateur.InvalidSpecError) as caught:
            client.submit(data_from(files, model, "mc4", "fineweb-2"))
        assert {fault.field for fault in caught.value.violations} == {"evaluation.corpus", "evaluation.languages[2]"}
        data["calibration"] = {**data["calibration"], "corpus": "mc4", "languages": ["de", "fr", "rw"]}
        with pytest.raises(secateur.InvalidSpecError) as caught:
            client.submit(data)
        faults = {fault.field: fault.description for fault in caught.value.violations}
        assert set(faults) == {"calibration.languages[1]", "calibration.languages[2]"}
        assert "no configuration fr" in faults["calibration.languages[1]"]
        assert "mc4 has no rw" in faults["calibration.languages[2]"]


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


@pytest.mark.parametrize(
    ("dtype", "tied", "shard"),
    [("bfloat16", True, "100KB"), ("float16", False, "50GB"), ("float32", True, "50GB"), ("bfloat16", False, "100KB")],
)
def test_every_type_of_weights_sharded_or_not_with_a_head_of_its_own_or_tied(hub, files, tmp_path, dtype, tied, shard):
    of_type = getattr(torch, dtype)
    model = save_model(
        tmp_path / "typed", "llama", dtype=of_type, tie_word_embeddings=tied, hidden_size=128, max_shard_size=shard
    )
    hub.add("models/org/typed", model)
    (tmp_path / "spec.yaml").write_text(
        json.dumps(
            data_from(files, "hf://org/typed", *((files / name).as_uri() for name in ("calibration", "evaluation")))
        )
    )
    environment = {**os.environ, "SECATEUR_HUB_ENDPOINT": hub.endpoint, "SECATEUR_CACHE_DIR": str(tmp_path / "cache")}
    arguments = ["run", str(tmp_path / "spec.yaml"), "--output", str(tmp_path / "out"), "--threads", "1", "--json"]
    ran = run_command(arguments, tmp_path, environment=environment)
    assert ran.returncode == 0, ran.stderr
    dense, pruned = (
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        for folder in (model, tmp_path / "out" / "checkpoint")
    )
    assert dense.config.tie_word_embeddings == tied
    names = [name for name, _ in dense.named_parameters()]
    assert [name for name, _ in pruned.named_parameters()] == names
    for (name, before), after in zip(dense.named_parameters(), pruned.parameters(), strict=True):
        assert before.dtype == after.dtype == of_type
        is_pruned = "proj" in name
        assert (float((after == 0).float().mean()) == 0.5) == is_pruned, name
        assert torch.equal(before, after) != is_pruned


@pytest.mark.parametrize(
    "quantisation",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "fp8"},
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    ],
    ids=lambda given: given["quant_method"],
)
def test_a_quantised_checkpoint_is_refused_with_the_remedy(hub, files, tmp_path, quantisation):
    config = json.loads((files / "model" / "config.json").read_text())
    (files / "model" / "config.json").write_text(json.dumps({**config, "quantization_config": quantisation}))
    hub.add("models/org/quantised", files / "model")
    places = [(files / name).as_uri() for name in ("calibration", "evaluation")]
    settings = Settings(hub_endpoint=hub.endpoint, cache_dir=tmp_path / "cache")
    access = AccessPolicy(open_sources(settings, everywhere=True), destinations=None, on_device=False)
    with pytest.raises(InvalidSpecError) as caught:
        admit(data_from(files, "hf://org/quantised", *places), access)
    [violation] = caught.value.violations
    assert violation.field == "model.uri"
    assert "prune the unquantised model and quantise the result" in violation.description
