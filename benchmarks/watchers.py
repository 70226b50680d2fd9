"""What idle watchers cost: the server's memory and the latency of other calls, with none and with a thousand.

    python benchmarks/watchers.py [--watchers 1000] [--calls 300] [--small] [--output DIR]

Starts a server without device slots, opens that many watches of queued jobs, one of which never reads although its job
writes thousands of events, and meanwhile times GetPruneJob. Prints the figures, and writes
benchmarks/results/watchers.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc.aio
from small import add_options

from secateur.v1 import prune_service_pb2 as service_pb
from secateur.v1 import prune_service_pb2_grpc as service_grpc
from secateur_service.jobs.job import EventKind, NewJob
from secateur_service.jobs.store import SqlJobStore, open_job_store
from secateur_service.records.result import Estimate
from secateur_service.spec import parse_spec

sys.path.insert(0, str(Path(__file__).parent / "compare"))
from processes import memory_bytes

CHANNELS = 10  # a hundred watches each: the server's limit per connection
SPEC = {
    "model": {"uri": "file:///model"},
    "calibration": {"corpus": "file:///corpus", "languages": [{"language": "de"}], "sequence_length": 64},
    "pruning": {"sparsity": 0.5},
    "evaluation": {"languages": ["de"]},
    "output": {"destination": "file:///artifacts"},
}


def create(store: SqlJobStore, number: int) -> str:
    """Create a job that nothing runs; returns its id."""
    estimate = Estimate(checkpoint_bytes=0, peak_host_bytes=0, peak_device_bytes=0, disk_bytes=0, flops=0.0)
    return store.create(NewJob(f"job{number:08d}", str(number), SPEC, parse_spec(SPEC), {}, estimate)).id


@contextlib.contextmanager
def server(folder: Path, watchers: int) -> Any:
    """A server process and its address."""
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "secateur_service", "serve", "--listen", "127.0.0.1:0", "--metrics-listen", ""]
    command += ["--data-dir", str(folder / "data"), "--ready-file", str(ready)]
    environment = {**os.environ, "SECATEUR_DEVICES": "", "SECATEUR_MAX_WATCHERS": str(watchers + 10)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while not ready.exists():
            time.sleep(0.05)
        yield process.pid, json.loads(ready.read_text())["grpc"]
    finally:
        process.kill()
        process.wait()


async def latencies(stub: Any, name: str, calls: int) -> dict[str, float]:
    """Latencies of sequential calls, in milliseconds."""
    taken = []
    for _ in range(calls):
        began = time.perf_counter()
        await stub.GetPruneJob(service_pb.GetPruneJobRequest(name=name))
        taken.append(1000 * (time.perf_counter() - began))
    taken.sort()
    return {"median_ms": taken[len(taken) // 2], "p99_ms": taken[int(0.99 * len(taken))]}


async def measure(pid: int, address: str, store: SqlJobStore, options: argparse.Namespace) -> dict[str, Any]:
    """Figures without watchers, with idle ones, and with a slow one added."""
    watchers, calls = options.watchers, options.calls
    jobs = [f"pruneJobs/{create(store, number)}" for number in range(CHANNELS)]
    flooded = store.claim(owner="benchmark", lease_seconds=3600)
    assert flooded is not None
    async with contextlib.AsyncExitStack() as stack:
        own = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        stub = service_grpc.PruneServiceStub(own)
        await latencies(stub, jobs[1], calls)  # warm
        found = {"none": {**await latencies(stub, jobs[1], calls), "memory": memory_bytes(pid, "VmRSS")}}
        streams = []
        for number in range(watchers):
            if number % (watchers // CHANNELS) == 0:
                own_connection = [("grpc.use_local_subchannel_pool", 1)]
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=own_connection))
            name = jobs[1 + number % (CHANNELS - 1)]
            stream = service_grpc.PruneServiceStub(channel).WatchPruneJob(service_pb.WatchPruneJobRequest(name=name))
            streams.append(stream)
            assert (await stream.read()).snapshot.name == name
        found["idle"] = {**await latencies(stub, jobs[1], calls), "memory": memory_bytes(pid, "VmRSS")}
        slow = stub.WatchPruneJob(service_pb.WatchPruneJobRequest(name=f"pruneJobs/{flooded.id}", after_sequence=0))
        await slow.read()
        line = {"level": "info", "message": "x" * 1000, "fields": {}}
        for _ in range(options.flood // 100):
            await asyncio.to_thread(store.append, flooded.id, 1, [(EventKind.LOG, line)] * 100)
        found["idle and a slow one"] = {**await latencies(stub, jobs[1], calls), "memory": memory_bytes(pid, "VmRSS")}
        for stream in [*streams, slow]:
            stream.cancel()
    return found


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--flood", type=int, default=20_000, help="events that the slow watcher does not read")
    add_options(parser)
    options = parser.parse_args()
    if options.small:
        options.watchers, options.calls, options.flood = 20, 5, 200
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, server(Path(name), options.watchers) as (pid, address):
        store = open_job_store(f"sqlite:///{name}/data/secateur.sqlite3")
        found = asyncio.run(measure(pid, address, store, options))
        store.close()
    print(f"{'watchers':<22}{'server memory':>15}{'median':>10}{'p99':>10}")
    for title, row in found.items():
        memory = f"{row['memory'] / 2**20:.0f} MiB"
        print(f"{title:<22}{memory:>15}{row['median_ms']:>7.1f} ms{row['p99_ms']:>7.1f} ms")
    content = {"watchers": options.watchers, "grpcio": metadata.version("grpcio"), "figures": found}
    result = options.output / "watchers.json"
    result.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {result}")


if __name__ == "__main__":
    main()
