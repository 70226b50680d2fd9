import pytest

from secateur_service.artifacts import open_store
from secateur_service.artifacts.directory import DirectoryStore
from secateur_service.artifacts.port import check_key
from secateur_service.artifacts.s3 import S3Store
from secateur_service.errors import PermanentError
from servers import S3Access


@pytest.mark.parametrize("key", ["manifest.json", "job/checkpoint/model-00001.safetensors", "a b/ü.txt", "..a/b.."])
def test_a_plain_relative_path_is_a_key(key):
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "./a", "a\0b", "a\nb", "a\\..\\b", "x" * 1025]
)
def test_a_key_that_could_leave_the_prefix_is_refused(key):
    with pytest.raises(PermanentError) as error:
        check_key(key)
    assert error.value.reason == "INVALID_OBJECT_KEY"


def test_a_file_destination_opens_a_folder(tmp_path):
    store = open_store((tmp_path / "a folder").as_uri(), S3Access())
    assert isinstance(store, DirectoryStore)
    assert store.uri("x") == (tmp_path / "a folder" / "x").as_uri()


def test_an_s3_destination_opens_a_bucket_with_its_prefix(s3_server):
    store = open_store("s3://models/team/a", s3_server.settings)
    assert isinstance(store, S3Store)
    assert store.uri("job/manifest.json") == "s3://models/team/a/job/manifest.json"


def test_an_s3_destination_without_credentials_says_which_settings_are_missing():
    with pytest.raises(PermanentError, match="SECATEUR_S3_SECRET_KEY") as error:
        open_store("s3://models", S3Access("http://localhost:9000", "someone", None))
    assert error.value.reason == "S3_NOT_CONFIGURED"


@pytest.mark.parametrize(
    "destination",
    ["", "models", "http://host/bucket", "s3:///prefix", "file://host/x", "file:relative", "s3://b/p?x=1", "s3://b\n"],
)
def test_what_is_not_a_destination_is_refused_with_the_two_forms(destination):
    with pytest.raises(PermanentError, match="s3://bucket/prefix or file:///") as error:
        open_store(destination, S3Access())
    assert error.value.reason == "INVALID_DESTINATION"
