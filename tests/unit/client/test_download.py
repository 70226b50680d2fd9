"""Fetching files over a real HTTP server that honours Range, or not, or breaks off, or lies."""

import hashlib
import http.server
import json
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
from secateur._channel import connection
from secateur._config import ClientConfig
from secateur._download import ExpiredUrlError, Transfer, check_free, plan_targets
from secateur._download_flow import _check_listing, _check_places

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
    with pytest.raises(secateur.IntegrityError, match="is a link"):
        plan_targets(tmp_path / "out", [artifact()])


@pytest.mark.parametrize("place", ["a", "a/b", "a/b/c"])
def test_a_link_to_another_folder_of_the_download_is_not_followed_either(server, tmp_path, place):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(secateur.IntegrityError, match="is a link"):
        plan_targets(tmp_path, [artifact("a/b/c/d")])
    with pytest.raises(secateur.IntegrityError, match="is a link"):
        transfer(tmp_path, artifact("a/b/c/d")).fetch(server.url)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_written_through(server, tmp_path):
    (tmp_path / "mine").write_bytes(b"mine")
    wanted = artifact("linked")
    (tmp_path / "linked").symlink_to(tmp_path / "mine")
    transfer(tmp_path, wanted).fetch(server.url)
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert not (tmp_path / "linked").is_symlink()
    assert (tmp_path / "linked").read_bytes() == CONTENT


def test_a_pipe_in_the_place_of_the_leftover_hangs_nothing(server, tmp_path):
    wanted = artifact("f")
    os.mkfifo(tmp_path / f".f.{SHA256[:16]}.partial")
    with pytest.raises(secateur.DownloadError, match="no regular file"):
        transfer(tmp_path, wanted).fetch(server.url)


@pytest.mark.parametrize("path", [".ssh/authorized_keys", ".bashrc", "a/.git/config", ".config/x/y", "...", ".a"])
def test_hidden_files_and_folders_are_not_written(tmp_path, path):
    with pytest.raises(secateur.IntegrityError, match=r"hidden|plain path"):
        plan_targets(tmp_path, [artifact(path)])


@pytest.mark.parametrize("character", ["\x07", "\x1b", "\x9b", "\u202e", "\u2066", "\u2028", "\u200b"])
def test_a_name_that_would_steer_a_terminal_is_refused(tmp_path, character):
    with pytest.raises(secateur.IntegrityError, match="plain path") as caught:
        plan_targets(tmp_path, [artifact(f"a{character}b")])
    assert character not in str(caught.value)


def listed(path="a", size_bytes=1, sha256="0" * 64, url="http://h/a"):
    return Artifact(path, size_bytes, sha256, "text/plain", url, None)


@pytest.mark.parametrize(
    "artifacts",
    [
        [],
        [listed(), listed("b")],
        [listed(size_bytes=2)],
        [listed(sha256="1" * 64)],
        [listed("A")],
    ],
)
def test_only_what_the_manifest_names_is_written_and_all_of_it(artifacts):
    content = json.dumps({"files": [{"path": "a", "size_bytes": 1, "sha256": "0" * 64}]}).encode()
    _check_listing(content, [listed(), listed("manifest.json")])
    with pytest.raises(secateur.IntegrityError, match="otherwise"):
        _check_listing(content, [*artifacts, listed("manifest.json")])


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"files": [1]}', b'{"files": 1}', b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_none_writes_nothing(content):
    with pytest.raises(secateur.IntegrityError, match="damaged"):
        _check_listing(content, [])


def test_folders_of_another_machine_are_read_only_where_that_is_asked_for():
    artifacts = [listed(url="file:///data/a")]
    _check_places(artifacts, local_files=True)
    _check_places([listed()], local_files=False)
    with pytest.raises(secateur.DownloadError, match="--local-files"):
        _check_places(artifacts, local_files=False)


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("https://[::1]:1", True),
        ("unix:/run/s", True),
        ("host:1", False),
        ("https://10.0.0.1:1", False),
        ("127.0.0.1:1,10.0.0.1:1", False),
        ("dns:///host:1", False),
    ],
)
def test_which_services_are_on_this_machine(endpoint, local):
    assert connection(ClientConfig(endpoint=endpoint)).local is local


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


def foreign(folder, path):
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_bytes(b"x")


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ("checkpoint/model-block-00001.safetensors", True),
        ("checkpoint/.model-block-00001.safetensors.0123456789abcdef.partial", True),
        ("checkpoint/model.gguf", False),
        ("notes.txt", False),
    ],
)
def test_a_folder_with_a_part_of_another_model_is_refused_before_anything_is_written(tmp_path, path, refused):
    listed = [artifact("checkpoint/model-block-00000.safetensors"), artifact("report/report.json")]
    foreign(tmp_path, path)
    targets = plan_targets(tmp_path, listed)
    if refused:
        with pytest.raises(secateur.DownloadError, match="is a part of another model") as caught:
            check_free(tmp_path, "j", targets, listed)
        assert caught.value.reason == "FOLDER_OF_ANOTHER_JOB"
        (tmp_path / "manifest.json").write_text('{"job_id": "j"}')  # our own result, which is being repaired
    check_free(tmp_path, "j", targets, listed)
    (tmp_path / "manifest.json").write_text('{"job_id": "another"}')
    with pytest.raises(secateur.DownloadError, match="holds the result of job another"):
        check_free(tmp_path, "j", targets, listed)


def test_what_an_interrupted_download_of_the_same_job_has_left_is_its_own(tmp_path):
    listed = [artifact("checkpoint/model-block-00000.safetensors")]
    foreign(tmp_path, f"checkpoint/.model-block-00000.safetensors.{SHA256[:16]}.partial")
    check_free(tmp_path, "j", plan_targets(tmp_path, listed), listed)
