"""Whether a destination can be written, found out by writing."""

import threading
from pathlib import Path

import pytest

from secateur_service.admission.destinations import BELIEVED_SECONDS, DestinationCheck
from secateur_service.artifacts.directory import DirectoryStore
from secateur_service.artifacts.port import FORBIDDEN
from secateur_service.artifacts.probing import MARKER, try_folder, try_store
from secateur_service.errors import PermanentError


class Keeps(DirectoryStore):
    """A store whose account may write and not remove."""

    def delete(self, key):
        raise PermanentError(f"removing {key}: not allowed", reason=FORBIDDEN)


def test_nothing_stays_where_it_was_tried(tmp_path):
    try_folder(tmp_path / "not" / "there")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused_with_its_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermanentError, match=r"file is a file; choose a folder"):
        try_folder(tmp_path / "file" / "results")
    with pytest.raises(PermanentError, match=r"^/proc cannot be written"):
        try_folder(Path("/proc/results"))


def test_where_nothing_may_be_removed_one_marker_stays_however_often_it_is_tried(tmp_path):
    for _ in range(3):
        try_store(Keeps(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_many_try_at_the_same_time(tmp_path):
    problems = []

    def many():
        try:
            for _ in range(20):
                try_store(DirectoryStore(tmp_path))
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            problems.append(error)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_not_asked_again_while_it_could_be_written_a_moment_ago(tmp_path):
    now, opened = [0.0], []

    def open_bucket(uri):
        opened.append(uri)
        return DirectoryStore(tmp_path)

    check = DestinationCheck(open_bucket, clock=lambda: now[0])
    for _ in range(3):
        check.check("s3://models/a")
    check.check("s3://models/b")
    now[0] = BELIEVED_SECONDS
    check.check("s3://models/a")
    assert opened == ["s3://models/a", "s3://models/b", "s3://models/a"]


def test_a_replica_without_slots_tries_no_folders():
    DestinationCheck(DirectoryStore, tries_folders=False).check("file:///proc/results")
    with pytest.raises(PermanentError):
        DestinationCheck(DirectoryStore).check("file:///proc/results")
