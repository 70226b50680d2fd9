"""On a folder and on an S3 store."""

import hashlib

import pytest

from secateur_service.artifacts import Manifest, ManifestFile, open_store
from secateur_service.artifacts.leftovers import remove_leftovers
from secateur_service.errors import DamagedResultError, PermanentError
from servers import S3Access

SHARD = "checkpoint/model-block-00000-{}.safetensors"
PUBLISHED = {SHARD.format("a" * 16): b"weights", "checkpoint/config.json": b"{}", "report/report.json": b"{}"}
LEFT = {
    SHARD.format("b" * 16): b"others",
    "checkpoint/model-other-00000-" + "d" * 16 + ".safetensors": b"others",
    "checkpoint/block-00000-" + "e" * 16 + ".safetensors": b"of an earlier release",
    f"manifests/{'c' * 64}.json": b"{}",
}


@pytest.fixture(params=["directory", "s3"])
def store(request, tmp_path):
    if request.param == "directory":
        return open_store((tmp_path / "artifacts").as_uri(), S3Access())
    server = request.getfixturevalue("s3_server")
    return open_store("s3://models/some prefix", server.settings)


def put(store, contents, prefix="job-1"):
    for path, content in contents.items():
        store.put_bytes(f"{prefix}/{path}", content, "application/octet-stream")


def publish(store):
    """Put a result there; returns its manifest's digest."""
    put(store, PUBLISHED)
    files = [
        ManifestFile(
            path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), media_type="text/plain"
        )
        for path, content in PUBLISHED.items()
    ]
    manifest = Manifest(job_id="job-1", attempt=1, files=tuple(files), resolved_spec={}, report_sha256="0" * 64)
    put(store, {"manifest.json": manifest.to_bytes()})
    return manifest.digest()


def paths(store, prefix="job-1"):
    return {key.removeprefix(f"{prefix}/") for key in store.list_keys(f"{prefix}/")}


def test_what_no_manifest_names_goes_and_the_result_and_what_others_put_there_stay(store):
    digest = publish(store)
    theirs = {"checkpoint/model.gguf": b"converted", "notes.txt": b"ours"}
    put(store, {**LEFT, **theirs})
    put(store, LEFT, prefix="job-10")
    assert remove_leftovers(store, "job-1", digest) == len(LEFT)
    assert paths(store) == {"manifest.json", *PUBLISHED, *theirs}
    assert paths(store, "job-10") == set(LEFT)
    assert remove_leftovers(store, "job-1", digest) == 0


def test_of_a_job_without_a_result_nothing_is_left(store):
    put(store, {**PUBLISHED, **LEFT})
    put(store, LEFT, prefix="job-10")
    assert remove_leftovers(store, "job-1", None) == len(PUBLISHED) + len(LEFT)
    assert paths(store) == set()
    assert paths(store, "job-10") == set(LEFT)
    assert remove_leftovers(store, "absent", None) == 0


def test_a_manifest_that_the_job_store_does_not_know_protects_its_files_all_the_same(store):
    publish(store)
    put(store, LEFT)
    assert remove_leftovers(store, "job-1", None) == len(LEFT)
    assert paths(store) == {"manifest.json", *PUBLISHED}


@pytest.mark.parametrize("damage", ["gone", "another", "unreadable"])
def test_nothing_is_removed_beside_a_manifest_that_is_not_the_published_one(store, damage):
    digest = publish(store)
    put(store, LEFT)
    if damage == "gone":
        store.delete("job-1/manifest.json")
    elif damage == "another":
        digest = "f" * 64
    else:
        put(store, {"manifest.json": b"{"})
        digest = hashlib.sha256(b"{").hexdigest()
    before = paths(store)
    with pytest.raises((DamagedResultError, PermanentError), match=r"left alone|cannot be read"):
        remove_leftovers(store, "job-1", digest)
    assert paths(store) == before


def test_without_a_prefix_the_root_is_the_jobs(tmp_path):
    store = open_store((tmp_path / "out").as_uri(), S3Access())
    for path, content in {**PUBLISHED, **LEFT, "notes.txt": b"ours"}.items():
        store.put_bytes(path, content, "text/plain")
    manifest = Manifest(job_id="job-1", attempt=1, files=(), resolved_spec={}, report_sha256="0" * 64)
    store.put_bytes("manifest.json", manifest.to_bytes(), "text/plain")
    assert remove_leftovers(store, "", manifest.digest()) == len(LEFT) + 1
    assert set(store.list_keys("")) == {"manifest.json", "notes.txt", "checkpoint/config.json", "report/report.json"}
