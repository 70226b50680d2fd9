"""Runs many small jobs on a real server under random faults, then checks every promise that docs/reliability.md makes.

    python -m faults.campaign [--jobs 40] [--kills 200] [--seed 1] [--database sqlite|postgresql] [--folder DIR]

Workers and servers are killed or asked to end, workers also stopped for longer than their lease, and watchers replaced
by others that go on where they were, at random times all through the run. Jobs are submitted until there were as many
jobs and as many faults as asked for; then the faults stop, everything ends, and what is left behind is compared: the
event logs in the database, the histories that watchers recorded, the published files, and undisturbed runs of the same
specifications. Prints what was hit in which stage, and a verdict. The seed decides what happens and when; what it hits
depends on the machine too.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import secateur
from secateur_service.artifacts.manifest import parse_manifest
from secateur_service.jobs.job import Event, EventKind, Job
from secateur_service.jobs.states import JobState
from servers import PostgresServer, postgres_folder
from support.models import save_corpora, save_model, spec_data
from support.service import WITH_WORKERS, Service

LEASE_SECONDS = float(WITH_WORKERS["SECATEUR_LEASE_SECONDS"])
BLOCKS = 12
SHAPE = {"num_hidden_layers": BLOCKS, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
SLOTS = 2
MEAN_PAUSE_SECONDS = 2.0
UNDER_WAY = 4  # jobs at a time
METHODS: tuple[dict[str, Any], ...] = (
    {"method": "wanda", "sparsity": 0.5},
    {"method": "sparsegpt", "sparsity": 0.6, "order": "block"},
    {"method": "magnitude", "pattern": "2:4"},
)
FAULTS = {
    "kill worker": 70,
    "kill server": 12,
    "stop worker": 4,
    "end worker": 8,
    "end server": 3,
    "replace watcher": 3,
}


@dataclass
class Watched:
    """A job, what its watcher saw, and how often the watcher was replaced."""

    name: str
    method: int
    handle: Any
    history: list[int] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    error: str = ""
    generation: int = 0

    @property
    def id(self) -> str:
        return self.name.partition("/")[2]


class Watchers:
    """Every job is watched from its first event on, by a thread that may be told to give up and is then replaced."""

    def __init__(self, endpoint: str) -> None:
        self._client = secateur.Client(endpoint, reconnect_seconds=300)
        self._threads: list[threading.Thread] = []

    def submit(self, data: dict[str, Any], method: int) -> Watched:
        request_id = str(uuid.uuid4())
        handle = None
        while handle is None:  # what is not acknowledged is asked for again, and is still one job
            try:
                handle = self._client.submit(data, request_id=request_id)
            except secateur.UnavailableError:
                time.sleep(0.5)
        watched = Watched(handle.name, method, handle)
        self.start(watched)
        return watched

    def start(self, watched: Watched) -> None:
        """Watch on from what was seen; a watcher of an older generation writes nothing more."""
        watched.generation += 1
        thread = threading.Thread(target=self._watch, args=(watched, watched.generation), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch(self, watched: Watched, generation: int) -> None:
        after = watched.history[-1] if watched.history else 0
        try:
            for event in watched.handle.watch(after_sequence=after):
                if watched.generation != generation:
                    return
                watched.history.append(event.sequence)
                if isinstance(event, secateur.StateEvent):
                    watched.states.append(str(event.state))
        except secateur.SecateurError as error:
            watched.error = repr(error)

    def join(self, seconds: float) -> None:
        for thread in self._threads:
            thread.join(seconds)

    def close(self) -> None:
        self._client.close()


class Campaign:
    """One run.

    Args:
        folder: for models, databases and results.
        settings: further settings of the server.
        seed: of what happens when.
    """

    def __init__(self, folder: Path, settings: dict[str, str], seed: int) -> None:
        self.rng = random.Random(seed)
        files = folder / "files"
        save_model(files / "model", "llama", dtype=torch.bfloat16, **SHAPE)
        save_corpora(files)
        self.specs = [
            {
                **spec_data(files / "model", files / "calibration", files / "evaluation", **pruning),
                "execution": {"max_attempts": 100},
            }
            for pruning in METHODS
        ]
        self.service = Service(
            folder,
            **{
                **WITH_WORKERS,
                "SECATEUR_DEVICES": ",".join(["cpu"] * SLOTS),
                "SECATEUR_DRAIN_SECONDS": "10",
                **settings,
            },
        )
        self.watchers = Watchers(self.service.endpoint)
        self.jobs: list[Watched] = []
        self.hits: collections.Counter[tuple[str, str]] = collections.Counter()
        self._stopped: list[tuple[float, int]] = []

    def run(self, jobs: int, kills: int) -> None:
        """Undisturbed runs, then the disturbed ones."""
        undisturbed = [self.watchers.submit(spec, number) for number, spec in enumerate(self.specs)]
        for watched in undisturbed:
            watched.handle.result(timeout_seconds=120)
        self.expected = [published(self.store_job(watched)) for watched in undisturbed]
        while self.faults < kills or len(self.jobs) < jobs:
            self._keep_submitting(jobs if self.faults >= kills else 10**9)
            time.sleep(self.rng.expovariate(1 / MEAN_PAUSE_SECONDS))
            self._continue_the_stopped()
            if self.faults < kills:
                self._disturb()
        while self._stopped:
            self._continue_the_stopped()
            time.sleep(0.1)
        for watched in self.jobs:
            with contextlib.suppress(secateur.JobFailedError):
                watched.handle.wait(timeout_seconds=600)
        self.watchers.join(60)

    @property
    def faults(self) -> int:
        return sum(self.hits.values())

    def store_job(self, watched: Watched) -> Job:
        return self.service.store.get(watched.id)

    def _keep_submitting(self, most: int) -> None:
        under_way = sum(not self.store_job(watched).state.is_terminal for watched in self.jobs)
        for _ in range(min(UNDER_WAY - under_way, most - len(self.jobs))):
            method = self.rng.randrange(len(self.specs))
            self.jobs.append(self.watchers.submit(self.specs[method], method))

    def _disturb(self) -> None:
        [fault] = self.rng.choices(list(FAULTS), list(FAULTS.values()))
        what, whom = fault.split()
        if whom == "worker":
            self._disturb_worker(fault, what)
        elif whom == "server":
            self.hits[fault, "server"] += 1
            self.service.process.send_signal(signal.SIGKILL if what == "kill" else signal.SIGTERM)
            self.service.process.wait()
            time.sleep(self.rng.uniform(0, 2))
            self.service.start()
        else:
            watched = self.rng.choice(self.jobs)
            self.hits[fault, "watcher"] += 1
            self.watchers.start(watched)

    def _disturb_worker(self, fault: str, what: str) -> None:
        pids = self.service.worker_pids()
        if not pids:
            return
        pid = self.rng.choice(pids)
        number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "end": signal.SIGTERM}[what]
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            job_id = _argument(pid, "--job")
            os.kill(pid, number)
            self.hits[fault, self._stage(job_id)] += 1
            if what == "stop":
                self._stopped.append((time.monotonic() + 3 * LEASE_SECONDS, pid))

    def _stage(self, job_id: str) -> str:
        job = self.service.store.get(job_id)
        if job.state is not JobState.RUNNING:
            return str(job.state)
        if job.stage is None:
            return "STARTING"
        blocks = len(self.service.store.blocks(job_id))
        return f"{job.stage} {blocks}/{BLOCKS}" if job.stage == "PRUNING" else str(job.stage)

    def _continue_the_stopped(self) -> None:
        now = time.monotonic()
        for entry in [entry for entry in self._stopped if entry[0] <= now]:
            self._stopped.remove(entry)
            with contextlib.suppress(ProcessLookupError):
                os.kill(entry[1], signal.SIGCONT)

    def violations(self) -> list[str]:
        """Every promise that was broken, for every job."""
        found = []
        for watched in self.jobs:
            job = self.store_job(watched)
            events = self.service.store.events(job.id, after=0, limit=10**6)
            for promise, is_kept in self._promises(watched, job, events):
                if not is_kept:
                    found.append(f"{watched.name} (attempt {job.attempt}, {job.state}): {promise}")
        return found

    def _promises(self, watched: Watched, job: Job, events: list[Event]) -> Iterator[tuple[str, bool]]:
        states = [event.body["state"] for event in events if event.kind is EventKind.STATE]
        blocks = [event.body["index"] for event in events if event.kind is EventKind.BLOCK]
        attempts = [event.attempt for event in events]
        yield "it ends well", job.state is JobState.SUCCEEDED
        yield "it ends once", sum(JobState(state).is_terminal for state in states) == 1 and states[-1] == job.state
        yield "its events are numbered without a gap", [e.sequence for e in events] == list(range(1, len(events) + 1))
        yield "an attempt writes nothing once its successor has begun", attempts == sorted(attempts)
        yield "a finished block is not computed again", blocks == list(range(BLOCKS))
        yield f"its watcher is well: {watched.error}", not watched.error
        yield "its watcher saw every event once and in order", watched.history == [e.sequence for e in events]
        yield "its watcher saw its states", watched.states == states
        if job.result is not None:
            yield "what is published is complete, verified, and the same as undisturbed", self._is_as_expected(watched)

    def _is_as_expected(self, watched: Watched) -> bool:
        return published(self.store_job(watched)) == self.expected[watched.method]

    def histogram(self) -> str:
        """How often each fault hit each stage."""
        faults = sorted({fault for fault, _ in self.hits})
        stages = sorted({stage for _, stage in self.hits}, key=_stage_order)
        lines = [f"{'':<14}" + "".join(f"{fault:>16}" for fault in faults)]
        lines += [
            f"{stage:<14}" + "".join(f"{self.hits[fault, stage] or '':>16}" for fault in faults) for stage in stages
        ]
        return "\n".join(lines)

    def close(self) -> None:
        """End everything."""
        self.watchers.close()
        self.service.close()


def published(job: Job) -> dict[str, str]:
    """Digests of a published result by path, of all that must be the same for the same specification.

    Raises:
        AssertionError: the manifest is not the one that the job store names, or a file is not what it says.
    """
    assert job.result is not None
    path = Path(job.result.manifest_uri.removeprefix("file://"))
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == job.result.manifest_sha256, "another manifest"
    manifest = parse_manifest(content)
    assert manifest.job_id == job.id, "another job's manifest"
    digests = {}
    for file in manifest.files:
        stored = (path.parent / file.path).read_bytes()
        assert len(stored) == file.size_bytes, f"{file.path} has another size"
        assert hashlib.sha256(stored).hexdigest() == file.sha256, f"{file.path} has another content"
        if file.path == "report/report.json":
            report = json.loads(stored)
            del report["job"]
            stored = json.dumps(report).encode()
        if file.path.endswith((".html", "README.md", "provenance.json")):  # these name the job and the time
            continue
        digests[file.path] = hashlib.sha256(stored).hexdigest()
    return digests


def _argument(pid: int, name: str) -> str:
    """What a process was told on its command line."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return words[words.index(name) + 1]


def _stage_order(stage: str) -> tuple[int, int, str]:
    order = ["STARTING", "FETCHING", "SAMPLING", "PRUNING", "PACKAGING", "PUBLISHING"]
    name, _, blocks = stage.partition(" ")
    return (order.index(name) if name in order else len(order), int(blocks.partition("/")[0] or 0), stage)


@contextlib.contextmanager
def database(kind: str) -> Iterator[dict[str, str]]:
    """The settings that choose a database."""
    if kind == "sqlite":
        yield {}
        return
    programs = postgres_folder()
    assert programs is not None, "PostgreSQL is not installed: apt-get install postgresql"
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = PostgresServer(Path(folder), programs)
        server.start()
        try:
            yield {"SECATEUR_DATABASE_URL": server.create_database()}
        finally:
            server.stop()


def main() -> int:
    """Run a campaign; 1 where a promise was broken."""
    logging.getLogger("secateur").setLevel(logging.ERROR)  # every lost connection is a warning
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40, help="at least so many")
    parser.add_argument("--kills", type=int, default=200, help="so many faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--folder", type=Path, help="kept, for looking at it afterwards")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, database(options.database) as settings:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(folder, settings, options.seed)
        try:
            campaign.run(options.jobs, options.kills)
            broken = campaign.violations()
            attempts = sum(campaign.store_job(watched).attempt for watched in campaign.jobs)
        finally:
            campaign.close()
    print(campaign.histogram())
    print("\n".join(broken))
    print(
        f"{len(campaign.jobs)} jobs, {attempts} attempts, {campaign.faults} faults in {time.monotonic() - began:.0f} s "
        f"(seed {options.seed}, {options.database}): {len(broken)} broken promises"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
