"""Finished blocks move to the object store, and are found again wherever they are."""

import hashlib
import threading
from dataclasses import replace

import pytest

from secateur_service.artifacts import open_store
from secateur_service.artifacts.directory import DirectoryStore
from secateur_service.errors import TransientError
from secateur_service.pipeline.shards import Shards
from secateur_service.records.blocks import BlockRecord


@pytest.fixture(params=["directory", "s3"])
def store(request, tmp_path):
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    server = request.getfixturevalue("s3_server")
    return open_store("s3://models/results", server.settings)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def finished(folder, index=0, content=b"block"):
    """A block as the writer leaves it."""
    digest = hashlib.sha256(content).hexdigest()
    record = BlockRecord(
        index, f"model-block-{index:05d}-{digest[:16]}.safetensors", digest, len(content), (), (), {}, 0.0
    )
    (folder / record.shard).write_bytes(content)
    return record


def moved(folder, store, record, **options):
    shards = Shards(folder, store=store, prefixes=["job"], **options)
    shards.move(record)
    shards.settle(lambda: None)
    shards.close()


def test_a_moved_block_leaves_this_machine_and_comes_back_as_it_was(store, folder, tmp_path):
    record = finished(folder)
    moved(folder, store, record)
    assert list(folder.iterdir()) == []
    assert store.get_bytes(f"job/checkpoint/{record.shard}") == b"block"
    elsewhere = tmp_path / "another machine"
    elsewhere.mkdir()
    shards = Shards(elsewhere, store=store, prefixes=["job"])
    assert shards.holds(record)
    assert shards.fetch(record).read_bytes() == b"block"
    shards.move(record)
    shards.settle(lambda: None)
    shards.close()
    assert list(elsewhere.iterdir()) == []


def test_the_block_of_another_job_is_found_and_copied_to_ones_own(store, folder):
    record = finished(folder)
    moved(folder, store, record)
    shards = Shards(folder, store=store, prefixes=["retry", "job"])
    assert shards.holds(record)
    shards.fetch(record)
    shards.move(record)
    shards.settle(lambda: None)
    shards.close()
    assert store.get_bytes(f"retry/checkpoint/{record.shard}") == b"block"
    assert store.get_bytes(f"job/checkpoint/{record.shard}") == b"block"


def test_a_block_that_is_nowhere_or_shorter_than_it_was_is_not_held(store, folder):
    record = finished(folder)
    shards = Shards(folder, store=store, prefixes=["job"])
    (folder / record.shard).write_bytes(b"blo")
    store.put_bytes(f"job/checkpoint/{record.shard}", b"blo", "text/plain")
    assert not shards.holds(record)
    (folder / record.shard).unlink()
    with pytest.raises(TransientError) as caught:
        shards.fetch(record)
    assert caught.value.reason == "SHARD_GONE"
    shards.settle(lambda: None)
    shards.close()


def test_a_damaged_block_is_removed_so_that_it_is_computed_again(store, folder):
    record = finished(folder)
    moved(folder, store, record)
    store.put_bytes(f"job/checkpoint/{record.shard}", b"BLOCK", "text/plain")
    shards = Shards(folder, store=store, prefixes=["job"])
    with pytest.raises(TransientError) as caught:
        shards.fetch(record)
    assert caught.value.reason == "SHARD_DAMAGED"
    assert not shards.holds(record)
    shards.settle(lambda: None)
    shards.close()


def test_a_store_that_is_away_keeps_blocks_here_and_stops_nobody(s3_server, folder):
    store = open_store("s3://models/results", s3_server.settings)
    record = finished(folder)
    s3_server.kill()
    moved(folder, store, record)
    assert Shards(folder).fetch(record).read_bytes() == b"block"


def test_without_a_store_blocks_stay(folder):
    record = finished(folder)
    moved(folder, None, record)
    assert Shards(folder).fetch(record) == folder / record.shard
    assert Shards(folder).holds(record)


class Slow(DirectoryStore):
    """Waits with every upload until it is let go."""

    def __init__(self, root):
        super().__init__(root)
        self.go = threading.Event()

    def put_file(self, path, key, media_type, on_read=lambda _: None):
        self.go.wait(30)
        super().put_file(path, key, media_type, on_read)


def test_no_more_than_a_few_blocks_wait_to_be_moved(folder, tmp_path):
    store = Slow(tmp_path / "store")
    shards = Shards(folder, store=store, prefixes=["job"])
    records = [finished(folder, index, b"%d" % index) for index in range(4)]
    given = []

    def move_all():
        for record in records:
            shards.move(record)
            given.append(record.index)

    thread = threading.Thread(target=move_all)
    thread.start()
    thread.join(0.5)
    assert given == [0, 1]
    store.go.set()
    thread.join(30)
    shards.settle(lambda: None)
    shards.close()
    assert given == [0, 1, 2, 3]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("where", ["here", "stored"])
def test_a_block_that_an_earlier_release_named_otherwise_is_made_again(store, folder, where):
    record = finished(folder)
    older = replace(record, shard=record.shard.removeprefix("model-"))
    (folder / record.shard).rename(folder / older.shard)
    if where == "stored":
        moved(folder, store, older)
    assert not Shards(folder, store=store, prefixes=["job"]).holds(older)
