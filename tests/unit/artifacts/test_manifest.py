import hashlib
import itertools

import pytest
from pydantic import ValidationError

from secateur_service.artifacts import LocalFile, Manifest, ManifestFile, describe_file, parse_manifest
from secateur_service.errors import PermanentError

DIGEST = hashlib.sha256(b"x").hexdigest()


def entry(path, sha256=DIGEST):
    return ManifestFile(path=path, size_bytes=1, sha256=sha256, media_type="text/plain")


def manifest(*files):
    return Manifest(job_id="j", attempt=1, files=files, resolved_spec={"b": 1, "a": "ü"}, report_sha256=DIGEST)


def test_the_digest_does_not_depend_on_the_order_of_the_files():
    entries = [entry(path) for path in ("b", "a", "c/d")]
    digests = {manifest(*order).digest() for order in itertools.permutations(entries)}
    assert len(digests) == 1


def test_the_bytes_are_what_the_digest_is_of_and_are_read_back_equal():
    original = manifest(entry("a"))
    assert hashlib.sha256(original.to_bytes()).hexdigest() == original.digest()
    assert parse_manifest(original.to_bytes()) == original


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a//b", ""])
def test_a_manifest_names_no_file_outside_its_prefix(path):
    with pytest.raises(ValidationError):
        entry(path)


def test_a_path_is_listed_once():
    with pytest.raises(ValidationError, match="twice"):
        manifest(entry("a"), entry("a"))


def test_a_manifest_that_cannot_be_read_is_refused():
    for content in (b"", b"{}", b"\xff", manifest(entry("a")).to_bytes().replace(b'"attempt": 1', b'"attempt": 0')):
        with pytest.raises(PermanentError) as error:
            parse_manifest(content)
        assert error.value.reason == "INVALID_MANIFEST"


def test_a_file_is_described_by_its_size_and_digest(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    file = LocalFile(tmp_path / "f", "report/report.json", "application/json")
    described = ManifestFile(path="report/report.json", size_bytes=1, sha256=DIGEST, media_type="application/json")
    assert describe_file(file) == described


@pytest.mark.parametrize(
    ("name", "vouches"),
    [
        (f"checkpoint/block-00012.{DIGEST[:16]}.safetensors", True),
        (f"checkpoint/{DIGEST}.safetensors", True),
        (f"checkpoint/model-{DIGEST[:11]}.safetensors", False),
        (f"{DIGEST}/config.json", False),
        ("checkpoint/model-00001-of-00002.safetensors", False),
        ("checkpoint/block-0123456789ab.safetensors", False),
    ],
)
def test_a_name_vouches_for_its_content_only_where_it_carries_its_digest(name, vouches):
    assert entry(name).is_content_named is vouches
