"""The control plane at scale: agents that claim, beat and finish by timers, over the real store on PostgreSQL.

    python benchmarks/control_plane.py [--agents 1000] [--jobs 100000] [--seconds 120] [--small] [--output DIR]

There are no workers and no models: everything else is real. The queue is filled with jobs of four needs, one in a
hundred of which fits nobody. Then

- *told*: the first round that tells jobs why they wait, one where nothing has changed, and the groups of needs;
- *idle*: claims of agents that nothing in the queue fits;
- *rush*: agents claim and finish at once, as fast as the store lets them;
- *steady*: jobs take a minute on average, with a heartbeat and a line of progress every ten seconds, and every agent
  announces itself; meanwhile lists are read and jobs are watched through a server without slots.

Agents are timers of a few processes, whose connections they share. Prints percentiles in milliseconds, what connections
of the database waited for, who used how much processor time, and dead rows; writes results/control_plane.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from listing import SPEC, postgresql, server
from small import add_options
from sqlalchemy import create_engine, func, insert, select, text
from timer_agents import AGENTS, GB, THREADS, Fleet

from secateur.v1 import prune_job_pb2 as pb
from secateur.v1 import prune_service_pb2 as service_pb
from secateur_service.api.names import new_job_id
from secateur_service.jobs.filters import Filter
from secateur_service.jobs.job import NewJob
from secateur_service.jobs.rows import new_row
from secateur_service.jobs.schema import jobs
from secateur_service.jobs.states import JobState
from secateur_service.jobs.store import SqlJobStore, open_job_store
from secateur_service.records.needs import Capacity, Needs
from secateur_service.records.result import Estimate
from secateur_service.spec import parse_spec

NEEDS = {
    Needs(30 * GB, 10 * GB, 12 * GB, 4 * GB): 60,
    Needs(90 * GB, 20 * GB, 30 * GB, 6 * GB): 30,
    Needs(200 * GB, 40 * GB, 70 * GB, 8 * GB): 9,
    Needs(900 * GB, 90 * GB, 200 * GB, 9 * GB): 1,
}
TINY = Capacity(1, 8 * GB, 32 * GB, 10**12)
MEAN_JOB_SECONDS = 60.0
BATCH, WATCHERS, PAGE = 1000, 50, 50


def fill(url: str, count: int) -> None:
    """Queue jobs in a migrated store."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    draw, resolved, began = random.Random(0), parse_spec(SPEC), time.time() - count / 100
    kinds = draw.choices(list(NEEDS), list(NEEDS.values()), k=count)
    numbered = list(enumerate(kinds))
    for start in range(0, count, BATCH):
        rows = []
        for number, needs in numbered[start : start + BATCH]:
            created = began + number / 100
            estimate = Estimate(1, 2, 3, 4, 5.0)
            job = NewJob(new_job_id(created), str(uuid.uuid4()), SPEC, resolved, {}, estimate, needs=needs)
            rows.append(new_row(job, round(1000 * created)))
        with engine.begin() as connection:
            connection.execute(insert(jobs), rows)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))  # as its autovacuum does
    engine.dispose()


class Database:
    """What the database says of itself: what its connections wait for, processor time, dead rows."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(
            url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT", pool_size=2
        )
        with self._engine.connect() as connection:
            folder = connection.scalar(text("SHOW data_directory"))
        self._main = int((Path(folder) / "postmaster.pid").read_text().split()[0])

    @contextlib.contextmanager
    def watched(self, found: Counter[str]) -> Iterator[None]:
        """Look now and then at what the connections that are at work wait for."""
        ended = threading.Event()
        query = text(
            "SELECT coalesce(wait_event_type || ' ' || wait_event, 'computing') FROM pg_stat_activity"
            " WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            " AND query NOT LIKE 'LISTEN%'"
        )

        def look() -> None:
            while not ended.wait(0.1):
                with self._engine.connect() as connection:
                    found.update(connection.scalars(query))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def processor_seconds(self) -> float:
        """Processor time of all its processes, those that have ended included."""
        ticks = 0
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = entry.read_text().rpartition(")")[2].split()
                if entry.parent.name == str(self._main):
                    ticks += sum(map(int, fields[11:15]))
                elif fields[1] == str(self._main):
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def rows(self) -> dict[str, Any]:
        """Live and dead rows of the tables, and the share of updates that left the indexes alone."""
        query = text(
            "SELECT relname, n_live_tup, n_dead_tup, n_tup_upd, n_tup_hot_upd, autovacuum_count"
            " FROM pg_stat_user_tables WHERE relname IN ('jobs', 'events', 'agents')"
        )
        with self._engine.connect() as connection:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
            found = connection.execute(query).all()
        return {
            row.relname: {
                "live": row.n_live_tup,
                "dead": row.n_dead_tup,
                "hot_updates": round(row.n_tup_hot_upd / row.n_tup_upd, 3) if row.n_tup_upd else None,
                "autovacuums": row.autovacuum_count,
            }
            for row in found
        }

    def state(self) -> dict[str, Any]:
        """Its connections, and the jobs in each state."""
        with self._engine.connect() as connection:
            connections = connection.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE datid > 0"))
            left = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
        return {"connections": connections, "jobs_left": dict(map(tuple, left))}


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds, and how many there were."""
    ordered = sorted(seconds) or [0.0]
    return {
        "count": len(seconds),
        "p50_ms": round(1000 * ordered[len(ordered) // 2], 2),
        "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 2),
    }


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def told(store: SqlJobStore) -> dict[str, Any]:
    """Rounds that tell jobs why they wait, and what a capacity provider asks."""
    first = timed(lambda: store.explain_waiting(list(AGENTS)))
    again = [timed(lambda: store.explain_waiting(list(AGENTS))) for _ in range(5)]
    groups = [timed(store.waiting) for _ in range(5)]
    return {
        "told": sum(count for _, count in store.unserved()),
        "first_round_ms": round(1000 * first, 1),
        "round_without_change": percentiles(again),
        "groups_of_needs": percentiles(groups),
    }


def idle(store: SqlJobStore, calls: int) -> dict[str, float]:
    """Claims of an agent that no job fits."""
    return percentiles([timed(lambda: store.claim(owner="idle", lease_seconds=1, capacity=TINY)) for _ in range(calls)])


def watch(stub: Any, name: str, delays: list[float]) -> None:
    """Add how long after its writing each event of a job arrives."""
    with contextlib.suppress(grpc.RpcError):
        delays.extend(
            time.time() - event.time.ToMicroseconds() / 1e6
            for event in stub.WatchPruneJob(service_pb.WatchPruneJobRequest(name=name))
            if not (event.HasField("snapshot") or event.HasField("heartbeat"))
        )


def read_meanwhile(store: SqlJobStore, stub: Any, seconds: float) -> dict[str, Any]:
    """Lists and watches while agents work."""
    end = time.monotonic() + seconds
    time.sleep(min(5.0, seconds / 4))
    running, _ = store.list_jobs(Filter(states=(JobState.RUNNING,)), limit=WATCHERS)
    delays: list[float] = []
    for job in running:
        threading.Thread(target=watch, args=(stub, f"pruneJobs/{job.id}", delays), daemon=True).start()
    requests = {
        "newest": service_pb.ListPruneJobsRequest(page_size=PAGE),
        "running": service_pb.ListPruneJobsRequest(page_size=PAGE, states=[pb.JOB_STATE_RUNNING]),
        "queued": service_pb.ListPruneJobsRequest(page_size=PAGE, states=[pb.JOB_STATE_QUEUED]),
    }
    taken: dict[str, list[float]] = defaultdict(list)
    while time.monotonic() < end:
        for name, request in requests.items():
            taken[name].append(timed(lambda request=request: stub.ListPruneJobs(request)))
        time.sleep(0.25)
    return {
        "watch_delivery": percentiles(delays),
        "watchers": len(running),
        "list": {name: percentiles(each) for name, each in taken.items()},
    }


def phase(
    fleet: Fleet, database: Database, seconds: float, mean: float, beside: Callable[[], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Agents at work, and who used the processor meanwhile."""
    waits: Counter[str] = Counter()
    found: dict[str, Any] = {}
    before = database.processor_seconds()
    reading = threading.Thread(target=lambda: found.update(beside() if beside else {}))
    began = time.monotonic()
    with database.watched(waits):
        reading.start()
        taken, processor = fleet.run(seconds, mean)
        reading.join()
    elapsed = time.monotonic() - began
    seen = sum(waits.values()) or 1
    return {
        "seconds": round(elapsed, 1),
        "claims_per_second": round(len(taken["claim"]) / elapsed, 1),
        "calls_per_second": round(sum(len(each) for name, each in taken.items() if "timer" not in name) / elapsed, 1),
        "calls": {name: percentiles(each) for name, each in sorted(taken.items())},
        "processors": {
            "database": round((database.processor_seconds() - before) / elapsed, 2),
            "agents": round(processor / elapsed, 2),
        },
        "connections_wait_for": {name: round(count / seen, 3) for name, count in waits.most_common(6)},
        **found,
    }


def measure(url: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All phases."""
    store = open_job_store(url)
    store.migrate()
    fill(url, options.jobs)
    database = Database(url)
    found: dict[str, Any] = {"told": told(store), "idle_claim": idle(store, options.calls)}
    fleet = Fleet(url, options.agents, options.processes)
    try:
        found["rush"] = phase(fleet, database, options.seconds / 4, 0.0)
        with server(url, folder) as stub:
            reading = lambda: read_meanwhile(store, stub, options.seconds)  # noqa: E731
            found["steady"] = phase(fleet, database, options.seconds, MEAN_JOB_SECONDS, reading)
        found["rows"] = database.rows()
        found |= database.state()
    finally:
        fleet.close()
    store.close()
    return found


def show(found: dict[str, Any]) -> None:
    """Print the figures."""
    print(f"told why they wait: {found['told']}")
    print(f"claim that nothing fits: {found['idle_claim']}")
    for name in ("rush", "steady"):
        figures = found[name]
        print(f"\n{name}: {figures['claims_per_second']} claims/s, {figures['calls_per_second']} calls/s")
        calls = {**figures["calls"], **{f"list {it}": row for it, row in figures.get("list", {}).items()}}
        if "watch_delivery" in figures:
            calls["watch delivery"] = figures["watch_delivery"]
        for call, row in calls.items():
            print(f"  {call:<18}{row['count']:>8}  p50 {row['p50_ms']:>9.1f}  p99 {row['p99_ms']:>9.1f}")
        print(f"  processors {figures['processors']}, connections wait for {figures['connections_wait_for']}")
    print(f"\nrows {found['rows']}")


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the steady phase; the rush has a quarter")
    parser.add_argument("--processes", type=int, default=4, help="that the agents are in")
    parser.add_argument("--calls", type=int, default=200, help="claims that nothing fits")
    add_options(parser)
    options = parser.parse_args()
    if options.small:
        options.agents, options.jobs, options.seconds, options.processes, options.calls = 8, 200, 2.0, 1, 3
    options.output.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "agents": options.agents,
        "jobs": options.jobs,
        "processes_of_agents": options.processes,
        "threads_each": THREADS,
        "mean_job_seconds": MEAN_JOB_SECONDS,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as name:
        cluster, folder = Path(name) / "cluster", Path(name) / "server"
        cluster.mkdir()
        folder.mkdir()
        with postgresql(cluster) as found:
            if found is None:
                print("PostgreSQL is not installed here; nothing was measured")
                content["postgresql"] = None
            else:
                url, content["postgresql"] = found
                content |= measure(url, folder, options)
                show(content)
    result = options.output / "control_plane.json"
    result.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {result}")


if __name__ == "__main__":
    main()
