"""What must fail is refused at submission: with its field, on one line, with the right exit code, before any worker."""

import json
import os
from dataclasses import replace

import pytest

import secateur
from secateur.cli._exit import ExitCode, error_text, exit_code
from secateur_service.records.needs import Capacity
from servers import S3Server
from support.forking import run_client
from support.models import save_corpora, save_model
from support.service import AGENT, WITH_WORKERS, Service

HUGE = (1 << 31) - 128
"""A width with which a block has more than a tebibyte."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    server = S3Server(tmp_path_factory.mktemp("refusals") / "s3")
    server.create_bucket("models")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, and corpora that cannot do."""
    folder = tmp_path_factory.mktemp("files")
    save_model(folder / "model")
    save_corpora(folder)
    (folder / "file").write_text("x")
    text = {
        "short": ("de", "txt", "Ein Satz.\n"),
        "repeated": ("de", "txt", "Derselbe Satz.\n" * 9000),
        "one": ("de", "txt", "Ein sehr langer Satz ohne Ende. " * 300),
        "rows": ("de", "jsonl", json.dumps({"text": "Ein Satz."}) + "\n"),
        "fields": ("de", "jsonl", "".join(json.dumps({"body": f"Satz {n}"}) + "\n" for n in range(900))),
    }
    for name, (language, kind, content) in text.items():
        (folder / name).mkdir()
        (folder / name / f"{language}.{kind}").write_text(content)
    (folder / "latin").mkdir()
    (folder / "latin" / "de.txt").write_bytes("Übermut tut selten gut.\n".encode("latin-1") * 90)
    write_huge(folder / "model", folder / "huge")
    return folder


def write_huge(model, folder):
    """A model of enormous blocks, whose file is one hole."""
    folder.mkdir()
    for path in model.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((model / "config.json").read_text())
    old = config["intermediate_size"]
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": HUGE}))
    with (model / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    at = 0
    for name, info in header.items():
        if name == "__metadata__":
            continue
        info["shape"] = [HUGE if size == old else size for size in info["shape"]]
        size = 4
        for length in info["shape"]:
            size *= length
        info["data_offsets"] = [at, at + size]
        at += size
    content = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + at)


@pytest.fixture(scope="module")
def service(tmp_path_factory, files, store):
    folder = tmp_path_factory.mktemp("service")
    places = [(folder / "artifacts").as_uri(), "file:///proc/secateur", (files / "file").as_uri()]
    keys = {"s3_endpoint": store.endpoint, "s3_access_key": store.access_key, "s3_secret_key": "wrong-key-of-nobody"}
    down = {**keys, "s3_endpoint": "http://127.0.0.1:1"}
    accounts = {"denied": {"prefixes": ["s3://models/denied"], **keys}, "down": {"prefixes": ["s3://down"], **down}}
    service = Service(
        folder,
        file_root=files,
        **WITH_WORKERS,
        SECATEUR_HUB_ENDPOINT="http://127.0.0.1:1",
        SECATEUR_DESTINATIONS=",".join([*places, "s3://absent", "s3://models/denied", "s3://down"]),
        SECATEUR_S3_ENDPOINT=store.endpoint,
        SECATEUR_S3_ACCESS_KEY=store.access_key,
        SECATEUR_S3_SECRET_KEY=store.secret_key,
        SECATEUR_CREDENTIALS=json.dumps(accounts),
    )
    yield service
    service.close()


@pytest.fixture(scope="module")
def client(service):
    with secateur.Client(service.endpoint) as client:
        yield client


def specification(files, changes):
    """A specification that is admitted, but for the changes: values by the paths of their fields; None takes one out.

    In a text, `{files}` is the folder of the files.
    """
    spec = {
        "model": {"uri": "{files}/model"},
        "calibration": {
            "corpus": "{files}/calibration",
            "languages": {"de": 0.6, "uk": 0.4},
            "samples": 6,
            "sequence_length": 64,
        },
        "pruning": {"method": "wanda", "sparsity": 0.5},
        "evaluation": {
            "corpus": "{files}/evaluation",
            "languages": ["de", "uk"],
            "tokens_per_language": 512,
            "continuations": 0,
        },
    }
    for path, value in changes.items():
        part, _, name = path.partition(".")
        if value is None:
            del spec[part][name]
        elif name:
            spec.setdefault(part, {})[name] = value
        else:
            spec[part] = value
    return json.loads(json.dumps(spec).replace("{files}", files.as_uri()))


ONE = {"de": 1.0}
ONLY = {"calibration.languages": ONE, "evaluation.languages": ["de"]}
SPEC, UNREACHABLE, DOWN = ExitCode.INVALID_SPEC, ExitCode.REFUSED, ExitCode.UNAVAILABLE


def corpus(name):
    return {**ONLY, "calibration.corpus": f"{{files}}/{name}"}


# What is changed, the field that is refused, a part of what is said, and the exit code.
REFUSALS = {
    # Text
    "more samples than text": (
        {"calibration.samples": 9000},
        "calibration.samples",
        "; set calibration.samples to ",
        SPEC,
    ),
    "longer sequences than text": (
        {"calibration.samples": 1000, "calibration.sequence_length": 256},
        "calibration.samples",
        " of de (German) and ",
        SPEC,
    ),
    "samples that nobody named": (
        {"calibration.samples": None, "calibration.sequence_length": 256},
        "calibration.samples",
        "64 samples of 256 tokens for each language",
        SPEC,
    ),
    "more evaluation than text": (
        {"evaluation.tokens_per_language": 10**7},
        "evaluation.tokens_per_language",
        "set evaluation.tokens_per_language to ",
        SPEC,
    ),
    "evaluation that nobody named": (
        {"evaluation.tokens_per_language": None},
        "evaluation.tokens_per_language",
        "evaluation takes 16,384 of each language",
        SPEC,
    ),
    "a corpus of one line": (corpus("short"), "calibration.samples", "; give more text", SPEC),
    "an evaluation corpus of one line": (
        {**ONLY, "evaluation.corpus": "{files}/short"},
        "evaluation.tokens_per_language",
        "; give more text",
        SPEC,
    ),
    "a line over and over": (
        corpus("repeated"),
        "calibration.samples",
        "there are at most 18 tokens of de (German)",
        SPEC,
    ),
    "one document for both": (
        {**corpus("one"), "evaluation.corpus": "{files}/one"},
        "evaluation.tokens_per_language",
        "name another evaluation.corpus",
        SPEC,
    ),
    "rows of JSON": (corpus("rows"), "calibration.samples", "at most 13 tokens of de (German)", SPEC),
    "another field": (corpus("fields"), "calibration.languages.de", "set text_field", SPEC),
    "another encoding": (corpus("latin"), "calibration.languages.de", "not UTF-8", SPEC),
    # Memory
    "blocks that no machine has memory for": (
        {"model.uri": "{files}/huge"},
        "model.uri",
        "choose a smaller model or a larger machine",
        SPEC,
    ),
    # Destinations
    "a folder that cannot be": ({"output.destination": "file:///proc/secateur"}, "output.destination", "/proc", SPEC),
    "a folder below a file": ({"output.destination": "{files}/file/x"}, "output.destination", "is a file", SPEC),
    "no such bucket": ({"output.destination": "s3://absent/x"}, "output.destination", "no bucket absent", SPEC),
    "keys that may not write": (
        {"output.destination": "s3://models/denied"},
        "output.destination",
        "check the access key",
        SPEC,
    ),
    "a store that is down": ({"output.destination": "s3://down/x"}, "output.destination", "at the moment", DOWN),
    "not below a destination": ({"output.destination": "s3://models/x"}, "output.destination", "not below", SPEC),
    "no destination": ({"output.destination": "results"}, "output.destination", "use s3://", SPEC),
    # The hub
    "a model of the hub": (
        {"model.uri": "hf://org/name"},
        "model.uri",
        "the service cannot reach http://127.0.0.1:1",
        UNREACHABLE,
    ),
    "a preset": ({"calibration.corpus": None}, "calibration.corpus", "the service cannot reach", UNREACHABLE),
    "a preset for evaluation": (
        {"evaluation.corpus": "wikipedia"},
        "evaluation.corpus",
        "the service cannot reach",
        UNREACHABLE,
    ),
    "a data set of the hub": (
        {"evaluation.corpus": "hf://datasets/org/name"},
        "evaluation.corpus",
        "the service cannot reach",
        UNREACHABLE,
    ),
    # Permissions
    "a model outside": ({"model.uri": "file:///etc"}, "model.uri", "", SPEC),
    "a corpus outside": ({"calibration.corpus": "file:///etc"}, "calibration.corpus", "", SPEC),
    "an evaluation corpus outside": ({"evaluation.corpus": "file:///etc"}, "evaluation.corpus", "", SPEC),
    "no such model": ({"model.uri": "{files}/absent"}, "model.uri", "", SPEC),
    "no model there": ({"model.uri": "{files}/calibration"}, "model.uri", "", SPEC),
    "a bucket that may not be read": ({"model.uri": "s3://models/secret"}, "model.uri", "", SPEC),
    # Slips
    "a share above one": ({"pruning.sparsity": 1.5}, "pruning.sparsity", "", SPEC),
    "no such method": ({"pruning.method": "wandaa"}, "pruning.method", "", SPEC),
    "no such order": ({"pruning.order": "blok"}, "pruning.order", "", SPEC),
    "no such field": ({"calibration.sampels": 6}, "calibration.sampels", "", SPEC),
    "no such part": ({"prunning": {}}, "prunning", "", SPEC),
    "no language": ({"calibration.languages": {"d!": 1.0}}, "calibration.languages.d!", "", SPEC),
    "a language without text": (
        {"calibration.languages": {"de": 0.5, "fr": 0.5}},
        "calibration.languages.fr",
        "no file fr.txt",
        SPEC,
    ),
    "more kept than there are": ({"pruning": {"pattern": "4:2"}}, "pruning.pattern", "", SPEC),
    "a word for a number": ({"calibration.samples": "many"}, "calibration.samples", "", SPEC),
    "longer than the model": (
        {"calibration.sequence_length": 512, "evaluation.tokens_per_language": 1024},
        "calibration.sequence_length",
        "use at most 256",
        SPEC,
    ),
}


def test_there_are_forty():
    assert len(REFUSALS) >= 40


@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_refused_where_it_is_wrong(client, service, files, name):
    changes, field, said, code = REFUSALS[name]
    with pytest.raises(secateur.SecateurError) as caught:
        client.submit(specification(files, changes))
    assert exit_code(caught.value) == code
    lines = error_text(caught.value, service.endpoint).splitlines()
    found = next((line for line in lines if line.startswith(f"{field}: ")), None)
    assert found is not None, lines
    assert said in found
    assert len(found) > len(field) + 20
    assert "does not answer" not in "\n".join(lines)
    assert caught.value.retryable == (code is not SPEC)
    assert not service.store.list_jobs(limit=10)[0]


@pytest.mark.parametrize(
    "name",
    ["more samples than text", "blocks that no machine has memory for", "no such bucket", "a model of the hub"],
)
def test_the_command_says_it_in_one_line(service, files, tmp_path, name):
    changes, field, said, code = REFUSALS[name]
    (tmp_path / "spec.yaml").write_text(json.dumps(specification(files, changes)))
    environment = {**os.environ, "SECATEUR_ENDPOINT": service.endpoint, "HOME": str(tmp_path)}
    ended = run_client(["submit", str(tmp_path / "spec.yaml")], tmp_path, environment=environment)
    assert (ended.returncode, ended.stdout) == (code, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{field}: ")
    assert said in line


def test_what_may_fail_is_only_warned_of_beside_what_the_slots_have(client, files):
    spec = specification(files, {"calibration.samples": 60, "evaluation.tokens_per_language": 4096})
    estimate = client.plan(spec).estimate
    assert [warning.partition(":")[0] for warning in estimate.warnings] == ["evaluation.tokens_per_language"]
    assert estimate.slot.host_bytes > estimate.peak_host_bytes
    assert estimate.slot.disk_bytes > estimate.disk_bytes
    assert estimate.bounds.keys() == estimate.seconds.keys() == {"one NVIDIA H100", "1 CPU core"}
    assert estimate.bounds["1 CPU core"] is secateur.Bound.COMPUTING
    assert 0 < estimate.seconds["one NVIDIA H100"] < estimate.seconds["1 CPU core"] < 600


def test_what_no_slot_of_the_server_has_memory_for_is_let_in_while_an_agent_has(client, service, files):
    large = replace(AGENT, id="large:1", capacity=Capacity(0, 0, 10**18, 10**18))
    spec = specification(files, {"model.uri": "{files}/huge"})
    service.store.agents.announce(large)
    warnings = client.plan(spec).estimate.warnings
    (elsewhere,) = [warning for warning in warnings if warning.startswith("model.uri: not in a slot of this server: ")]
    assert " TB of " in elsewhere
    assert elsewhere.endswith("; an agent that has more takes it")
    service.store.agents.withdraw(large.id)
    with pytest.raises(secateur.InvalidSpecError, match="choose a smaller model or a larger machine"):
        client.plan(spec)
