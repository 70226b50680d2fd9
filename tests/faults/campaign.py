"""Runs many small jobs on a real server under random faults, then checks every promise that docs/reliability.md makes.

    python -m faults.campaign [--jobs 40] [--kills 200] [--seed 1] [--database sqlite|postgresql] [--folder DIR]

Workers and servers are killed or asked to end, workers also stopped for longer than their lease, and watchers replaced
by others that go on where they were, at random times all through the run; with SQLite the disk fills up, with
PostgreSQL the database is restarted and the object store fails now and then. Jobs are submitted until there were as
many jobs and as many kills as asked for; then the faults stop, everything ends, the janitor cleans up, and what is left
behind is compared: the event logs in the database, the histories that watchers recorded, the published files, and
undisturbed runs of the same specifications. Prints what was hit in which stage, and a verdict. The seed decides what
happens and when; what it hits depends on the machine too.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import logging
import random
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

import secateur
from faults.published import published
from faults.surroundings import KINDS, Surroundings
from secateur_service.control.janitor import Janitor
from secateur_service.executors.workdir import LocalFolders
from secateur_service.jobs.job import Event, EventKind, Job
from secateur_service.jobs.states import JobState
from support import processes, worker_forks
from support.models import save_corpora, save_model, spec_data
from support.service import WITH_WORKERS, Service
from support.waiting import HANG_SECONDS, until

LEASE_SECONDS = 10.0
BLOCKS = 12
SHAPE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
SLOTS = 2
MEAN_PAUSE_SECONDS = 2.0
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
    "fill disk": 3,
    "restart database": 3,
    "trouble store": 5,
}
_OF_SURROUNDINGS = {"fill disk", "restart database", "trouble store"}


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
        folder: for models and the data of the server.
        around: what the server stands on.
        rng: decides what happens when.
        blocks: of the model.
        methods: of the jobs.
        started: start workers as an installation does, instead of forking them off a process that is ready.
    """

    def __init__(
        self,
        folder: Path,
        around: Surroundings,
        rng: random.Random,
        *,
        blocks: int = BLOCKS,
        methods: Sequence[dict[str, Any]] = METHODS,
        started: bool = True,
    ) -> None:
        self.blocks = blocks
        self.rng = rng
        self.around = around
        files = folder / "files"
        save_model(files / "model", "llama", dtype=torch.bfloat16, num_hidden_layers=blocks, **SHAPE)
        save_corpora(files)
        self.specs = [
            {
                **spec_data(files / "model", files / "calibration", files / "evaluation", **pruning),
                "execution": {"max_attempts": 100},
            }
            for pruning in methods
        ]
        self.service = Service(
            folder,
            started=started,
            **{
                **WITH_WORKERS,
                "SECATEUR_DEVICES": ",".join(["cpu"] * SLOTS),
                "SECATEUR_LEASE_SECONDS": f"{LEASE_SECONDS}",
                "SECATEUR_DRAIN_SECONDS": "10",
                **around.settings,
            },
        )
        self.watchers = Watchers(self.service.endpoint)
        self.jobs: list[Watched] = []
        self.hits: collections.Counter[tuple[str, str]] = collections.Counter()
        self._weights = {
            fault: weight for fault, weight in FAULTS.items() if fault in around.faults or fault not in _OF_SURROUNDINGS
        }
        self._undo: list[tuple[float, Callable[[], None]]] = []

    def run(self, jobs: int, kills: int, under_way: int = 4) -> None:
        """Undisturbed runs, then the disturbed ones, so many at a time."""
        undisturbed = [self.watchers.submit(spec, number) for number, spec in enumerate(self.specs)]
        for watched in undisturbed:
            watched.handle.result(timeout_seconds=HANG_SECONDS)
        self.expected = [self._published(watched) for watched in undisturbed]
        while self.kills < kills or len(self.jobs) < jobs:
            self._keep_submitting(under_way, jobs if self.kills >= kills else 10**9)
            time.sleep(self.rng.expovariate(1 / MEAN_PAUSE_SECONDS))
            self._undo_what_is_due()
            if self.kills < kills:
                self._disturb()
        while self._undo:
            self._undo_what_is_due()
            time.sleep(0.1)
        for watched in self.jobs:
            with contextlib.suppress(secateur.JobFailedError):
                watched.handle.wait(timeout_seconds=600)
        self.watchers.join(HANG_SECONDS)
        until(lambda: not self.service.worker_pids())  # those that have written their end still wind up
        self._clean_up()

    @property
    def faults(self) -> int:
        return sum(self.hits.values())

    @property
    def kills(self) -> int:
        return sum(count for (fault, _), count in self.hits.items() if fault.startswith("kill"))

    def store_job(self, watched: Watched) -> Job:
        return self.service.store.get(watched.id)

    def _keep_submitting(self, under_way: int, most: int) -> None:
        unfinished = sum(not self.store_job(watched).state.is_terminal for watched in self.jobs)
        for _ in range(min(under_way - unfinished, most - len(self.jobs))):
            method = self.rng.randrange(len(self.specs))
            self.jobs.append(self.watchers.submit(self.specs[method], method))

    def _disturb(self) -> None:
        [fault] = self.rng.choices(list(self._weights), list(self._weights.values()))
        what, whom = fault.split()
        if fault in self.around.faults:
            self.hits[fault, whom] += 1
            self._undo_later(self.rng.uniform(1, 4), self.around.faults[fault]())
        elif whom == "worker":
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
            worker_forks.send(pid, number)
            self.hits[fault, self._stage(job_id)] += 1
            if what == "stop":
                self._undo_later(3 * LEASE_SECONDS, partial(worker_forks.send, pid, signal.SIGCONT))

    def _stage(self, job_id: str) -> str:
        job = self.service.store.get(job_id)
        if job.state is not JobState.RUNNING:
            return str(job.state)
        if job.stage is None:
            return "STARTING"
        blocks = len(self.service.store.blocks(job_id))
        return f"{job.stage} {blocks}/{self.blocks}" if job.stage == "PRUNING" else str(job.stage)

    def _undo_later(self, seconds: float, undo: Callable[[], None]) -> None:
        self._undo.append((time.monotonic() + seconds, undo))

    def _undo_what_is_due(self) -> None:
        now = time.monotonic()
        for entry in [entry for entry in self._undo if entry[0] <= now]:
            self._undo.remove(entry)
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                entry[1]()

    def _clean_up(self) -> None:
        """What the server's janitor would do hours later."""
        store = self.service.store
        folders = LocalFolders(self.service.data_dir)
        never = {"leftovers_seconds": 0.0, "jobs_seconds": 0.0, "pause_seconds": 60.0}
        Janitor(store, store.retention, folders, lambda _: self.around.objects, agents=store.agents, **never).clean()

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
        yield "a finished block is not computed again", blocks == list(range(self.blocks))
        yield f"its watcher is well: {watched.error}", not watched.error
        yield "its watcher saw every event once and in order", watched.history == [e.sequence for e in events]
        yield "its watcher saw its states", watched.states == states
        if job.result is not None:
            digests, left = self._published(watched)
            yield (
                "what is published is complete, verified, and the same as undisturbed",
                (digests == self.expected[watched.method][0]),
            )
            yield f"nothing is left that no manifest names: {left}", not left
        work = self.service.data_dir / "work" / job.id
        yield "nothing but logs is left of its work", all(path.suffix == ".log" for path in work.glob("*"))

    def _published(self, watched: Watched) -> tuple[dict[str, str], set[str]]:
        return published(self.around.objects, self.store_job(watched))

    def histogram(self) -> str:
        """How often each fault hit each stage."""
        faults = sorted({fault for fault, _ in self.hits})
        stages = sorted({stage for _, stage in self.hits}, key=_stage_order)
        lines = [f"{'':<14}" + "".join(f"{fault:>18}" for fault in faults)]
        lines += [
            f"{stage:<14}" + "".join(f"{self.hits[fault, stage] or '':>18}" for fault in faults) for stage in stages
        ]
        return "\n".join(lines)

    def close(self) -> None:
        """End everything."""
        self.watchers.close()
        self.service.close()


def _argument(pid: int, name: str) -> str:
    """What a process was told on its command line."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return words[words.index(name) + 1]


def _stage_order(stage: str) -> tuple[int, int, str]:
    order = ["STARTING", "FETCHING", "SAMPLING", "PRUNING", "PACKAGING", "PUBLISHING"]
    name, _, blocks = stage.partition(" ")
    return (order.index(name) if name in order else len(order), int(blocks.partition("/")[0] or 0), stage)


def main() -> int:
    """Run a campaign; 1 where a promise was broken."""
    logging.getLogger("secateur").setLevel(logging.ERROR)  # every lost connection is a warning
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40, help="at least so many")
    parser.add_argument("--kills", type=int, default=200, help="so many, and other faults beside them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=list(KINDS), default="sqlite")
    parser.add_argument("--folder", type=Path, help="kept, for looking at it afterwards")
    options = parser.parse_args()
    processes.guard()
    began = time.monotonic()
    rng = random.Random(options.seed)
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(folder, stack.enter_context(KINDS[options.database](folder, rng)), rng)
        try:
            campaign.run(options.jobs, options.kills)
            broken = campaign.violations()
            attempts = sum(campaign.store_job(watched).attempt for watched in campaign.jobs)
        finally:
            campaign.close()
    print(campaign.histogram())
    print("\n".join(broken))
    print(
        f"{len(campaign.jobs)} jobs, {attempts} attempts, {campaign.kills} kills among {campaign.faults} faults in "
        f"{time.monotonic() - began:.0f} s "
        f"(seed {options.seed}, {options.database}): {len(broken)} broken promises"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
