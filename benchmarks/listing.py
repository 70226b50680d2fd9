"""How long a page of jobs takes among 100,000, by filter and order, on SQLite and, where it is installed, PostgreSQL.

    python benchmarks/listing.py [--jobs 100000] [--calls 100] [--keep DIR] [--small] [--output DIR]

Fills a store with jobs of half a year: four fifths succeeded, every job has labels of a team (a third of the jobs
each), a sweep (50 jobs each) and, in the older half, an archive. Then reads pages of 50 jobs, the first of a list and
those after it, from the store alone and through a server over gRPC. Prints the 50th and 99th percentile, also of this
process's processor time, which other processes do not lengthen, and writes benchmarks/results/listing.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from small import add_options
from sqlalchemy import Engine, create_engine, insert, select, text

from secateur.v1 import prune_service_pb2 as service_pb
from secateur.v1 import prune_service_pb2_grpc as service_grpc
from secateur_service.api.conversion import state_to_enum, timestamp
from secateur_service.api.names import new_job_id
from secateur_service.jobs.filters import Filter, Order, OrderKey
from secateur_service.jobs.job import NewJob
from secateur_service.jobs.rows import new_row
from secateur_service.jobs.schema import jobs
from secateur_service.jobs.states import JobState
from secateur_service.jobs.store import SqlJobStore, open_job_store
from secateur_service.records.growth import growths_of_result, worst_growth
from secateur_service.records.result import Estimate, JobResult, LanguageResult
from secateur_service.spec import parse_spec

LANGUAGES = ("de", "en", "uk", "fr")
SPEC = {
    "model": {"uri": "hf://org/a-model-of-some-size"},
    "calibration": {"corpus": "mc4", "languages": [{"language": tag, "weight": 0.25} for tag in LANGUAGES]},
    "pruning": {"method": "sparsegpt", "sparsity": 0.5},
    "output": {"destination": "file:///results"},
}
DAYS = 180
BATCH, PAGE, PAGES = 1000, 50, 3
FATES = {"SUCCEEDED": 80, "FAILED": 10, "CANCELLED": 5, "QUEUED": 4.9, "RUNNING": 0.1}


def fill(engine: Engine, count: int) -> None:
    """Write jobs into a migrated store."""
    draw = random.Random(0)
    began = datetime.now(UTC).timestamp() - DAYS * 86_400
    resolved = parse_spec(SPEC)
    rows = []
    for number in range(count):
        created = began + DAYS * 86_400 * number / count
        labels = {"team": draw.choice("abc"), "sweep": f"sweep-{number // 50}"}
        labels |= {"archive": "yes"} if number < count / 2 else {}
        state = draw.choices(list(FATES), list(FATES.values()))[0]
        job = NewJob(
            id=new_job_id(created),
            uid=str(uuid.uuid4()),
            spec=SPEC,
            resolved=resolved,
            labels=labels,
            estimate=Estimate(1, 2, 3, 4, 5.0),
        )
        row = new_row(job, round(1000 * created)) | {"state": state}
        if JobState(state).is_terminal:
            row |= {"start_time": row["create_time"], "end_time": row["create_time"] + draw.randrange(10**8)}
        if state == "SUCCEEDED":
            figures = tuple(LanguageResult(tag, 10, 10 + 10 * draw.random(), 1, 1) for tag in LANGUAGES)
            result = JobResult("file:///results/manifest.json", "a" * 64, 0.5, figures)
            plain = {**vars(result), "languages": [vars(figure) for figure in figures]}
            row |= {"result": plain, "worst_growth": worst_growth(row["resolved"], growths_of_result(result))}
        rows.append(row)
        if len(rows) == BATCH or number == count - 1:
            with engine.begin() as connection:
                connection.execute(insert(jobs), rows)
            rows = []
    if engine.dialect.name == "postgresql":  # as its autovacuum does
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def filled(url: str, count: int) -> list[str]:
    """The ids of the jobs in a migrated store, which is filled unless it is already."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    oldest_first = select(jobs.c.id).order_by(jobs.c.create_time, jobs.c.number)
    with engine.connect() as connection:
        ids = connection.scalars(oldest_first).all()
    if not ids:
        fill(engine, count)
        with engine.connect() as connection:
            ids = connection.scalars(oldest_first).all()
    engine.dispose()
    return list(ids)


def filters(ids: list[str]) -> dict[str, Filter]:
    """What lists are filtered by."""
    now, middle = datetime.now(UTC), ids[len(ids) // 2]
    sweep = f"sweep-{len(ids) // 100}"
    return {
        "none": Filter(),
        "state, 80 % of the jobs": Filter(states=(JobState.SUCCEEDED,)),
        "state, 10 %": Filter(states=(JobState.FAILED,)),
        "state, 0.1 %": Filter(states=(JobState.RUNNING,)),
        "label, 33 %": Filter(labels={"team": "a"}),
        "label, the older half": Filter(labels={"archive": "yes"}),
        "label, 50 jobs": Filter(labels={"sweep": sweep}),
        "two labels": Filter(labels={"sweep": sweep, "team": "a"}),
        "label and state": Filter(labels={"team": "a"}, states=(JobState.FAILED,)),
        "since a day": Filter(created_from=now - timedelta(days=1)),
        "since 30 days, label and state": Filter(
            created_from=now - timedelta(days=30), labels={"team": "b"}, states=(JobState.SUCCEEDED,)
        ),
        "beginning of an id": Filter(id_prefix=middle[:8]),
    }


ORDERS = {
    "create_time desc": Order(),
    "end_time desc": Order(OrderKey.END_TIME),
    "worst_growth": Order(OrderKey.WORST_GROWTH, descending=False),
}


Seconds: TypeAlias = tuple[float, float]
"""That a page takes, and of this process's processor time."""


@contextlib.contextmanager
def timed(taken: list[Seconds]) -> Iterator[None]:
    """Add what is done meanwhile."""
    began = time.perf_counter(), time.process_time()
    yield
    taken.append((time.perf_counter() - began[0], time.process_time() - began[1]))


def of_store(store: SqlJobStore, wanted: Filter, order: Order) -> list[Seconds]:
    """What each page of a list takes."""
    taken: list[Seconds] = []
    place = None
    for _ in range(PAGES):
        with timed(taken):
            _, place = store.list_jobs(wanted, order, limit=PAGE, after=place)
        if place is None:
            break
    return taken


def over_grpc(stub: Any, wanted: Filter, order_by: str) -> list[Seconds]:
    """The same through a server."""
    request = service_pb.ListPruneJobsRequest(
        page_size=PAGE,
        states=[state_to_enum(state) for state in wanted.states],
        labels=wanted.labels,
        created_from=timestamp(wanted.created_from) if wanted.created_from else None,
        id_prefix=wanted.id_prefix,
        order_by=order_by,
    )
    taken: list[Seconds] = []
    for _ in range(PAGES):
        with timed(taken):
            request.page_token = stub.ListPruneJobs(request).next_page_token
        if not request.page_token:
            break
    return taken


def percentiles(taken: list[Seconds]) -> dict[str, float]:
    """Milliseconds."""
    found = {}
    for name, seconds in zip(("", "processor_"), zip(*taken, strict=True), strict=True):
        ordered = sorted(seconds)
        found[f"{name}p50_ms"] = round(1000 * ordered[len(ordered) // 2], 2)
        found[f"{name}p99_ms"] = round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 2)
    return found


@contextlib.contextmanager
def server(url: str, folder: Path) -> Iterator[Any]:
    """A server without device slots on a database; yields a stub."""
    ready = folder / "ready"
    command = [sys.executable, "-m", "secateur_service", "serve", "--listen", "127.0.0.1:0"]
    command += ["--data-dir", str(folder / "data"), "--ready-file", str(ready)]
    environment = {**os.environ, "SECATEUR_DEVICES": "", "SECATEUR_METRICS_LISTEN": "", "SECATEUR_DATABASE_URL": url}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while not ready.exists():
            assert process.poll() is None, "the server did not start"
            time.sleep(0.05)
        with grpc.insecure_channel(json.loads(ready.read_text())["grpc"]) as channel:
            yield service_grpc.PruneServiceStub(channel)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[tuple[str, str] | None]:
    """The URL and version of a fresh PostgreSQL; None where it is not installed. It refuses to run as root."""
    found = shutil.which("postgres")
    if found is None:
        yield None
        return
    programs = Path(found).resolve().parent
    as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    if as_nobody:
        folder.chmod(0o755)
        folder.parent.chmod(0o755)
        shutil.chown(folder, "nobody")

    def run(program: str, *arguments: str) -> str:
        command = [*as_nobody, str(programs / program), *arguments]
        return subprocess.run(
            command, check=True, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True
        ).stdout

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")
    if not (folder / "data").exists():
        run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync", "--no-locale", "-E", "UTF8")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder}"
    subprocess.run(
        [*as_nobody, str(programs / "pg_ctl"), "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start"],
        check=True,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres", run("postgres", "--version").split()[2]
    finally:
        run("pg_ctl", "-D", data, "-m", "fast", "-w", "stop")


def measure(url: str, folder: Path, count: int, calls: int) -> dict[str, Any]:
    """Percentiles by filter and order."""
    store = open_job_store(url)
    store.migrate()
    ids = filled(url, count)
    found: dict[str, Any] = {}
    everything: dict[str, list[Seconds]] = {"store": [], "grpc": []}
    with server(url, folder) as stub:
        for (name, wanted), (order_by, order) in ((each, by) for each in filters(ids).items() for by in ORDERS.items()):
            figures = {}
            for side, pages in (
                ("store", lambda wanted=wanted, order=order: of_store(store, wanted, order)),
                ("grpc", lambda wanted=wanted, order_by=order_by: over_grpc(stub, wanted, order_by)),
            ):
                pages()  # warm
                taken: list[Seconds] = []
                while len(taken) < calls:
                    taken += pages()
                everything[side] += taken
                figures[side] = percentiles(taken)
            found.setdefault(name, {})[order_by] = figures
    store.close()
    return {"all": {side: percentiles(taken) for side, taken in everything.items()}, "filters": found}


def show(title: str, figures: dict[str, Any]) -> None:
    """Print a table."""
    heads = {"store": "store", "processor": "processor", "grpc": "gRPC"}
    print(f"{title:<32}{'order':<18}" + "".join(f"{head + ' p50':>15}{'p99':>8}" for head in heads.values()))
    rows = [(name, order, row) for name, orders in figures["filters"].items() for order, row in orders.items()]
    for name, order, row in [*rows, ("all of them", "", figures["all"])]:
        cells = [(row["store"], ""), (row["store"], "processor_"), (row["grpc"], "")]
        print(
            f"{name:<32}{order:<18}"
            + "".join(f"{side[kind + 'p50_ms']:>15.1f}{side[kind + 'p99_ms']:>8.1f}" for side, kind in cells)
        )


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=100, help="at least so many pages of each list")
    parser.add_argument("--keep", type=Path, help="where the stores stay, for another run; by default they are removed")
    add_options(parser)
    options = parser.parse_args()
    if options.small:
        options.jobs, options.calls = 200, 1
    options.output.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "jobs": options.jobs,
        "page_size": PAGE,
        "unit": "milliseconds",
        "load": os.getloadavg()[0],
    }
    result = options.output / "listing.json"
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep.resolve() if options.keep else Path(name)
        places = {each: folder / each for each in ("sqlite", "postgresql", "cluster")}
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
            (place / "ready").unlink(missing_ok=True)
        url = f"sqlite:///{places['sqlite']}/jobs.sqlite3"
        content["sqlite"] = {
            "version": sqlite3.sqlite_version,
            **measure(url, places["sqlite"], options.jobs, options.calls),
        }
        show("SQLite", content["sqlite"])
        result.write_text(json.dumps(content, indent=1) + "\n")
        with postgresql(places["cluster"]) as found:
            if found is None:
                print("PostgreSQL is not installed here; only SQLite was measured")
            else:
                url, version = found
                figures = measure(url, places["postgresql"], options.jobs, options.calls)
                content["postgresql"] = {"version": version, **figures}
                show("PostgreSQL", figures)
                result.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {result}")


if __name__ == "__main__":
    main()
