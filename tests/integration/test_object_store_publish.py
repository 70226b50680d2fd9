"""Publishing against both real stores, with crashes in between."""

import hashlib
import json

import pytest

from secateur_service.artifacts import LocalFile, Manifest, describe_file, open_store, parse_manifest, publish
from secateur_service.artifacts.directory import DirectoryStore
from secateur_service.artifacts.port import FORBIDDEN
from secateur_service.errors import CancelledError, PermanentError, TransientError
from secateur_service.pipeline.observer import RecordingObserver
from servers import S3Access

JOB = "job-1"


class CrashError(Exception):
    """Stands for the death of the process at this point."""


class Ledger:
    """The job store's part: the first digest named wins."""

    def __init__(self):
        self.digest = None

    def commit(self, digest):
        self.digest = self.digest or digest
        return self.digest

    def commit_and_crash(self, digest):
        self.commit(digest)
        raise CrashError


@pytest.fixture(params=["directory", "s3"])
def store(request, tmp_path):
    if request.param == "directory":
        return open_store((tmp_path / "artifacts").as_uri(), S3Access())
    server = request.getfixturevalue("s3_server")
    return open_store("s3://models/prefix", server.settings)


@pytest.fixture
def attempt(tmp_path):
    """Makes the files of one attempt: a shard with its digest in its name, the report, and a provenance that varies."""

    def make(number, *, spec=None, weights=b"weights"):
        folder = tmp_path / f"attempt-{number}"
        folder.mkdir()
        digest = hashlib.sha256(weights).hexdigest()
        contents = {
            f"checkpoint/block-000.{digest[:16]}.safetensors": weights,
            "report/report.json": b'{"schema_version": "1"}',
            "provenance.json": json.dumps({"seconds": number}).encode(),
        }
        files = []
        for path, content in contents.items():
            source = folder / path.replace("/", "-")
            source.write_bytes(content)
            files.append(LocalFile(source, path, "application/octet-stream"))
        manifest = Manifest(
            job_id=JOB,
            attempt=number,
            files=tuple(describe_file(file) for file in files),
            resolved_spec=spec or {"pruning": {"method": "wanda"}},
            report_sha256=hashlib.sha256(contents["report/report.json"]).hexdigest(),
        )
        return files, manifest

    return make


def run(store, prepared, commit, **options):
    files, manifest = prepared
    return publish(store, JOB, files, manifest, commit=commit, observer=RecordingObserver(), **options)


def assert_published(store, digest):
    content = store.get_bytes(f"{JOB}/manifest.json")
    assert hashlib.sha256(content).hexdigest() == digest
    manifest = parse_manifest(content)
    for file in manifest.files:
        stored = store.get_bytes(f"{JOB}/{file.path}")
        assert (len(stored), hashlib.sha256(stored).hexdigest()) == (file.size_bytes, file.sha256), file.path
    expected = {f"{JOB}/{file.path}" for file in manifest.files} | {f"{JOB}/manifest.json"}
    assert set(store.list_keys(f"{JOB}/")) == expected
    return manifest


def test_everything_is_published_and_the_manifest_is_what_the_job_store_names(store, attempt):
    ledger, progress = Ledger(), []
    prepared = attempt(1)
    digest = run(store, prepared, ledger.commit, on_uploaded=lambda done, total: progress.append((done, total)))
    assert digest == ledger.digest == prepared[1].digest()
    assert assert_published(store, digest).attempt == 1
    total = sum(file.size_bytes for file in prepared[1].files)
    assert progress[-1] == (total, total)
    assert len(progress) == 3


def test_a_crash_between_commit_and_manifest_is_adopted_by_the_next_attempt(store, attempt):
    ledger = Ledger()
    with pytest.raises(CrashError):
        run(store, attempt(1), ledger.commit_and_crash)
    assert store.stat(f"{JOB}/manifest.json") is None
    digest = run(store, attempt(2), ledger.commit)
    assert digest == ledger.digest
    assert assert_published(store, digest).attempt == 1


def test_a_crash_before_the_commit_is_adopted_as_complete(store, attempt):
    def crash(digest):
        raise CrashError

    ledger = Ledger()
    with pytest.raises(CrashError):
        run(store, attempt(1), crash)
    assert assert_published(store, run(store, attempt(2), ledger.commit)).attempt == 1


def test_a_crash_after_the_manifest_changes_nothing(store, attempt):
    ledger = Ledger()
    first = run(store, attempt(1), ledger.commit)
    assert run(store, attempt(2), ledger.commit) == first
    assert assert_published(store, first).attempt == 1


def test_a_crash_in_the_middle_of_the_upload_is_made_good(store, attempt):
    files, manifest = attempt(1)

    class Dies(RecordingObserver):
        def check(self):
            if store.stat(f"{JOB}/{files[0].path}"):
                raise CrashError

    with pytest.raises(CrashError):
        publish(store, JOB, files, manifest, commit=Ledger().commit, observer=Dies())
    assert assert_published(store, run(store, attempt(2), Ledger().commit)).attempt == 2


def test_files_of_an_earlier_attempt_that_were_damaged_are_not_adopted(store, attempt):
    def crash(digest):
        raise CrashError

    with pytest.raises(CrashError):
        run(store, attempt(1), crash)
    store.put_bytes(f"{JOB}/provenance.json", b'{"seconds": 9}', "application/json")
    assert assert_published(store, run(store, attempt(2), Ledger().commit)).attempt == 2


def test_a_content_named_file_that_is_there_is_not_uploaded_again(store, attempt):
    files, manifest = attempt(1)
    shard = next(file for file in files if "block" in file.path)
    store.put_file(shard.source, f"{JOB}/{shard.path}", shard.media_type)
    shard.source.unlink()
    digest = publish(store, JOB, files, manifest, commit=Ledger().commit, observer=RecordingObserver())
    assert_published(store, digest)


def test_a_content_named_file_of_the_wrong_size_is_uploaded_again(store, attempt):
    files, manifest = attempt(1)
    shard = next(file for file in files if "block" in file.path)
    store.put_bytes(f"{JOB}/{shard.path}", b"half", shard.media_type)
    assert_published(store, publish(store, JOB, files, manifest, commit=Ledger().commit, observer=RecordingObserver()))


def test_the_prefix_of_another_job_is_left_alone(store, attempt):
    first = run(store, attempt(1), Ledger().commit)
    with pytest.raises(PermanentError, match="another job") as error:
        run(store, attempt(2, spec={"pruning": {"method": "magnitude"}}), Ledger().commit)
    assert error.value.reason == "MANIFEST_CONFLICT"
    assert_published(store, first)


def test_a_release_whose_specification_has_more_fields_adopts_what_the_former_one_published(store, attempt):
    first = run(store, attempt(1), Ledger().commit)
    grown = {"pruning": {"method": "wanda", "rotation": True}, "monitoring": {}}
    assert run(store, attempt(2, spec=grown), Ledger().commit) == first
    assert_published(store, first)


def test_a_store_that_allows_no_deletion_still_publishes(tmp_path, attempt):
    class Undeletable(DirectoryStore):
        def delete(self, _key):
            raise PermanentError("you may not delete", reason=FORBIDDEN)

    store = Undeletable(tmp_path / "artifacts")
    ledger = Ledger()
    first = run(store, attempt(1), ledger.commit)
    assert parse_manifest(store.get_bytes(f"{JOB}/manifest.json")).digest() == first
    assert run(store, attempt(2), ledger.commit) == first


def test_a_manifest_other_than_the_committed_one_is_never_replaced(store, attempt):
    foreign = attempt(7)[1]

    def commit_while_another_writes(digest):
        store.put_bytes(f"{JOB}/manifest.json", foreign.to_bytes(), "application/json")
        return digest

    with pytest.raises(PermanentError) as error:
        run(store, attempt(1), commit_while_another_writes)
    assert error.value.reason == "MANIFEST_CONFLICT"
    assert store.get_bytes(f"{JOB}/manifest.json") == foreign.to_bytes()


def test_a_committed_manifest_that_nobody_holds_is_an_error_that_says_so(store, attempt):
    ledger = Ledger()
    ledger.commit("0" * 64)
    with pytest.raises(PermanentError, match="0000") as error:
        run(store, attempt(1), ledger.commit)
    assert error.value.reason == "MANIFEST_CONFLICT"
    assert store.stat(f"{JOB}/manifest.json") is None


def test_a_cancelled_job_publishes_no_manifest(store, attempt):
    class Cancelled(RecordingObserver):
        def check(self):
            raise CancelledError("the owner cancelled the job")

    files, manifest = attempt(1)
    ledger = Ledger()
    with pytest.raises(CancelledError):
        publish(store, JOB, files, manifest, commit=ledger.commit, observer=Cancelled())
    assert ledger.digest is None
    assert store.stat(f"{JOB}/manifest.json") is None


def test_a_file_that_changed_since_it_was_described_is_noticed(store, attempt):
    files, manifest = attempt(1)
    next(file for file in files if file.path == "provenance.json").source.write_bytes(b"longer than it was before")
    with pytest.raises(TransientError) as error:
        publish(store, JOB, files, manifest, commit=Ledger().commit, observer=RecordingObserver())
    assert error.value.reason == "UPLOAD_INCOMPLETE"


def test_a_manifest_that_does_not_describe_the_files_is_a_defect_of_the_caller(store, attempt):
    files, manifest = attempt(1)
    with pytest.raises(ValueError, match="does not describe"):
        publish(store, JOB, files[1:], manifest, commit=Ledger().commit, observer=RecordingObserver())
