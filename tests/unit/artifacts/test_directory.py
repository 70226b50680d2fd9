import threading
from pathlib import Path

import pytest

from secateur_service.artifacts import directory
from secateur_service.artifacts.directory import DirectoryStore
from secateur_service.artifacts.port import ObjectInfo
from secateur_service.errors import PermanentError


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path / "store")


def test_what_is_stored_is_read_back(store, tmp_path):
    (tmp_path / "source").write_bytes(b"weights")
    store.put_file(tmp_path / "source", "job/checkpoint/model", "application/octet-stream")
    store.put_bytes("job/report.json", b"{}", "application/json")
    store.get_file("job/checkpoint/model", tmp_path / "out" / "copy")
    assert store.get_bytes("job/report.json") == b"{}"
    assert (tmp_path / "out" / "copy").read_bytes() == b"weights"
    assert store.stat("job/checkpoint/model") == ObjectInfo(size_bytes=7)
    assert sorted(store.list_keys("job/")) == ["job/checkpoint/model", "job/report.json"]
    assert list(store.list_keys("job/ch")) == ["job/checkpoint/model"]
    assert store.download_url("job/report.json", 60) == ((tmp_path / "store/job/report.json").as_uri(), None)


def test_an_absent_object_is_none_to_stat_and_an_error_to_read(store, tmp_path):
    assert store.stat("nothing") is None
    assert store.stat("no/thing") is None
    assert list(store.list_keys("no/")) == []
    with pytest.raises(PermanentError) as error:
        store.get_bytes("nothing")
    assert error.value.reason == "OBJECT_NOT_FOUND"
    with pytest.raises(PermanentError) as error:
        store.get_file("nothing", tmp_path / "out")
    assert error.value.reason == "OBJECT_NOT_FOUND"
    assert not (tmp_path / "out").exists()


def test_deleting_is_idempotent_and_leaves_no_empty_folders(store, tmp_path):
    store.put_bytes("job/a/b", b"1", "text/plain")
    store.put_bytes("job/c", b"1", "text/plain")
    store.delete("job/a/b")
    store.delete("job/a/b")
    assert not (tmp_path / "store/job/a").exists()
    assert list(store.list_keys("")) == ["job/c"]


def test_a_large_file_is_linked_and_not_copied(store, tmp_path, monkeypatch):
    monkeypatch.setattr(directory, "LINKED_FROM_BYTES", 4)
    (tmp_path / "shard").write_bytes(b"weights")
    store.put_file(tmp_path / "shard", "job/shard", "application/octet-stream")
    assert (tmp_path / "store/job/shard").samefile(tmp_path / "shard")


def test_a_small_file_that_is_written_again_does_not_change_what_was_published(store, tmp_path):
    (tmp_path / "report").write_bytes(b"first")
    store.put_file(tmp_path / "report", "job/report", "application/json")
    (tmp_path / "report").write_bytes(b"again")
    assert store.get_bytes("job/report") == b"first"


def test_a_file_that_already_lies_at_its_place_stays(store, tmp_path):
    store.put_bytes("job/config.json", b"{}", "application/json")
    store.put_file(tmp_path / "store/job/config.json", "job/config.json", "application/json")
    assert store.get_bytes("job/config.json") == b"{}"


def test_of_many_simultaneous_creations_one_wins_and_its_content_is_whole(store):
    contents = [bytes([65 + index]) * 5000 for index in range(16)]
    start = threading.Barrier(len(contents))
    wins = []

    def create(content):
        start.wait()
        if store.put_new("job/manifest.json", content, "application/json"):
            wins.append(content)

    threads = [threading.Thread(target=create, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.get_bytes("job/manifest.json") == wins[0]
    assert list(store.list_keys("job/")) == ["job/manifest.json"]


def test_a_symbolic_link_does_not_lead_out_of_the_folder(store, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    store.put_bytes("job/a", b"1", "text/plain")
    (tmp_path / "store/job/link").symlink_to(tmp_path / "outside")
    (tmp_path / "store/job/file").symlink_to(tmp_path / "outside/secret")
    for key in ("job/link/secret", "job/file"):
        with pytest.raises(PermanentError) as error:
            store.get_bytes(key)
        assert error.value.reason == "OBJECT_STORE_FORBIDDEN"
    with pytest.raises(PermanentError):
        store.put_bytes("job/link/new", b"1", "text/plain")


def test_a_store_where_nothing_can_be_written_says_so():
    store = DirectoryStore(Path("/proc/nowhere"))
    with pytest.raises(PermanentError, match="storing job/a") as error:
        store.put_bytes("job/a", b"1", "text/plain")
    assert error.value.reason == "OBJECT_STORE_REFUSED"


def test_what_writers_that_were_killed_left_is_removed_by_prefix(store, tmp_path):
    store.put_bytes("job/report.json", b"{}", "application/json")
    root = tmp_path / "store"
    for folder in ("job/.partial-a", "job/deep/.partial-b", "job-10/.partial-c"):
        (root / folder).mkdir(parents=True)
        (root / folder / ".partial-content").write_bytes(b"half")
    assert store.abort_uploads("job/") == 2
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) == [
        "job",
        "job-10",
        "job-10/.partial-c",
        "job-10/.partial-c/.partial-content",
        "job/report.json",
    ]
    assert store.abort_uploads("absent/") == 0
