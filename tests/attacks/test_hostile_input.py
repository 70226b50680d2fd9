"""Models, references, corpora and specifications that mean harm, against a running server.

Whatever is submitted: it is refused with its field and a reason, at once; the server answers as before, takes no more
memory, executes nothing and reads nothing outside its roots.
"""

import gzip
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import grpc
import pytest
import torch

import secateur
from secateur.v1 import prune_service_pb2 as service_pb
from secateur.v1 import prune_service_pb2_grpc as stubs
from support.models import save_corpora, save_model, spec_data
from support.service import Service

SECRET = "the secret of another"
MORE_MEMORY_BYTES = 48 << 20


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "outside").mkdir()
    (folder / "outside" / "model.safetensors").write_text(SECRET)
    (folder / "outside" / "de.txt").write_text(SECRET)
    files = folder / "files"
    save_model(files / "model", "llama", dtype=torch.bfloat16)
    save_corpora(files)
    service = Service(folder)
    yield service
    service.close()


@pytest.fixture
def client(service):
    with secateur.Client(service.endpoint) as client:
        yield client


def memory_bytes(service):
    status = Path(f"/proc/{service.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


@pytest.fixture
def refused(service, client):
    """Submits, expects a refusal, and looks at the server; returns the violations by field."""

    def submit(data):
        before = memory_bytes(service)
        with pytest.raises(secateur.InvalidSpecError) as caught:
            client.submit(data)
        assert memory_bytes(service) - before < MORE_MEMORY_BYTES
        assert SECRET not in str(caught.value)
        assert str(service.folder / "outside") not in str(caught.value)
        assert list(client.list_jobs()) == []
        return {violation.field: violation.description for violation in caught.value.violations}

    return submit


def spec(service, model="model", calibration="calibration"):
    files = service.file_root
    return spec_data(files / model, files / calibration, files / "evaluation")


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def header(entries, length=None):
    encoded = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded


def tensor(begin, end, shape=(2,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


def edited(**changes):
    def edit(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return edit


def weights(content):
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def index(content):
    def edit(folder):
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return edit


def only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder / "executed")))


def a_pickle_as_a_shard(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder / "executed")))
    index({"weight_map": {"model.norm.weight": "pytorch_model.bin"}})(folder)


def a_link_out(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder.parents[1] / "outside" / "model.safetensors")


def a_sparse_giant(folder):
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header(b"", 90_000_000))
        file.truncate(1 << 40)


def many_tensors(count):
    entry = '"t%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return weights(header(b"{" + b",".join(entry.encode() % number for number in range(count)) + b"}"))


MODELS = {
    "a list of huge dimensions": (weights(header({"a": tensor(0, 4, [2**63 - 1] * 100_000)}) + bytes(4)), "at most 16"),
    "a million tensors": (many_tensors(1_000_000), "claims a header"),
    "150 thousand tensors": (many_tensors(150_000), "at most 120000"),
    "a tensor that is named twice": (weights(header(b'{"a":{},"a":{}}')), "named twice"),
    "a configuration of 45 MB": (
        lambda folder: (folder / "config.json").write_text('{"a":[' + "[]," * 15_000_000 + "0]}"),
        "larger than",
    ),
    "a configuration of a million lists": (
        lambda folder: (folder / "config.json").write_text('{"a":[' + "[]," * 1_000_000 + "0]}"),
        "more than 200000 values",
    ),
    "only a pickle": (only_a_pickle, "no safetensors checkpoint"),
    "a pickle named by the index": (a_pickle_as_a_shard, "never opened"),
    "code of its own": (edited(auto_map={"AutoModelForCausalLM": "evil.Model"}), "never run"),
    "an unknown architecture": (edited(model_type="evil"), "not supported"),
    "no weights at all": (weights(b""), "too short"),
    "a header that is cut off": (weights(header({"a": tensor(0, 8)})[:-5]), "claims a header"),
    "a header without an end": (weights(header(b"", 2**63)), "claims a header"),
    "a header of 90 MB of nothing": (a_sparse_giant, "claims a header"),
    "a header of brackets": (weights(header(b"[" * 1_000_000)), "malformed"),
    "tensors over each other": (weights(header({"a": tensor(0, 8), "b": tensor(4, 12)}) + bytes(12)), "overlaps"),
    "a hole between tensors": (weights(header({"a": tensor(0, 8), "b": tensor(12, 20)}) + bytes(20)), "gap"),
    "bytes behind the last tensor": (weights(header({"a": tensor(0, 8)}) + bytes(9)), "describes"),
    "a shape that overflows": (weights(header({"a": tensor(0, 8, [2**62, 4])}) + bytes(8)), "what its shape needs"),
    "an index of files above": (index({"weight_map": {"a": "../../outside/model.safetensors"}}), "not a file of the"),
    "an index of absolute files": (index({"weight_map": {"a": "/etc/passwd"}}), "not a file of the"),
    "an index of absent files": (index({"weight_map": {"a": "absent.safetensors"}}), "not a file of the"),
    "an index that is a list": (index(["a"]), "not a JSON object"),
    "weights that are a link out": (a_link_out, "a link out"),
    "a vocabulary that the weights do not have": (edited(vocab_size=10**12), "vocab_size"),
    "a hidden size that the weights do not have": (edited(hidden_size=10**12), "hidden_size"),
    "a billion blocks": (edited(num_hidden_layers=10**9), "expected at most 10000"),
    "minus one block": (edited(num_hidden_layers=-1), "how many blocks"),
    "a configuration of brackets": (lambda folder: (folder / "config.json").write_text("[" * 10**6), "not valid JSON"),
    "a configuration of 60 MB": (lambda folder: (folder / "config.json").write_text(" " * 60_000_000), "larger than"),
    "quantised weights": (edited(quantization_config={"bits": 4}), "quantised"),
}


@pytest.mark.parametrize("attack", MODELS)
def test_a_hostile_model_is_refused(service, refused, attack):
    make, complaint = MODELS[attack]
    name = attack.replace(" ", "-")
    shutil.copytree(service.file_root / "model", service.file_root / name)
    make(service.file_root / name)
    violations = refused(spec(service, model=name))
    assert set(violations) == {"model.uri"}
    assert any(part in violations["model.uri"] for part in complaint.split("|"))
    assert not (service.file_root / name / "executed").exists(), "the pickle was opened"


REFERENCES = [
    "file:///etc",
    "file:///{root}/../outside",
    "file:///{root}/%2e%2e/outside",
    "file:///{root}/%2E%2E%2Foutside",
    "file:///{root}/a%00b",
    "file://attacker/share",
    "file:///" + "x" * 1000,
    "file:///" + "a/../" * 150,
    "http://169.254.169.254/latest/meta-data",
    "http://127.0.0.1:8080/",
    "https://huggingface.co/org/name",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "hf://127.0.0.1:8080/org",
    "hf://org/../../etc",
    "hf://org/name@../../../etc/passwd",
    "s3://169.254.169.254/latest",
    "s3://models/../../etc",
    "s3://user:password@host/models",
    "/etc/passwd",
    "../outside",
    "\u2024\u2024/outside",
    "file:///etc\r\nX-Header: 1",
]


@pytest.mark.parametrize("uri", REFERENCES)
def test_a_hostile_reference_is_refused_for_models_and_corpora(service, refused, uri):
    uri = uri.replace("{root}", str(service.file_root).lstrip("/"))
    data = spec(service)
    data["model"]["uri"] = data["calibration"]["corpus"] = data["evaluation"]["corpus"] = uri
    assert set(refused(data)) == {"model.uri", "calibration.corpus", "evaluation.corpus"}


@pytest.mark.parametrize("link", ["de.txt", "de"])
def test_a_corpus_that_links_out_of_the_roots_is_refused(service, refused, link):
    folder = service.file_root / f"linked-{link}"
    folder.mkdir()
    (folder / "uk.txt").write_text("text")
    (folder / link).symlink_to(service.folder / "outside" / ("de.txt" if link == "de.txt" else ""))
    assert "a link out" in refused(spec(service, calibration=folder.name))["calibration.corpus"]


def test_a_million_labels_and_fifty_megabytes_are_refused(service, client):
    before = memory_bytes(service)
    with grpc.insecure_channel(service.endpoint) as channel:
        stub = stubs.PruneServiceStub(channel)
        labels = {f"k{number}": "v" for number in range(1_000_000)}
        request = service_pb.CreatePruneJobRequest(labels=labels)
        assert request.ByteSize() > 10_000_000
        with pytest.raises(grpc.RpcError) as caught:
            stub.CreatePruneJob(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        huge = service_pb.CreatePruneJobRequest(request_id="x" * 50_000_000)
        with pytest.raises(grpc.RpcError) as caught:
            stub.CreatePruneJob(huge)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert memory_bytes(service) - before < MORE_MEMORY_BYTES
    assert list(client.list_jobs()) == []


def test_a_corpus_that_grows_without_end_is_not_opened_before_the_job_runs(service, client):
    folder = service.file_root / "bomb"
    folder.mkdir()
    for language in ("de", "uk"):
        (folder / f"{language}.txt.gz").write_bytes(gzip.compress(bytes(1 << 26)))
    before = memory_bytes(service)
    client.submit(spec(service, calibration="bomb")).cancel()
    assert memory_bytes(service) - before < MORE_MEMORY_BYTES
