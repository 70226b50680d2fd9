"""What attacks on a server cost everybody else: other callers' latencies, and the memory of its processes.

    python benchmarks/attacks.py [--checkout DIR] [--only WORD] [--small] [--output DIR]

Starts a server for each attack, without device slots and with two tokens. One caller attacks; the other, on its own
connections, requests a job and the service's health ten times per second. `--checkout` runs the server of another
checkout, for comparison. Then measures a server that is not under attack: dry runs per second, and pages of 500 among
2,000 jobs. Prints a table, and adds it to benchmarks/results/attacks.json under the title given by `--title`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from small import add_options, write_material
from watchers import create

from secateur.v1 import prune_job_pb2 as pb
from secateur.v1 import prune_service_pb2 as service_pb
from secateur.v1 import prune_service_pb2_grpc as service_grpc
from secateur_service.api.tokens import TokenEntry, edited_tokens, new_token
from secateur_service.jobs.store import open_job_store

SERVICE = "secateur.v1.PruneService"
PATIENCE = 120.0
SHELL_DESCRIPTORS = 1024  # the default limit in most shells


@dataclass
class Scale:
    """How hard the attacks are."""

    huge_dimensions: int = 100_000
    tensors: int = 1_000_000
    configuration_bytes: int = 45_000_000
    creations: int = 24
    connections: int = 1_100
    entries: int = 500_000
    malformed: int = 2_000
    seconds: float = 15.0
    dry_runs: int = 600
    jobs: int = 2_000
    pages: int = 200


SMALL = Scale(100, 100, 10_000, 4, 40, 2_000, 20, 0.5, 20, 20, 5)


@dataclass
class Site:
    """A running server, its files, and its callers."""

    folder: Path
    process: subprocess.Popen[bytes]
    address: str
    metrics: str
    tokens: dict[str, str]
    job: str
    scale: Scale
    hub: socket.socket

    @contextlib.contextmanager
    def calls(self, caller: str) -> Iterator[tuple[service_grpc.PruneServiceStub, Any, Any]]:
        """A separate connection for a caller: stub, channel, metadata."""
        with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield (
                service_grpc.PruneServiceStub(channel),
                channel,
                (("authorization", f"Bearer {self.tokens[caller]}"),),
            )

    def spec(self, model: str = "") -> pb.PruneSpec:
        """A small specification for a model."""
        files = self.folder / "files"
        languages = sorted(path.stem for path in (files / "calibration").glob("*.txt"))
        return pb.PruneSpec(
            model=pb.ModelSpec(uri=model or (files / "model").as_uri()),
            calibration=pb.CalibrationSpec(
                corpus=(files / "calibration").as_uri(),
                languages=[pb.LanguageWeight(language=language) for language in languages],
                samples=8,
                sequence_length=64,
            ),
            pruning=pb.PruningSpec(sparsity=0.5),
            evaluation=pb.EvaluationSpec(tokens_per_language=256),
        )

    def dry_run(self, caller: str, model: str = "", **more: Any) -> str:
        """Send a dry run and return its status code."""
        request = service_pb.CreatePruneJobRequest(**{"spec": self.spec(model), **more}, validate_only=True)
        with self.calls(caller) as (stub, _, metadata):
            return code_of(lambda: stub.CreatePruneJob(request, metadata=metadata, timeout=PATIENCE))

    def copied_model(self, name: str) -> Path:
        """A copy of the model under another name."""
        model, copy = self.folder / "files" / "model", self.folder / "files" / name
        copy.mkdir(exist_ok=True)
        for path in model.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        return copy


def code_of(call: Callable[[], Any]) -> str:
    """The status code of a call."""
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


@contextlib.contextmanager
def served(checkout: Path, scale: Scale, **settings: str) -> Iterator[Site]:
    """Run the server of a checkout, with a shell's default limits."""
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0), backlog=256) as hub:
        folder = Path(name)
        (folder / "files").mkdir()
        write_material(folder / "files")
        tokens = {}
        for caller in ("attacker", "other"):
            tokens[caller], digest = new_token()
            with edited_tokens(folder / "tokens.json") as entries:
                entries.append(TokenEntry(name=caller, sha256=digest, created=time.strftime("%Y-%m-%dT%H:%M:%SZ")))
        ready = folder / "ready.json"
        command = [sys.executable, "-m", "secateur_service", "serve", "--listen", "127.0.0.1:0"]
        command += ["--metrics-listen", "127.0.0.1:0", "--data-dir", str(folder / "data"), "--ready-file", str(ready)]
        command += ["--file-root", str(folder / "files"), "--tokens-file", str(folder / "tokens.json")]
        environment = {
            **os.environ,
            "PYTHONPATH": f"{checkout / 'client'}{os.pathsep}{checkout / 'service'}",
            "SECATEUR_DEVICES": "",
            "SECATEUR_HUB_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}",
            **settings,
        }
        limited = ["sh", "-c", f'ulimit -S -n {SHELL_DESCRIPTORS}; exec "$@"', "sh", *command]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(limited, env=environment, stderr=log, cwd=folder)
        try:
            while not ready.exists():
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            addresses = json.loads(ready.read_text())
            store = open_job_store(f"sqlite:///{folder}/data/secateur.sqlite3")
            job = f"pruneJobs/{create(store, 0)}"
            store.close()
            site = Site(folder, process, addresses["grpc"], addresses["metrics"], tokens, job, scale, hub)
            site.dry_run("other")  # triggers lazy imports
            yield site
        finally:
            process.kill()
            process.wait()


@dataclass
class Watched:
    """What the other caller saw, and how much memory the server's processes used.

    Attributes:
        seconds: the longest time that each kind of call took.
        memory: peak of the server, and of the largest of the processes that it has started.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def call(self, kind: str, call: Callable[[], Any]) -> None:
        """Time a call."""
        began = time.perf_counter()
        code = code_of(call)
        self.seconds[kind] = max(self.seconds.get(kind, 0), time.perf_counter() - began)
        if code != "OK":
            self.failures[kind] = code

    def look(self, pid: int) -> None:
        """Update the peak memory of the processes."""
        self.memory["server"] = peak_bytes(pid)
        started = [peak_bytes(child) for child in descendants(pid)]
        self.memory["children"] = max([self.memory.get("children", 0), *started])


@contextlib.contextmanager
def beside(site: Site) -> Iterator[Watched]:
    """Keep another caller at work during the context."""
    seen, over = Watched(), threading.Event()

    def work() -> None:
        health = health_pb2.HealthCheckRequest(service=SERVICE)
        get = service_pb.GetPruneJobRequest(name=site.job)
        patient = {"timeout": PATIENCE, "wait_for_ready": True}
        while not over.is_set():
            with site.calls("other") as (stub, channel, metadata):  # a new client each time, which has to connect
                checks = health_pb2_grpc.HealthStub(channel)
                seen.call("get", partial(stub.GetPruneJob, get, metadata=metadata, **patient))
                seen.call("health", partial(checks.Check, health, **patient))
            seen.look(site.process.pid)
            over.wait(0.1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def peak_bytes(pid: int) -> int:
    """The peak resident memory of a process."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def descendants(pid: int) -> list[int]:
    """A process's children and their descendants."""
    with contextlib.suppress(OSError):
        lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        own = [int(child) for children in lists for child in children]
        return own + [inner for child in own for inner in descendants(child)]
    return []


def header(folder: Path, entries: str, body: int = 0) -> None:
    content = entries.encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + bytes(body))


def huge_dimensions(site: Site) -> str:
    """A header of 2 MB: one tensor with a long list of huge dimensions."""
    folder = site.copied_model("huge")
    shape = ",".join(["9223372036854775807"] * site.scale.huge_dimensions)
    header(folder, f'{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,4]}}}}', body=4)
    return site.dry_run("attacker", folder.as_uri())


def million_tensors(site: Site) -> str:
    """A header with a million tensors."""
    folder = site.copied_model("many")
    entry = '"t{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    header(folder, "{" + ",".join(entry.format(number) for number in range(site.scale.tensors)) + "}")
    return site.dry_run("attacker", folder.as_uri())


def large_configuration(site: Site) -> str:
    """A configuration with 45 MB of empty lists."""
    folder = site.copied_model("wide")
    (folder / "config.json").write_text('{"a":[' + ",".join(["[]"] * (site.scale.configuration_bytes // 3)) + "]}")
    return site.dry_run("attacker", folder.as_uri())


def eight_at_once(site: Site) -> str:
    """The three attacks above, eight at a time."""
    kinds = [huge_dimensions, million_tensors, large_configuration]
    for kind in kinds:
        kind(site)
    files = site.folder / "files"
    models = [(files / name).as_uri() for name in ("huge", "many", "wide")] * 3
    with ThreadPoolExecutor(8) as pool:
        return ", ".join(sorted(set(pool.map(lambda model: site.dry_run("attacker", model), models[:8]))))


def hanging_hub(site: Site, seen: Watched) -> str:
    """24 creations that wait for a silent hub; the other caller's dry run names local files."""
    with ThreadPoolExecutor(site.scale.creations) as pool, contextlib.ExitStack() as stack:
        waiting = []
        for _ in range(site.scale.creations):
            stub, _, metadata = stack.enter_context(site.calls("attacker"))
            request = service_pb.CreatePruneJobRequest(spec=site.spec("hf://org/name"), validate_only=True)
            waiting.append(stub.CreatePruneJob.future(request, metadata=metadata, timeout=PATIENCE))
        time.sleep(min(1.0, site.scale.seconds))
        seen.call("local dry run", lambda: dry_run_or_raise(site))
        for call in waiting:
            call.cancel()
        pool.shutdown()
    return "cancelled"


def dry_run_or_raise(site: Site) -> None:
    with site.calls("other") as (stub, _, metadata):
        request = service_pb.CreatePruneJobRequest(spec=site.spec(), validate_only=True)
        stub.CreatePruneJob(request, metadata=metadata, timeout=PATIENCE)


def silent_connections(site: Site) -> str:
    """1,100 connections that send nothing."""
    return hold(site, site.address)


def silent_scrapes(site: Site, seen: Watched) -> str:
    """The same number on the metrics port, where a scrape is timed."""
    host, _, port = site.metrics.rpartition(":")

    def scrape() -> None:
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            while connection.recv(1 << 16):
                pass

    outcome = hold(site, site.metrics, lambda: seen.call("scrape", scrape))
    threads = Path(f"/proc/{site.process.pid}/status").read_text().split("Threads:")[1].split()[0]
    return f"{outcome}, {threads} threads"


def hold(site: Site, address: str, then: Callable[[], None] = lambda: None) -> str:
    host, _, port = address.rpartition(":")
    held = []
    with contextlib.ExitStack() as stack:
        for _ in range(site.scale.connections):
            with contextlib.suppress(OSError):
                held.append(stack.enter_context(socket.create_connection((host, int(port)), timeout=5)))
        time.sleep(site.scale.seconds)
        then()
    return f"{len(held)} held"


def all_watches(site: Site, seen: Watched) -> str:
    """As many watches as the server allows, by one token; the other caller also wants one."""
    codes: dict[str, int] = {}
    request = service_pb.WatchPruneJobRequest(name=site.job)
    with contextlib.ExitStack() as stack:
        streams = []
        for _ in range(3):
            stub, _, metadata = stack.enter_context(site.calls("attacker"))
            streams += [stub.WatchPruneJob(request, metadata=metadata, timeout=PATIENCE) for _ in range(30)]
        for stream in streams:
            code = code_of(lambda s=stream: next(s))
            codes[code] = codes.get(code, 0) + 1
        stub, _, metadata = stack.enter_context(site.calls("other"))
        seen.call("watch", lambda: next(stub.WatchPruneJob(request, metadata=metadata, timeout=PATIENCE)))
        for stream in streams:
            stream.cancel()
    return ", ".join(f"{count} {code}" for code, count in sorted(codes.items()))


def many_entries(site: Site) -> str:
    """Requests of one megabyte with half a million entries."""
    count = site.scale.entries
    spec = site.spec()
    spec.calibration.languages.extend([pb.LanguageWeight()] * count)
    with site.calls("attacker") as (stub, _, metadata), ThreadPoolExecutor(4) as pool:
        create_one = service_pb.CreatePruneJobRequest(spec=spec, validate_only=True)
        list_some = service_pb.ListPruneJobsRequest(states=[1] * count)
        calls = [
            *(lambda: stub.CreatePruneJob(create_one, metadata=metadata, timeout=PATIENCE) for _ in range(4)),
            *(lambda: stub.ListPruneJobs(list_some, metadata=metadata, timeout=PATIENCE) for _ in range(4)),
        ]
        return ", ".join(sorted(set(pool.map(code_of, calls))))


def first(stream: Callable[[], Any]) -> Any:
    return next(stream())


def malformed_requests(site: Site) -> str:
    """Bytes that are not a valid message, sent to every method and to nonexistent ones."""
    codes: dict[str, int] = {}
    with site.calls("attacker") as (_, channel, metadata):
        methods = [method.name for method in service_pb.DESCRIPTOR.services_by_name["PruneService"].methods]
        for number in range(site.scale.malformed):
            name = [*methods, "NoSuchMethod"][number % (len(methods) + 1)]
            is_stream = name == "WatchPruneJob"
            call = (channel.unary_stream if is_stream else channel.unary_unary)(f"/{SERVICE}/{name}")

            ask = partial(call, b"\xff\xfe\xfd", metadata=metadata, timeout=PATIENCE)
            code = code_of(partial(first, ask) if is_stream else ask)
            codes[code] = codes.get(code, 0) + 1
    log = (site.folder / "log").read_text(errors="replace")
    lines = log.count("Traceback")
    return f"{', '.join(f'{count} {code}' for code, count in sorted(codes.items()))}; {lines} tracebacks in the log"


FEW_WATCHES = {"SECATEUR_MAX_WATCHERS": "64", "SECATEUR_MAX_WATCHERS_PER_CALLER": "32"}
ATTACKS: dict[str, tuple[Callable[..., str], dict[str, str]]] = {
    "2 MB of huge dimensions": (huge_dimensions, {}),
    "a million tensors": (million_tensors, {}),
    "45 MB of configuration": (large_configuration, {}),
    "these three, eight at once": (eight_at_once, {}),
    "24 creations, silent hub": (hanging_hub, {}),
    "1,100 silent connections": (silent_connections, {}),
    "1,100 silent scrapes": (silent_scrapes, {}),
    "all watches": (all_watches, FEW_WATCHES),
    "half a million entries": (many_entries, {}),
    "malformed requests": (malformed_requests, {}),
}


def attacked(site: Site, name: str) -> dict[str, Any]:
    """The figures of one attack."""
    attack, _ = ATTACKS[name]
    with beside(site) as seen:
        time.sleep(min(0.5, site.scale.seconds))
        began = time.perf_counter()
        wants_to_see = attack.__code__.co_argcount == 2
        outcome = attack(site, seen) if wants_to_see else attack(site)
        taken = time.perf_counter() - began
    return {
        "outcome": outcome,
        "attack_seconds": round(taken, 2),
        "longest_seconds": {kind: round(seconds, 3) for kind, seconds in sorted(seen.seconds.items())},
        "failures": seen.failures,
        "peak_mib": {who: size >> 20 for who, size in sorted(seen.memory.items())},
    }


def unharmed(site: Site) -> dict[str, float]:
    """Dry runs per second, one and eight at a time, and the latency of pages of 500 jobs, without an attack."""
    found: dict[str, float] = {}
    scale = site.scale
    request = service_pb.CreatePruneJobRequest(spec=site.spec(), validate_only=True)
    with site.calls("other") as (stub, _, metadata):
        for threads in (1, 8):
            with ThreadPoolExecutor(threads) as pool:
                calls = [lambda: stub.CreatePruneJob(request, metadata=metadata)] * scale.dry_runs
                list(pool.map(code_of, calls[: scale.dry_runs // 10]))
                began = time.perf_counter()
                codes = set(pool.map(code_of, calls))
                taken = time.perf_counter() - began
            assert codes == {"OK"}, codes
            found[f"dry_runs_per_second_{threads}_at_once"] = round(scale.dry_runs / taken, 1)
        store = open_job_store(f"sqlite:///{site.folder}/data/secateur.sqlite3")
        for number in range(1, scale.jobs):
            create(store, number)
        store.close()
        times = []
        for _ in range(scale.pages):
            began = time.perf_counter()
            stub.ListPruneJobs(service_pb.ListPruneJobsRequest(page_size=500), metadata=metadata)
            times.append(1000 * (time.perf_counter() - began))
        times.sort()
        found["list_500_median_ms"] = round(times[len(times) // 2], 1)
        found["list_500_p99_ms"] = round(times[int(0.99 * len(times))], 1)
    return found


def shown(name: str, figures: dict[str, Any]) -> str:
    """One line of the table."""
    longest = "  ".join(f"{kind} {seconds:.2f} s" for kind, seconds in figures["longest_seconds"].items())
    memory = "  ".join(f"{who} {size} MiB" for who, size in figures["peak_mib"].items())
    failures = "".join(f"  {kind} {code}!" for kind, code in figures["failures"].items())
    return f"{name:<28}{longest}{failures}  |  {memory}  |  {figures['outcome']} in {figures['attack_seconds']:.1f} s"


def main() -> None:
    """Run the attacks, print and save the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[1], help="whose server is attacked")
    parser.add_argument("--title", default="now", help="under which the results are kept")
    parser.add_argument("--only", default="", help="attacks whose name has this word, or unharmed")
    add_options(parser)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    scale = SMALL if options.small else Scale()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    result = options.output / "attacks.json"
    kept = json.loads(result.read_text()) if result.exists() else {}
    found = kept.setdefault(options.title, {"attacks": {}})
    start = partial(served, options.checkout.absolute(), scale)

    def keep() -> None:
        result.write_text(json.dumps(kept, indent=1) + "\n")

    with contextlib.ExitStack() as stack:
        # Each attack gets its own server; in the small form they share one, because starting it takes longest.
        shared = stack.enter_context(start(**FEW_WATCHES)) if options.small else None
        for name, (_, settings) in ATTACKS.items():
            if options.only in name:
                with contextlib.nullcontext(shared) if shared else start(**settings) as site:
                    found["attacks"][name] = attacked(site, name)
                print(shown(name, found["attacks"][name]), flush=True)
                keep()
        if options.only in "unharmed":
            with contextlib.nullcontext(shared) if shared else start() as site:
                found["unharmed"] = unharmed(site)
            print(json.dumps(found["unharmed"]))
            keep()


if __name__ == "__main__":
    main()
