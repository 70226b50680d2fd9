import base64
import hashlib
import os
import threading
import urllib.request
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from secateur_service.artifacts import s3
from secateur_service.artifacts.port import ObjectInfo
from secateur_service.artifacts.s3 import S3Store
from secateur_service.errors import PermanentError, TransientError
from servers import free_port, http_server
from support.waiting import HANG_SECONDS


def open_s3(server, *, bucket="models", prefix="team", secret=None):
    return S3Store(
        bucket, prefix, endpoint=server.endpoint, access_key=server.access_key, secret_key=secret or server.secret_key
    )


def misbehaving(endpoint, **options):
    return S3Store("models", "", endpoint=endpoint, access_key="a", secret_key="b", **{"retries": 1, **options})


@pytest.fixture
def store(s3_server):
    return open_s3(s3_server)


def test_what_is_stored_is_read_back(store, s3_server, tmp_path):
    (tmp_path / "source").write_bytes(b"weights")
    store.put_file(tmp_path / "source", "job/checkpoint/model", "application/octet-stream")
    store.put_bytes("job/report ü.json", b"{}", "application/json")
    store.get_file("job/checkpoint/model", tmp_path / "out" / "copy")
    assert (tmp_path / "out" / "copy").read_bytes() == b"weights"
    assert store.get_bytes("job/report ü.json") == b"{}"
    assert store.stat("job/checkpoint/model") == ObjectInfo(size_bytes=7)
    assert sorted(store.list_keys("job/")) == ["job/checkpoint/model", "job/report ü.json"]
    assert (s3_server.folder / "models/team/job/checkpoint/model").read_bytes() == b"weights"
    store.delete("job/checkpoint/model")
    store.delete("job/checkpoint/model")
    assert store.stat("job/checkpoint/model") is None


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(store, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    content = os.urandom(12 * 2**20 + 7)
    (tmp_path / "shard").write_bytes(content)
    store.put_file(tmp_path / "shard", "job/shard", "application/octet-stream")
    store.get_file("job/shard", tmp_path / "copy")
    assert store.stat("job/shard") == ObjectInfo(size_bytes=len(content))
    assert (tmp_path / "copy").read_bytes() == content


def test_the_second_creation_of_an_object_is_refused_even_where_the_store_ignores_conditions(store):
    assert store.put_new("job/manifest.json", b"first", "application/json") is True
    assert store.put_new("job/manifest.json", b"second", "application/json") is False
    assert store.get_bytes("job/manifest.json") == b"first"


def test_a_download_url_works_without_credentials_and_tells_when_it_ends(store):
    store.put_bytes("job/report.json", b"{}", "application/json")
    url, expires = store.download_url("job/report.json", 60)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"{}"
    assert abs(expires - datetime.now(UTC) - timedelta(seconds=60)) < timedelta(seconds=10)
    assert "X-Amz-Expires=604800" in store.download_url("job/report.json", 10**9)[0]


@pytest.mark.parametrize("action", ["get_bytes", "get_file"])
def test_an_absent_object_is_an_error_to_read(store, tmp_path, action):
    with pytest.raises(PermanentError) as error:
        store.get_bytes("job/no") if action == "get_bytes" else store.get_file("job/no", tmp_path / "out")
    assert error.value.reason == "OBJECT_NOT_FOUND"
    assert list(tmp_path.glob("out*")) == []


def test_an_absent_bucket_is_named(s3_server, tmp_path):
    store = open_s3(s3_server, bucket="nowhere")
    (tmp_path / "source").write_bytes(b"weights")
    for write in (
        lambda: store.put_bytes("job/a", b"1", "text/plain"),
        lambda: store.put_new("job/a", b"1", "text/plain"),
        lambda: store.put_file(tmp_path / "source", "job/a", "text/plain"),
        lambda: list(store.list_keys("job/")),
    ):
        with pytest.raises(PermanentError, match="nowhere") as error:
            write()
        assert error.value.reason == "BUCKET_NOT_FOUND"


def test_wrong_credentials_are_told_from_an_absent_object_and_do_not_appear_in_the_message(s3_server, tmp_path):
    store = open_s3(s3_server, secret="wrong-secret")
    (tmp_path / "source").write_bytes(b"weights")
    for request in (
        lambda: store.put_bytes("job/a", b"1", "text/plain"),
        lambda: store.put_file(tmp_path / "source", "job/a", "text/plain"),
        lambda: store.get_bytes("job/a"),
        lambda: store.stat("job/a"),
        lambda: list(store.list_keys("")),
    ):
        with pytest.raises(PermanentError) as error:
            request()
        assert error.value.reason == "OBJECT_STORE_FORBIDDEN"
        assert "wrong-secret" not in str(error.value)


def test_a_store_that_is_down_is_given_up_after_bounded_retries():
    store = misbehaving(f"http://127.0.0.1:{free_port()}", retries=2)
    with pytest.raises(TransientError) as error:
        store.put_bytes("job/a", b"1", "text/plain")
    assert error.value.reason == "OBJECT_STORE_UNREACHABLE"


def test_an_upload_survives_a_restart_of_the_store(s3_server, tmp_path):
    store = open_s3(s3_server)
    store.put_bytes("job/a", b"1", "text/plain")
    s3_server.kill()
    with pytest.raises(TransientError):
        misbehaving(s3_server.endpoint, retries=0).stat("job/a")
    s3_server.start()
    store.put_bytes("job/b", b"2", "text/plain")
    assert sorted(store.list_keys("job/")) == ["job/a", "job/b"]


def test_a_store_that_says_slow_down_is_asked_again_and_then_reported_as_unavailable():
    asked = []

    def slow_down(request):
        asked.append(request.command)
        request.rfile.read(int(request.headers.get("Content-Length", 0)))
        body = b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"
        request.send_response(503)
        request.send_header("Content-Type", "application/xml")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    with http_server(slow_down) as endpoint, pytest.raises(TransientError) as error:
        misbehaving(endpoint, retries=2).get_bytes("job/a")
    assert error.value.reason == "OBJECT_STORE_UNAVAILABLE"
    assert len(asked) == 3


def test_a_store_that_does_not_answer_is_reported_as_slow():
    given_up = threading.Event()
    with http_server(lambda _request: given_up.wait(HANG_SECONDS)) as endpoint:
        with pytest.raises(TransientError) as error:
            misbehaving(endpoint, retries=0, read_timeout_seconds=0.3).get_bytes("job/a")
        given_up.set()
    assert error.value.reason == "OBJECT_STORE_TIMEOUT"


def test_an_object_that_breaks_off_leaves_no_file(tmp_path):
    def short(request):
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"only this")
        request.close_connection = True

    with http_server(short) as endpoint, pytest.raises(TransientError) as error:
        misbehaving(endpoint).get_file("job/a", tmp_path / "out")
    assert error.value.reason in {"OBJECT_TRUNCATED", "OBJECT_STORE_UNREACHABLE"}
    assert list(tmp_path.iterdir()) == []


def test_a_creation_sends_the_condition_and_a_412_means_taken():
    conditions = []

    def conditional(request):
        request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if request.command == "PUT":
            conditions.append(request.headers["If-None-Match"])
        request.send_response(404 if request.command == "HEAD" else 412)
        request.send_header("Content-Length", "0")
        request.end_headers()

    with http_server(conditional) as endpoint:
        assert misbehaving(endpoint).put_new("job/manifest.json", b"{}", "application/json") is False
    assert conditions == ["*"]


def test_every_upload_carries_a_digest_that_the_store_can_verify(tmp_path):
    seen = []

    def receive(request):
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        given = request.headers["x-amz-content-sha256"] or request.headers["Content-MD5"]
        of_body = hashlib.sha256(body).hexdigest(), base64.b64encode(hashlib.md5(body).digest()).decode()
        seen.append(given in of_body)
        request.send_response(200)
        request.send_header("ETag", '"e"')
        request.send_header("Content-Length", "0")
        request.end_headers()

    (tmp_path / "source").write_bytes(b"weights")
    with http_server(receive) as endpoint:
        misbehaving(endpoint).put_bytes("job/a", b"{}", "application/json")
        misbehaving(endpoint).put_file(tmp_path / "source", "job/b", "application/octet-stream")
    assert seen == [True, True]


def test_a_store_refuses_a_body_that_is_not_what_was_sent(store, monkeypatch):
    md5 = hashlib.md5
    monkeypatch.setattr(s3.hashlib, "md5", lambda content, **_: md5(content + b" was changed on the way"))
    with pytest.raises(PermanentError, match="job/a"):
        store.put_bytes("job/a", b"{}", "application/json")
    assert store.stat("job/a") is None


def test_a_store_that_refuses_conditions_gets_the_object_without_one():
    stored = []

    def unconditional(request):
        content = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        conditional = "If-None-Match" in request.headers
        if request.command == "PUT" and not conditional:
            stored.append(content)
        request.send_response(404 if request.command == "HEAD" else 501 if conditional else 200)
        request.send_header("Content-Length", "0")
        request.end_headers()

    with http_server(unconditional) as endpoint:
        assert misbehaving(endpoint).put_new("job/manifest.json", b"{}", "application/json") is True
    assert stored == [b"{}"]


def uploads_listed(names):
    """How Ceph lists unfinished uploads: names in their encoded form, without saying so."""
    listed = "".join(
        f"<Upload><Key>{quote(name)}</Key><UploadId>{number}</UploadId></Upload>" for number, name in names
    )
    return f"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>{listed}</ListMultipartUploadsResult>".encode()


def test_unfinished_uploads_are_aborted_page_by_page_under_their_true_names():
    left = {number: f"some team/job/checkpoint/block-{number}" for number in range(5)}
    prefixes = []

    def multipart(request):
        query = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query, True).items()}
        body = b""
        if request.command == "DELETE":
            number = int(query["uploadId"])
            if unquote(urlsplit(request.path).path) == f"/models/{left[number]}":
                del left[number]
        else:
            prefixes.append(query["prefix"])
            body = uploads_listed(list(left.items())[:2])
        request.send_response(200 if body else 204)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    with http_server(multipart) as endpoint:
        store = S3Store("models", "some team", endpoint=endpoint, access_key="a", secret_key="b")
        assert store.abort_uploads("job/") == 5
    assert left == {}
    assert set(prefixes) == {"some team/job/"}


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (404, "NoSuchUpload")])
def test_a_store_that_knows_no_unfinished_uploads_has_none(status, code):
    def refuse(request):
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    with http_server(refuse) as endpoint:
        assert misbehaving(endpoint).abort_uploads("job/") == 0


def test_an_endpoint_that_is_no_address_is_refused():
    with pytest.raises(PermanentError, match="http://host:port"):
        misbehaving("localhost:9000")
