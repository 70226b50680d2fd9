"""Agents for `control_plane`: timers instead of workers, over the real store, in a few processes."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from secateur_service.jobs.agents import AgentRecord
from secateur_service.jobs.job import EventKind, Job, JobResult, LanguageResult
from secateur_service.jobs.store import SqlJobStore, open_job_store
from secateur_service.records.needs import Capacity

GB = 10**9
AGENTS = {Capacity(1, 24 * GB, 64 * GB, 10**12): 50, Capacity(1, 80 * GB, 128 * GB, 10**12): 50}
LEASE_SECONDS, BEAT_SECONDS, ANNOUNCE_SECONDS, POLL_SECONDS = 30.0, 10.0, 10.0, 1.0
THREADS = 12  # of a process, each with a connection
DIGEST = "a" * 64
RESULT = JobResult("file:///results/manifest.json", DIGEST, 0.5, (LanguageResult("de", 10.0, 12.0, 1.0, 1.2),))


class Agents:
    """Agents of one process: what each does next waits in a heap, and threads do what is due."""

    def __init__(self, store: SqlJobStore, first: int, count: int) -> None:
        self._store = store
        self._draw = random.Random(first)
        kinds = self._draw.choices(list(AGENTS), list(AGENTS.values()), k=count)
        self._records = [
            AgentRecord(f"node-{first + number}:1", f"node-{first + number}", "1", 1, 0, kind)
            for number, kind in enumerate(kinds)
        ]
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._until = 0.0
        self._mean = 0.0
        self.taken: dict[str, list[float]] = defaultdict(list)

    def run(self, seconds: float, mean_job_seconds: float) -> dict[str, list[float]]:
        """Let all agents work for so long; returns the seconds of each call, and by how much timers were late."""
        self.taken, self._mean, self._due = defaultdict(list), mean_job_seconds, []
        began = time.monotonic()
        self._until = began + seconds
        for record in self._records:
            self._at(began + self._draw.uniform(0, min(POLL_SECONDS, seconds)), lambda it=record: self._claim(it))
            if mean_job_seconds:
                self._at(began + self._draw.uniform(0, ANNOUNCE_SECONDS), lambda it=record: self._announce(it))
        threads = [threading.Thread(target=self._work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.taken

    def _at(self, due: float, action: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._due, (due, next(self._order), action))
            self._changed.notify()

    def _work(self) -> None:
        while (now := time.monotonic()) < self._until:
            with self._changed:
                if not self._due or self._due[0][0] > now:
                    first = self._due[0][0] if self._due else self._until
                    self._changed.wait(min(first, self._until) - now)
                    continue
                due, _, action = heapq.heappop(self._due)
            self.taken["timer was late"].append(now - due)
            action()

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.taken[what].append(time.perf_counter() - began)

    def _claim(self, agent: AgentRecord) -> None:
        models = ("hf://org/another-model",)
        with self._timed("claim"):
            job = self._store.claim(owner=agent.id, lease_seconds=LEASE_SECONDS, capacity=agent.capacity, models=models)
        now = time.monotonic()
        if job is None:
            self._at(now + POLL_SECONDS * self._draw.uniform(0.8, 1.2), lambda: self._claim(agent))
            return
        self._beat(agent, job, now + (self._draw.expovariate(1 / self._mean) if self._mean else 0.0))

    def _beat(self, agent: AgentRecord, job: Job, end: float) -> None:
        with self._timed("heartbeat"):
            self._store.heartbeat(job.id, job.attempt, lease_seconds=LEASE_SECONDS)
        if self._mean:
            progress = (EventKind.PROGRESS, {"blocks_done": 1, "blocks_total": 32, "fraction": 0.03})
            with self._timed("event"):
                self._store.append(job.id, job.attempt, [progress])
        following = time.monotonic() + BEAT_SECONDS
        if following < end:
            self._at(following, lambda: self._beat(agent, job, end))
        else:
            self._at(end, lambda: self._finish(agent, job))

    def _finish(self, agent: AgentRecord, job: Job) -> None:
        with self._timed("end"):
            self._store.commit_manifest(job.id, job.attempt, DIGEST)
            self._store.succeed(job.id, job.attempt, RESULT)
        self._claim(agent)

    def _announce(self, agent: AgentRecord) -> None:
        with self._timed("announce"):
            self._store.agents.announce(agent)
        self._at(time.monotonic() + ANNOUNCE_SECONDS, lambda: self._announce(agent))


def be_agents(url: str, first: int, count: int) -> None:
    """Run phases as the lines of standard input say, and print what they took."""
    store = open_job_store(url)
    agents = Agents(store, first, count)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, mean = map(float, line.split())
        used = time.process_time()
        taken = agents.run(seconds, mean)
        print(json.dumps({"taken": taken, "processor": time.process_time() - used}), flush=True)
    store.close()


class Fleet:
    """The processes of the agents."""

    def __init__(self, url: str, agents: int, processes: int) -> None:
        each = agents // processes
        program = "import sys, timer_agents; timer_agents.be_agents(sys.argv[1], *map(int, sys.argv[2:]))"
        command, here = [sys.executable, "-c", program, url], {"PYTHONPATH": str(Path(__file__).parent)}
        self._processes = [
            subprocess.Popen(
                [*command, str(number * each), str(each)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **here},
            )
            for number in range(processes)
        ]
        for process in self._processes:
            assert process.stdout is not None
            process.stdout.readline()

    def run(self, seconds: float, mean: float) -> tuple[dict[str, list[float]], float]:
        """A phase: the seconds of each call, and of processor time."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{seconds} {mean}\n")
            process.stdin.flush()
        taken: dict[str, list[float]] = defaultdict(list)
        processor = 0.0
        for process in self._processes:
            assert process.stdout is not None
            answer = json.loads(process.stdout.readline())
            processor += answer["processor"]
            for name, seconds_of_calls in answer["taken"].items():
                taken[name] += seconds_of_calls
        return taken, processor

    def close(self) -> None:
        """End them."""
        for process in self._processes:
            process.kill()
            process.wait()
