"""Prefixes of a real object store."""

import pytest

from secateur_service.artifacts import open_store
from secateur_service.sources import ReferenceRefusedError, Sources
from secateur_service.sources import bucket as bucket_module
from servers import S3Access


@pytest.fixture
def objects(s3_server):
    store = open_store("s3://models/given", s3_server.settings)
    for name in ("config.json", "model.safetensors", "deep/model.safetensors"):
        store.put_bytes(f"tiny/{name}", name.encode() * 10, "text/plain")
    return store


@pytest.fixture
def open_source(s3_server, cache):
    def make(uri="s3://models/given/tiny", revision=None):
        sources = Sources(None, ["s3://models/given"], lambda uri: open_store(uri, s3_server.settings), None, cache)
        return sources.open(uri, revision)

    return make


def test_what_lies_below_a_prefix_is_fetched_and_known_again(objects, open_source):
    source = open_source()
    assert source.uri == source.pinned_uri == "s3://models/given/tiny"
    folder = source.fetch(lambda names: names)
    fetched = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert sorted(fetched) == [".reference", ".used", "config.json", "deep/model.safetensors", "model.safetensors"]
    assert (folder / "config.json").read_bytes() == b"config.json" * 10
    assert open_source(revision=source.revision).fetch(lambda names: names) == folder


def test_objects_that_have_changed_are_another_version(objects, open_source):
    before = open_source().revision
    objects.put_bytes("tiny/config.json", b"changed", "text/plain")
    assert open_source().revision != before
    with pytest.raises(ReferenceRefusedError, match="has changed since the job was submitted"):
        open_source(revision=before)


def test_an_object_that_goes_meanwhile_is_a_refusal(objects, open_source):
    source = open_source()
    objects.delete("tiny/config.json")
    with pytest.raises(ReferenceRefusedError, match="it was there before"):
        source.fetch(lambda names: names)


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [("s3://models/given/absent", "no objects below"), ("s3://models/other", "not below a prefix")],
)
def test_what_is_not_there_or_not_allowed_is_refused(objects, open_source, uri, complaint):
    with pytest.raises(ReferenceRefusedError, match=complaint):
        open_source(uri)


def test_a_prefix_with_too_many_objects_is_no_folder(objects, open_source, monkeypatch):
    monkeypatch.setattr(bucket_module, "_MAX_OBJECTS", 2)
    with pytest.raises(ReferenceRefusedError, match="name a folder"):
        open_source()


def test_no_access_keys_are_a_refusal_that_says_what_to_set(cache):
    sources = Sources(None, None, lambda uri: open_store(uri, S3Access()), None, cache)
    with pytest.raises(ReferenceRefusedError, match="SECATEUR_S3_ACCESS_KEY"):
        sources.open("s3://models/given/tiny")


def test_no_hub_is_a_refusal_that_says_what_to_set(cache):
    with pytest.raises(ReferenceRefusedError, match="SECATEUR_HUB_ENDPOINT"):
        Sources(None, None, lambda _: None, None, cache).open("hf://org/name")
