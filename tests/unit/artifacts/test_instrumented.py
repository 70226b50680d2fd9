"""Every request to a store is counted with its outcome, and the bytes of objects."""

from collections import Counter

import pytest
from prometheus_client import CollectorRegistry

from secateur_service.artifacts import InstrumentedStore, open_store
from secateur_service.errors import PermanentError
from secateur_service.metrics.attempt_figures import AttemptFigures
from secateur_service.metrics.registry import Metrics
from servers import S3Access


@pytest.fixture(params=["directory", "s3"])
def store(request, tmp_path):
    if request.param == "directory":
        return open_store((tmp_path / "artifacts").as_uri(), S3Access())
    return open_store("s3://models/observed", request.getfixturevalue("s3_server").settings)


def test_what_is_asked_is_passed_on_and_counted_with_its_outcome(store, tmp_path):
    figures = AttemptFigures()
    observed = InstrumentedStore(store, figures)
    (tmp_path / "file").write_bytes(b"x" * 1000)
    observed.put_file(tmp_path / "file", "a/file", "text/plain")
    observed.put_bytes("a/bytes", b"y" * 10, "text/plain")
    assert observed.put_new("a/new", b"z" * 5, "text/plain")
    assert not observed.put_new("a/new", b"z" * 5, "text/plain")
    assert observed.get_bytes("a/bytes") == b"y" * 10
    observed.get_file("a/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"x" * 1000
    assert b"".join(observed.read_range("a/file", 10, 30)) == b"x" * 20
    assert observed.stat("a/bytes").size_bytes == 10
    assert sorted(observed.list_keys("a/")) == ["a/bytes", "a/file", "a/new"]
    assert {key for key, _ in observed.list_objects("a/")} == {"a/bytes", "a/file", "a/new"}
    observed.delete("a/new")
    assert observed.abort_uploads("a/") == 0
    assert observed.uri("a/file") == store.uri("a/file")
    assert observed.download_url("a/file", 60)[0]
    with pytest.raises(PermanentError) as caught:
        observed.get_bytes("a/absent")
    assert figures.fields({"other": 1}) == {
        "other": 1,
        "object_store_requests": {
            "put OK": 4,
            "get OK": 3,
            "stat OK": 1,
            "list OK": 2,
            "delete OK": 1,
            "abort OK": 1,
            f"get {caught.value.reason}": 1,
        },
        "object_store_bytes": Counter(written=1015, read=1030),
    }


def test_the_service_counts_its_own_requests_at_once(store):
    metrics = Metrics(CollectorRegistry(), version="1")
    InstrumentedStore(store, metrics).put_bytes("b", b"four", "text/plain")
    value = metrics.registry.get_sample_value
    assert value("secateur_object_store_requests_total", {"operation": "put", "outcome": "OK"}) == 1
    assert value("secateur_object_store_bytes_total", {"direction": "written"}) == 4
