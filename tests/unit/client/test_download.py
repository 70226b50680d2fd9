"""Fetching files over a real HTTP server that honours Range, or not, or breaks off, or lies."""

import hashlib
import http.server
import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import secateur
from secateur._artifact import Artifact
from secateur._download import ExpiredUrlError, Transfer, plan_targets

CONTENT = os.urandom(3_000_000)
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class FileServer(http.server.ThreadingHTTPServer):
    """Serves one file."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.honours_range = True
        self.break_off_after = []  # bytes that the first answers send before the connection breaks
        self.statuses = []  # statuses of the first answers
        self.location = None
        self.ranges = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/file?signature=x"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        start = 0
        status = server.statuses.pop(0) if server.statuses else 200
        if status == 200 and self.headers.get("Range") and server.honours_range:
            start, status = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1]), 206
        body = server.content[start:] if status in (200, 206) else b""
        self.send_response(status)
        if status == 302:
            self.send_header("Location", server.location)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.break_off_after and status in (200, 206):
            body = body[: server.break_off_after.pop(0)]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = FileServer()
    yield server
    server.shutdown()
    server.server_close()


def artifact(path="checkpoint/model.safetensors", *, sha256=SHA256, size_bytes=SIZE):
    return Artifact(path, size_bytes, sha256, "application/octet-stream", "", datetime.now(UTC))


def transfer(folder, wanted=None, counted=None):
    wanted = wanted or artifact()
    advanced = (counted if counted is not None else []).append
    return Transfer(wanted, folder / wanted.path, threading.Event(), advanced, wait_seconds=0.001)


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".partial")]


def test_a_file_arrives_whole_and_leaves_nothing_else(server, tmp_path):
    counted = []
    made = transfer(tmp_path, counted=counted)
    made.fetch(server.url)
    assert made.target.read_bytes() == CONTENT
    assert (leftovers(tmp_path), server.ranges, sum(counted)) == ([], [None], len(CONTENT))


def test_a_file_that_is_in_place_is_not_fetched_again_but_one_of_another_content_is(server, tmp_path):
    made = transfer(tmp_path)
    made.fetch(server.url)
    made.fetch(server.url)
    assert len(server.ranges) == 1
    made.target.write_bytes(b"y" * len(CONTENT))
    made.fetch(server.url)
    assert made.target.read_bytes() == CONTENT


def test_a_broken_connection_is_continued_where_it_broke(server, tmp_path):
    server.break_off_after = [1_500_000, 700_000]
    made = transfer(tmp_path)
    made.fetch(server.url)
    assert made.target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1500000-", "bytes=2200000-"]


def test_a_download_that_was_interrupted_is_continued_by_the_next_one(server, tmp_path):
    server.break_off_after = [1_000_000]
    server.statuses = [200, 503, 503, 503, 503]
    made = transfer(tmp_path)
    with pytest.raises(secateur.DownloadError, match="1000000 of 3000000 bytes are here"):
        made.fetch(server.url)
    assert not made.target.exists()
    counted = []
    made = transfer(tmp_path, counted=counted)
    made.fetch(server.url)
    assert server.ranges[-1] == "bytes=1000000-"
    assert made.target.read_bytes() == CONTENT
    assert (counted[0], sum(counted)) == (1_000_000, len(CONTENT))


def test_a_server_that_does_not_know_range_costs_time_and_nothing_else(server, tmp_path):
    server.honours_range = False
    server.break_off_after = [1_200_000]
    made = transfer(tmp_path)
    made.fetch(server.url)
    assert made.target.read_bytes() == CONTENT


def test_damaged_content_is_discarded_and_never_put_into_place(server, tmp_path):
    server.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    made = transfer(tmp_path)
    with pytest.raises(secateur.IntegrityError, match="another SHA-256"):
        made.fetch(server.url)
    assert not made.target.exists()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("size", [1_000_000, len(CONTENT), len(CONTENT) + 5])
def test_a_damaged_leftover_is_fetched_anew(server, tmp_path, size):
    made = transfer(tmp_path)
    made.target.parent.mkdir()
    (made.target.parent / f".{made.target.name}.{SHA256[:16]}.partial").write_bytes(b"z" * size)
    counted = []
    made = transfer(tmp_path, counted=counted)
    made.fetch(server.url)
    assert made.target.read_bytes() == CONTENT
    assert sum(counted) == len(CONTENT)


def test_truncated_content_is_an_error_that_names_how_much_came(server, tmp_path):
    server.content = CONTENT[:2_000_000]
    with pytest.raises(secateur.DownloadError, match="2000000 of 3000000"):
        transfer(tmp_path).fetch(server.url)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refused_url_asks_for_a_fresh_one_and_takes_its_bytes_back_from_the_count(server, tmp_path, status):
    server.break_off_after = [1_000_000]
    server.statuses = [200, status]
    counted = []
    made = transfer(tmp_path, counted=counted)
    with pytest.raises(ExpiredUrlError):
        made.fetch(server.url)
    assert sum(counted) == 0
    made.fetch(server.url)
    assert sum(counted) == len(CONTENT)


@pytest.mark.parametrize("location", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_a_redirect_leads_to_http_only(server, tmp_path, location):
    server.statuses, server.location = [302] * 9, location
    with pytest.raises(secateur.DownloadError, match=r"HTTP 302|no http one"):
        transfer(tmp_path).fetch(server.url)


@pytest.mark.parametrize("url", ["ftp://host/x", "data:,x", "file://host/etc/hostname", "", "gopher:x"])
def test_other_urls_are_not_opened(tmp_path, url):
    with pytest.raises(secateur.DownloadError, match="cannot be read"):
        transfer(tmp_path).fetch(url)


def test_a_file_url_is_copied_and_continued(tmp_path):
    source = tmp_path / "a folder" / "süß#?.bin"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    made = transfer(tmp_path / "out")
    made.target.parent.mkdir(parents=True)
    (made.target.parent / f".{made.target.name}.{SHA256[:16]}.partial").write_bytes(CONTENT[:1_000_001])
    made.fetch(source.as_uri())
    assert made.target.read_bytes() == CONTENT


def test_a_file_url_of_another_machine_or_a_pipe_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(secateur.DownloadError, match="download there"):
        transfer(tmp_path).fetch("file:///nowhere/at/all")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(secateur.DownloadError, match="no regular file"):
        transfer(tmp_path).fetch((tmp_path / "pipe").as_uri())


def test_a_link_in_the_place_of_the_leftover_is_not_followed(server, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    made = transfer(tmp_path / "out")
    made.target.parent.mkdir(parents=True)
    (made.target.parent / f".{made.target.name}.{SHA256[:16]}.partial").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        made.fetch(server.url)
    assert victim.read_bytes() == b"precious"


def test_an_empty_file_needs_no_server(tmp_path):
    made = transfer(tmp_path, artifact(sha256=hashlib.sha256(b"").hexdigest(), size_bytes=0))
    made.fetch("http://127.0.0.1:1/")
    assert made.target.read_bytes() == b""


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".", "a/.", "..", "a\\..\\b", "a\x00b", "a\nb", "checkpoint/"],
)
def test_a_path_that_leads_out_of_the_folder_refuses_the_whole_download(tmp_path, path):
    with pytest.raises(secateur.IntegrityError, match="leads out of"):
        plan_targets(tmp_path, [artifact(), artifact(path)])
    assert list(tmp_path.iterdir()) == []


def test_a_link_inside_the_folder_that_leads_out_of_it_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint").symlink_to(tmp_path)
    with pytest.raises(secateur.IntegrityError, match="leads out of"):
        plan_targets(tmp_path / "out", [artifact()])


@given(st.lists(st.text(st.sampled_from("ab./\\\x00:~"), max_size=6), max_size=4, unique=True))
def test_whatever_paths_the_service_lists_all_targets_lie_in_the_folder(paths):
    folder = Path("/nowhere/out")
    try:
        targets = plan_targets(folder, [artifact(path) for path in paths])
    except secateur.IntegrityError:
        return
    assert all(os.path.normpath(target).startswith("/nowhere/out/") for target in targets.values())


@pytest.mark.parametrize("bad", [artifact(sha256="../../x"), artifact(sha256="A" * 64), artifact(size_bytes=-1)])
def test_a_digest_that_is_none_is_refused(tmp_path, bad):
    with pytest.raises(secateur.IntegrityError, match="no valid digest"):
        plan_targets(tmp_path, [bad])


def test_a_path_that_is_listed_twice_is_refused(tmp_path):
    with pytest.raises(secateur.IntegrityError, match="twice"):
        plan_targets(tmp_path, [artifact(), artifact()])
