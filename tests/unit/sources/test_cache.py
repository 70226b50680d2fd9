"""The cache over a folder of this machine as the remote one."""

import os
import threading

import pytest

from secateur_service.errors import ResourceError, TransientError
from secateur_service.sources import Cache, cache
from secateur_service.sources.remote import RemoteFile
from support.waiting import HANG_SECONDS


class Remote:
    """Files of zeros, of given sizes."""

    def __init__(self, name, **sizes):
        self.identity = self.revision = name
        self.files = {file: RemoteFile(file, size) for file, size in sizes.items()}
        self.reads = []

    def read(self, file, start, stop):
        self.reads.append((file.name, start, stop))
        yield bytes(stop - start)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cache, "WAIT_SECONDS", 0.01)


def fetch(cache, remote, **options):
    return cache.fetch(remote, list(remote.files), **options)


def test_what_was_not_used_for_longest_goes_first_and_never_what_is_held(tmp_path):
    folders = {}
    for position, name in enumerate(("oldest", "older", "newest")):
        user = Cache(tmp_path, limit_bytes=4000)
        folders[name] = fetch(user, Remote(name, a=1000))
        os.utime(folders[name] / ".used", (position, position))
        if name == "oldest":
            holder = user
        else:
            user.release()
    user = Cache(tmp_path, limit_bytes=4000)
    fetch(user, Remote("large", a=2000))
    assert {name for name, folder in folders.items() if folder.exists()} == {"oldest", "newest"}
    with pytest.raises(ResourceError) as caught:
        fetch(user, Remote("larger", a=2000))
    assert caught.value.reason == "CACHE_TOO_SMALL"
    holder.release()
    fetch(user, Remote("larger", a=1500))
    assert not folders["oldest"].exists()
    user.release()


def test_more_than_the_disk_has_is_refused_before_anything_is_fetched(tmp_path):
    remote = Remote("huge", a=10**15)
    with pytest.raises(ResourceError, match="SECATEUR_CACHE_DIR") as caught:
        fetch(Cache(tmp_path), remote)
    assert caught.value.reason == "DISK_TOO_SMALL"
    assert remote.reads == []


def test_two_that_want_the_same_fetch_it_once_and_the_second_may_be_stopped_meanwhile(tmp_path):
    begun, going = threading.Event(), threading.Event()

    class Slow(Remote):
        def read(self, file, start, stop):
            begun.set()
            going.wait(HANG_SECONDS)
            return super().read(file, start, stop)

    class StopError(Exception):
        pass

    def stop():
        raise StopError

    remote, other = Slow("same", a=1000), Slow("same", a=1000)
    thread = threading.Thread(target=fetch, args=(Cache(tmp_path), remote))
    thread.start()
    assert begun.wait(HANG_SECONDS)
    with pytest.raises(StopError):
        fetch(Cache(tmp_path), other, check=stop)
    going.set()
    thread.join()
    assert (fetch(Cache(tmp_path), other) / "a").stat().st_size == 1000
    assert (len(remote.reads), other.reads) == (1, [])


def test_a_source_that_ends_too_early_again_and_again_is_given_up(tmp_path):
    class Short(Remote):
        def read(self, _, start, stop):
            yield bytes(max(0, min(stop, 500) - start))

    with pytest.raises(TransientError) as caught:
        fetch(Cache(tmp_path), Short("short", a=1000))
    assert caught.value.reason == "SOURCE_SHORT"


def test_empty_files_are_there(tmp_path):
    assert (fetch(Cache(tmp_path), Remote("empty", a=0)) / "a").read_bytes() == b""


def test_a_model_is_listed_by_its_reference_while_its_weights_are_here(tmp_path):
    user = Cache(tmp_path, limit_bytes=4000)
    model, corpus = Remote("model", **{"config.json": 10, "a.safetensors": 1000}), Remote("corpus", a=10)
    user.fetch(model, ["config.json"], reference="hf://org/model@1")
    fetch(user, corpus, reference="hf://datasets/org/corpus@1")
    assert user.models() == set()
    fetch(user, model, reference="hf://org/model@1")
    assert Cache(tmp_path).models() == {"hf://org/model@1"}
    user.release()
    fetch(user, Remote("large", a=3900))
    assert user.models() == set()
