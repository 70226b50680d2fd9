import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.sources.reference import (
    BucketReference,
    FolderReference,
    HubReference,
    ReferenceRefusedError,
    allowed_folder,
    check_prefix,
    parse_reference,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def read(uri, roots):
    return allowed_folder(parse_reference(uri), roots)


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("http://169.254.169.254/latest", "unknown scheme"),
        ("https://huggingface.co/org/name", "unknown scheme 'https'; use hf://org/name"),
        ("/plain/path", "no scheme; use file:///plain/path"),
        ("google/gemma-3-270m", "no scheme; use hf://google/gemma-3-270m, hf://datasets/google/gemma-3-270m for a"),
        ("./models/m", "no scheme; use file:///absolute/path, hf://org/name"),
        ("file://host/share", "no host"),
        ("file:relative", "no scheme"),
        ("file:///{root}/../secret", "outside"),
        ("file:///{root}/%2e%2e/secret", "outside"),
        ("file:///{root}/link", "outside"),
        ("file:///{root}/a%00b", "absolute"),
        ("file:///{root}/" + "x" * 300, "cannot be resolved|no such folder"),
        ("file:///{root}/absent", "no such folder"),
    ],
)
def test_references_out_of_the_roots_or_malformed_are_refused(tmp_path, uri, complaint):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").mkdir()
    (root / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ReferenceRefusedError, match=complaint):
        read(uri.replace("{root}", str(root).lstrip("/")), [root])


def test_a_path_outside_the_roots_does_not_tell_whether_it_exists(tmp_path):
    (tmp_path / "there").mkdir()
    messages = []
    for name in ("there", "absent"):
        with pytest.raises(ReferenceRefusedError) as caught:
            read((tmp_path / name).as_uri(), [tmp_path / "root"])
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("uri", "reference"),
    [
        ("hf://gpt2", HubReference("model", "gpt2", None)),
        ("hf://org/name", HubReference("model", "org/name", None)),
        ("hf://org/na.me-1_x@main", HubReference("model", "org/na.me-1_x", "main")),
        (f"hf://org/name@{COMMIT}", HubReference("model", "org/name", COMMIT)),
        ("hf://org/name@refs/pr/1", HubReference("model", "org/name", "refs/pr/1")),
        ("hf://datasets/org/name@v1.0", HubReference("dataset", "org/name", "v1.0")),
        ("s3://models/team/llama", BucketReference("models", "team/llama")),
        ("s3://models/team/llama/", BucketReference("models", "team/llama")),
        ("s3://models/ünï code", BucketReference("models", "ünï code")),
        ("file:///some/folder", FolderReference),
    ],
)
def test_references_are_read(uri, reference):
    found = parse_reference(uri)
    assert type(found) is reference if isinstance(reference, type) else found == reference
    if not isinstance(found, FolderReference):
        assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    "uri",
    [
        "hf://",
        "hf://org/",
        "hf:///name",
        "hf://org/name/file",
        "hf://org/../name",
        "hf://../name",
        "hf://org/na..me",
        "hf://org/name.git",
        "hf://org/na me",
        "hf://org/na%2fme",
        "hf://org/name?x=1",
        "hf://evil.example:80/org/name",
        "hf://user:token@hub/org/name",
        "hf://org/name@",
        "hf://org/name@../../x",
        "hf://org/name@a b",
        "hf://org/name@" + "x" * 300,
        "hf://" + "x" * 200,
        "hf://org/nа­me",
        "s3://",
        "s3://models",
        "s3://models/",
        "s3://Models/x",
        "s3://../x",
        "s3://models/../x",
        "s3://models/a/./b",
        "s3://models//b",
        "s3://models/a%2f..",
        "s3://models/a?versionId=1",
        "s3://models/a\x00b",
        "s3://models/a\\b",
        "s3://key:secret@host/models/x",
        "s3://models/" + "x" * 1000,
    ],
)
def test_malformed_references_are_refused(uri):
    with pytest.raises(ReferenceRefusedError, match="; use"):
        parse_reference(uri)


@pytest.mark.parametrize("uri", ["s3://models/team-b/x", "s3://models/teams/x", "s3://other/team/x"])
def test_prefixes_end_at_slashes(uri):
    allowed = ["s3://models/team", "s3://public/"]
    check_prefix(parse_reference("s3://models/team/x"), allowed)
    check_prefix(parse_reference("s3://public/any/where"), allowed)
    with pytest.raises(ReferenceRefusedError, match="s3://models/team"):
        check_prefix(parse_reference(uri), allowed)
    with pytest.raises(ReferenceRefusedError, match="SECATEUR_S3_SOURCES"):
        check_prefix(parse_reference(uri), [])


@given(
    st.one_of(
        st.text(max_size=60),
        st.builds("{}://{}".format, st.sampled_from(["file", "hf", "s3"]), st.text(max_size=60)),
        st.builds(
            "{}://{}".format,
            st.sampled_from(["file", "hf", "s3"]),
            st.lists(st.sampled_from(["a", "..", ".", "/", "//", "%2e", "%00", "@", "\\", "org", "\0", "\n", ":"])).map(
                "".join
            ),
        ),
    )
)
def test_whatever_is_named_is_read_as_one_plain_place_or_refused(uri):
    try:
        found = parse_reference(uri)
    except ReferenceRefusedError:
        return
    if isinstance(found, FolderReference):
        assert found.path.is_absolute()
        assert ".." not in found.path.parts
        return
    name = found.repository if isinstance(found, HubReference) else f"{found.bucket}/{found.prefix}"
    assert not re.search(r"[\x00-\x1f\x7f\\%?#]|//|(^|/)\.{1,2}(/|$)|^/|/$", name)
    if isinstance(found, HubReference):
        assert re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII)
        assert ".." not in f"{name}{found.revision}"
