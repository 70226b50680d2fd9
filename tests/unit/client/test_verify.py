"""A result on this machine, checked against its manifest."""

import hashlib
import json
import os

import pytest

import secateur

FILES = {
    "checkpoint/config.json": b"{}",
    "checkpoint/model-block-00000.safetensors": os.urandom(1000),
    "report/report.json": b'{"a": 1}',
}


@pytest.fixture
def result(tmp_path):
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    write_manifest(tmp_path, FILES)
    return tmp_path


def write_manifest(folder, files):
    listed = [
        {"path": path, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files.items()
    ]
    (folder / "manifest.json").write_text(json.dumps({"job_id": "j", "files": listed}))


def test_a_result_as_it_was_published_is_intact(result):
    digest = hashlib.sha256((result / "manifest.json").read_bytes()).hexdigest()
    found = secateur.verify(result, manifest_sha256=digest.upper())
    assert (found.intact, found.job, found.manifest_sha256) == (True, "j", digest)
    assert str(found) == "3 of 3 files are intact"


def test_what_is_damaged_missing_and_extra_is_named(result):
    shard = result / "checkpoint/model-block-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[500] ^= 1
    shard.write_bytes(content)
    (result / "report/report.json").unlink()
    (result / "checkpoint/config.json").unlink()
    (result / "checkpoint/config.json").mkdir()
    (result / "notes.txt").write_text("mine")
    found = secateur.verify(result)
    assert not found.intact
    assert found.damaged == ("checkpoint/config.json", "checkpoint/model-block-00000.safetensors")
    assert (found.missing, found.extra) == (("report/report.json",), ("notes.txt",))
    assert str(found) == "0 of 3 files are intact, 2 damaged, 1 missing, 1 extra"


def test_extra_files_do_not_count_against_a_result(result):
    (result / "checkpoint/model.gguf").write_bytes(b"x")
    found = secateur.verify(result)
    assert (found.intact, found.extra) == (True, ("checkpoint/model.gguf",))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "has no manifest.json"),
        (b"{", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"job_id": "j", "files": [{"path": "../x", "size_bytes": 1, "sha256": "0"}]}', "leads out of the folder"),
        (b'{"job_id": "j", "files": [{"path": "x"}]}', "is damaged"),
    ],
)
def test_without_a_manifest_nothing_can_be_said(result, content, told):
    (result / "manifest.json").unlink()
    if content is not None:
        (result / "manifest.json").write_bytes(content)
    with pytest.raises(secateur.IntegrityError, match=told):
        secateur.verify(result)


def test_another_manifest_than_the_one_that_is_expected_is_refused(result):
    with pytest.raises(secateur.IntegrityError, match="it is another result"):
        secateur.verify(result, manifest_sha256="0" * 64)
