"""What a service stands on in a campaign: a database, an object store and a disk, which fail too."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.proxy import proxy_of
from secateur_service.artifacts import ObjectStore, open_store
from servers import PostgresServer, S3Access, S3Server, postgres_folder

DISK_BYTES = 128 << 20

Undo = Callable[[], None]


@dataclass(frozen=True)
class Surroundings:
    """Where a service keeps everything.

    Attributes:
        settings: with which it does.
        objects: its results, seen past every fault.
        faults: by name, what begins a fault and returns what ends it.
    """

    settings: dict[str, str]
    objects: ObjectStore
    faults: dict[str, Callable[[], Undo]]


@contextlib.contextmanager
def sqlite_and_folder(folder: Path, rng: random.Random) -> Iterator[Surroundings]:
    """SQLite, results in a folder, and work on a small disk of its own where this user may mount one."""
    data, results = folder / "data", folder / "results"
    with contextlib.ExitStack() as stack:
        faults = {"fill disk": lambda: _fill(data)} if stack.enter_context(small_disk(data)) else {}
        settings = {
            "SECATEUR_DATABASE_URL": f"sqlite:///{folder}/jobs.sqlite3",
            "SECATEUR_DESTINATIONS": results.as_uri(),
        }
        yield Surroundings(settings, open_store(results.as_uri(), S3Access()), faults)


@contextlib.contextmanager
def postgresql_and_s3(folder: Path, rng: random.Random) -> Iterator[Surroundings]:
    """PostgreSQL that is restarted, and an object store behind a proxy that misbehaves."""
    programs = postgres_folder()
    assert programs is not None, "PostgreSQL is not installed: apt-get install postgresql"
    store = S3Server(folder / "s3")
    store.create_bucket("models")

    with contextlib.ExitStack() as stack:
        # A folder of pytest is closed to the user that PostgreSQL runs as where this one is root.
        database = PostgresServer(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postgres-"))), programs)
        database.start()
        stack.callback(database.stop)
        store.start()
        stack.callback(store.kill)
        proxy = stack.enter_context(proxy_of(store.endpoint))

        def restart_database() -> Undo:
            database.stop()
            time.sleep(rng.uniform(0, 6))
            database.start()
            return lambda: None

        def trouble_store() -> Undo:
            proxy.misbehave(share=0.5)
            return proxy.behave

        destination = "s3://models/results"
        settings = {
            "SECATEUR_DATABASE_URL": database.create_database(),
            "SECATEUR_DESTINATIONS": destination,
            **store.environment(),
            "SECATEUR_S3_ENDPOINT": proxy.endpoint,
        }
        faults = {"restart database": restart_database, "trouble store": trouble_store}
        yield Surroundings(settings, open_store(destination, store.settings), faults)


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int = DISK_BYTES) -> Iterator[bool]:
    """A folder that is a file system of its own; False where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all room but a little, or what has become free since; returns the file that does."""
    ballast = folder / "ballast"
    with ballast.open("ab") as file:
        file.write(bytes(max(0, shutil.disk_usage(folder).free - 8 * 1024)))
    return ballast


def _fill(folder: Path) -> Undo:
    return fill(folder).unlink


KINDS = {"sqlite": sqlite_and_folder, "postgresql": postgresql_and_s3}
