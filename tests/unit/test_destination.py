"""Destinations: what is accepted at submission, the publisher can name objects below; all else is refused at once."""

import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from secateur_service.artifacts import open_store
from secateur_service.artifacts.port import check_key
from secateur_service.destination import (
    APPENDED_BYTES,
    Bucket,
    DestinationRefusedError,
    lies_below,
    parse_destination,
)
from secateur_service.errors import PermanentError
from servers import S3Access

STORE = S3Access("http://localhost:9000", "someone", SecretStr("secret"))
LONGEST = "x" * (APPENDED_BYTES - 1)  # what may follow, behind a slash

PIECES = st.sampled_from(
    [
        *["s3://", "file://", "file:///", "http://", "models", "Models", "localhost", "127.0.0.1", "a", "ü", "-", "@"],
        *[":", ",", "/", "//", ".", "..", "#", "?", "%", "%2F", "\\", "%2e%2e", "%00", "%0a", "%FF", "\x7f", "\u202e"],
        *["\u200b", "\ud800", "\n", "\r", "\t", " ", "", "\x85", "\u2028", "x" * 300, "ü" * 400],
    ]
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(PIECES, max_size=8).map("".join),
    st.lists(PIECES, max_size=6).map(lambda pieces: "s3://models/" + "".join(pieces)),
    st.lists(PIECES, max_size=6).map(lambda pieces: "file:///" + "".join(pieces)),
)


@given(TEXTS)
@example("s3://models/x//y")
@example("s3://models/x/a#b")
@example("s3://models/x/a?b")
@example("s3://models/x/a\nb")
@example("s3://models/" + "x" * 768)
@example("file:///a%0Ab")
def test_what_is_accepted_can_be_opened_and_holds_every_name_and_nothing_else_opens(text):
    try:
        found = parse_destination(text)
    except DestinationRefusedError:
        with pytest.raises(PermanentError) as caught:
            open_store(text, STORE)
        assert caught.value.reason == "INVALID_DESTINATION"
        return
    store = open_store(text, STORE)
    if isinstance(found, Bucket):
        key = f"{found.prefix}/{LONGEST}" if found.prefix else LONGEST
        assert check_key(key) == key
        assert len(key.encode()) <= 1024
        assert store.uri("job/manifest.json") == f"s3://{found.name}/{key.removesuffix(LONGEST)}job/manifest.json"
    else:
        assert found.is_absolute()
        assert Path(*found.parts) == found
        assert ".." not in found.parts
        assert len(f"{found}/{LONGEST}".encode()) <= 4095


@pytest.mark.parametrize(
    "path",
    [
        *[
            "x//y",
            "/x",
            "x//",
            "x/./y",
            "x/../y",
            "..",
            "a#b",
            "a?b",
            "a\\b",
            "a\x00b",
            "a\x9bb",
            "a\u202eb",
            "\ufeffa",
        ],
        *[" a", "a ", "a/ /b", "a\nb", "a\rb", "a\u2028b", "x" * 769],
    ],
)
@pytest.mark.parametrize("form", ["s3://models/{}", "file:///{}"])
def test_each_kind_of_bad_path_is_refused_in_both_forms(form, path):
    if form.startswith("file") and len(path) == 769:
        path = "/".join(["x" * 200] * 20)
    with pytest.raises(DestinationRefusedError):
        parse_destination(form.format(path))


@pytest.mark.parametrize(
    "bucket",
    ["", "b", "ab", "x" * 64, "-models", "models-", "mod els", "a..b", "a.-b", "127.0.0.1", "user:pw@host", "mödels"],
)
def test_what_is_no_name_of_a_bucket_is_refused(bucket):
    with pytest.raises(DestinationRefusedError, match="not a valid name of a bucket"):
        parse_destination(f"s3://{bucket}/x")


PLAIN = st.text(string.ascii_letters + string.digits + "üß%#?\\ -_.", min_size=1, max_size=30)


@given(PLAIN.filter(lambda name: name.strip(" .") == name))
def test_the_uri_of_every_folder_with_a_plain_name_is_a_destination(name):
    assert parse_destination(Path("/data", name).as_uri()) == Path("/data", name)
    assert parse_destination("file://localhost/data/" + quote(name) + "/") == Path("/data", name)


NAMES = st.sampled_from(["a", "ab", "b", "a b"])
PATHS = st.lists(NAMES, max_size=4)


@given(PATHS, PATHS, st.booleans(), st.booleans())
def test_a_destination_lies_below_another_where_its_parts_begin_with_the_others(inner, outer, in_bucket, other_bucket):
    def made(parts, in_bucket):
        path = "/".join(parts)
        return parse_destination(f"s3://models/{path}" if in_bucket else f"file:///data/{quote(path)}")

    expected = in_bucket == other_bucket and inner[: len(outer)] == outer
    assert lies_below(made(inner, in_bucket), made(outer, other_bucket)) == expected
