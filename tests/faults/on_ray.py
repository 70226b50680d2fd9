"""Jobs on a real Ray cluster under faults: a head, three nodes, agents that are asked for when jobs wait.

    RAY_ENVIRONMENT=FOLDER python -m faults.on_ray [--jobs 30] [--folder DIR]

A replica without slots has its queue in PostgreSQL and its results in an object store; agents find their settings, with
all secrets, in a file of their node. While jobs run, a node is lost, an agent's process group is killed, and the head
is replaced by one that knows of nothing. Then this checks that every job ended once and well, with the bytes of a run
without a server; that only those jobs were charged an attempt whose agent was taken from them; that no worker outlived
its agent; and that no secret is in Ray's API or below its folder. Prints figures, and what is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import select

import secateur
from faults.published import published
from faults.ray_cluster import RECONNECT_SECONDS, Node, RayCluster, ray_environment
from secateur_service.artifacts import ObjectStore, open_store
from secateur_service.capacity.port import ticket_of
from secateur_service.jobs.job import EventKind, Job
from secateur_service.jobs.schema import jobs
from secateur_service.jobs.states import JobState
from servers import PostgresServer, S3Server, postgres_folder
from support import leaks, processes
from support.models import save_corpora, save_model, spec_data
from support.service import Service
from support.waiting import HANG_SECONDS, until

NODES = 3
MOST_AGENTS = 4  # one more than there are GPUs: its request waits
IDLE_SECONDS = 30
LEASE_SECONDS = 20
OUTLIVING_SECONDS = 5.0
DOWN_SECONDS = 20.0
BLOCKS = 6
METHODS: tuple[dict[str, Any], ...] = (
    {"method": "wanda", "sparsity": 0.5},
    {"method": "sparsegpt", "sparsity": 0.6, "order": "block"},
    {"method": "magnitude", "pattern": "2:4"},
)


class Watch(threading.Thread):
    """Notes how long workers run on once their agents are gone, and who ran when."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.outlived: list[float] = [0.0]
        self._agents: dict[processes.Found, processes.Found] = {}
        self._ended: dict[processes.Found, float] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.2):
            self.look()

    def look(self) -> None:
        """Compare who runs with who ran before."""
        now, found = time.monotonic(), {process.pid: process for process in processes.running()}
        for process in found.values():
            parent = found.get(process.parent)
            if process not in self._agents and parent is not None and is_worker(process) and is_agent(parent):
                self._agents[process] = parent
        alive = {(process.pid, process.started) for process in found.values()}
        for worker, agent in list(self._agents.items()):
            if (agent.pid, agent.started) not in alive:
                self._ended.setdefault(agent, now)
            if (worker.pid, worker.started) not in alive:
                del self._agents[worker]
            elif agent in self._ended:
                self.outlived.append(now - self._ended[agent])

    def stop(self) -> None:
        self._over.set()
        self.join()


def is_worker(process: processes.Found) -> bool:
    return "secateur_service work " in process.command


def name_of(process: processes.Found) -> str:
    """The name of the request that an agent was started for; empty for any other process."""
    found = re.search(r"secateur_service agent .*--name (\S+)", process.command)
    return found[1] if found else ""


def is_agent(process: processes.Found) -> bool:
    return bool(name_of(process))


class OnRay:
    """One run.

    Args:
        folder: for everything.
        ray: an environment that has Ray.
        objects: where results are.
        settings: of the store and the object store, with their secrets.
    """

    def __init__(self, folder: Path, ray: Path, objects: ObjectStore, settings: dict[str, str]) -> None:
        self.folder, self.objects = folder, objects
        files = folder / "files"
        shape = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
        save_model(files / "model", "llama", dtype=torch.bfloat16, num_hidden_layers=BLOCKS, **shape)
        save_corpora(files)
        self.specs = [spec_data(files / "model", files / "calibration", files / "evaluation", **one) for one in METHODS]
        own = {
            **settings,
            "SECATEUR_HUB_TOKEN": leaks.secret("hub"),
            "SECATEUR_FILE_ROOTS": str(files),
            "SECATEUR_THREADS_PER_WORKER": "1",
            "SECATEUR_LEASE_SECONDS": f"{LEASE_SECONDS}",
            "SECATEUR_DRAIN_SECONDS": "10",
            "SECATEUR_POLL_SECONDS": "0.5",
        }
        settings_file = folder / f"agent.toml{leaks.GIVEN}"
        settings_file.write_text("".join(f"{_key(name)} = {_value(name, text)}\n" for name, text in own.items()))
        settings_file.chmod(0o600)
        of_node = {
            number: {"SECATEUR_SETTINGS_FILE": str(settings_file), "SECATEUR_DATA_DIR": str(folder / f"data-{number}")}
            for number in range(NODES)
        }
        self.ray = RayCluster(ray, folder, NODES, of_node)
        kind = {"devices": 1, "host_bytes": 4 << 30, "most_agents": MOST_AGENTS}
        capacity = {
            "SECATEUR_CAPACITY": "ray",
            "SECATEUR_CAPACITY_URL": self.ray.url,
            "SECATEUR_CAPACITY_TOKEN_FILE": str(self.ray.token_file),
            "SECATEUR_CAPACITY_CLASSES": json.dumps({"gpu": kind}),
            "SECATEUR_CAPACITY_IDLE_SECONDS": f"{IDLE_SECONDS}",
            "SECATEUR_CAPACITY_COMMAND": f"{sys.executable} -m secateur_service agent",
        }
        self.service = Service(folder, file_root=files, started=True, **own, **capacity)
        self.client = secateur.Client(self.service.endpoint, reconnect_seconds=300)
        self.watch = Watch()
        self.taken: set[str] = set()
        """Jobs whose agent was taken from them."""
        self.shown: set[str] = set()
        """What Ray's API showed that held a secret."""
        self.figures: dict[str, Any] = {}
        self.jobs: list[tuple[int, str]] = []

    def run(self, count: int) -> None:
        """Submit, disturb, and wait until all is over."""
        self.expected = [self._local(number, spec) for number, spec in enumerate(self.specs)]
        began = time.monotonic()
        self.ray.start()
        self.figures["seconds until the cluster was up"] = time.monotonic() - began
        self.watch.start()
        began = time.monotonic()
        for number in range(count):
            handle = self.client.submit(self.specs[number % len(self.specs)])
            self.jobs.append((number % len(self.specs), handle.name.partition("/")[2]))
        until(lambda: self.count(JobState.RUNNING) == NODES, seconds=HANG_SECONDS)
        self.figures["seconds until every node ran a job"] = time.monotonic() - began
        self.figures["requests while all nodes were busy"] = dict(self._states())
        self._after(count // 6, "a node was lost", self._lose_node)
        self._after(count // 3, "an agent's group was killed", self._kill_agent)
        self._after(count // 2, "the head was replaced", self._replace_head)
        until(lambda: self.count(JobState.SUCCEEDED) + self.count(JobState.FAILED) == count, seconds=4 * HANG_SECONDS)
        self.figures["seconds until all jobs had ended"] = time.monotonic() - began
        ended = time.monotonic()
        until(lambda: not any(is_agent(process) for process in processes.running()))
        self.figures["seconds until all agents had ended"] = time.monotonic() - ended
        self.watch.stop()

    def job(self, job_id: str) -> Job:
        return self.service.store.get(job_id)

    def count(self, state: JobState) -> int:
        return sum(self.job(job_id).state is state for _, job_id in self.jobs)

    def _after(self, succeeded: int, what: str, disturb: Callable[[], set[str]]) -> None:
        """Disturb when so many jobs have succeeded and all nodes are busy."""
        until(
            lambda: self.count(JobState.SUCCEEDED) >= succeeded and self.count(JobState.RUNNING) >= NODES - 1,
            seconds=2 * HANG_SECONDS,
        )
        taken = disturb()
        print(f"{what} while {len(taken)} of its jobs ran", flush=True)
        self.figures[f"jobs running when {what}"] = len(taken)
        self.taken |= taken

    def _lose_node(self) -> set[str]:
        node, agents = until(
            lambda: next(((node, found) for node in self.ray.nodes if (found := self._busy(node))), None)
        )
        node.down = True
        node.kill()
        taken = self._owned_by(agents)  # what they took meanwhile, too: nobody else does before its lease ends
        time.sleep(DOWN_SECONDS)
        node.start()
        node.down = False
        return taken

    def _kill_agent(self) -> set[str]:
        agents = until(lambda: next(filter(None, map(self._busy, self.ray.nodes)), None))
        name, agent = next(iter(agents.items()))
        os.killpg(os.getpgid(agent.pid), signal.SIGKILL)
        return self._owned_by([name])

    def _replace_head(self) -> set[str]:
        """Agents go on until their nodes give the head up, and are then ended by Ray."""
        self.shown |= set(self._shown_by_ray())
        before = [node.starts for node in self.ray.nodes]
        self.ray.replace_head()
        taken: set[str] = set()
        deadline = time.monotonic() + 10 * RECONNECT_SECONDS
        while time.monotonic() < deadline:
            taken |= {job_id for _, job_id in self.jobs if self.job(job_id).state is JobState.RUNNING}
            if all(node.starts > start for node, start in zip(self.ray.nodes, before, strict=True)):
                break
            time.sleep(0.2)
        until(lambda: self.ray.alive() > 1)
        return taken

    def _busy(self, node: Node) -> dict[str, processes.Found]:
        """The agents of a node by name, if they have jobs."""
        assert node.process is not None
        agents = {name: one for one in processes.below(node.process.pid) if (name := name_of(one))}
        return agents if self._owned_by(agents) else {}

    def _owned_by(self, agents: Collection[str]) -> set[str]:
        """The jobs that agents have at the moment."""
        with self.service.store._database.reader.connect() as connection:
            owned = connection.execute(select(jobs.c.id, jobs.c.owner).where(jobs.c.state == "RUNNING")).all()
        return {job_id for job_id, owner in owned if ticket_of(owner) in agents}

    def _local(self, number: int, spec: dict[str, Any]) -> dict[str, str]:
        """Digests of the files that a run without a server leaves."""
        output = self.folder / f"local-{number}"
        (self.folder / "local.json").write_text(json.dumps(spec))
        command = [sys.executable, "-m", "secateur_service", "run", str(self.folder / "local.json"), "--threads", "1"]
        environment = {**os.environ, "SECATEUR_FILE_ROOTS": str(self.folder / "files"), "SECATEUR_DEVICES": "cpu"}
        subprocess.run(
            [*command, "--device", "cpu", "--output", str(output)], check=True, env=environment, capture_output=True
        )
        return {
            str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in output.rglob("*.safetensors")
        }

    def _states(self) -> Iterator[tuple[str, str]]:
        for job in self.ray.call("/api/jobs/").json():
            yield job["submission_id"], job["status"]

    def violations(self) -> list[str]:
        """What is not as it is to be."""
        found = [
            f"job {job_id} ({self.job(job_id).state}, attempt {self.job(job_id).attempt}): {promise}"
            for method, job_id in self.jobs
            for promise, is_kept in self._promises(method, self.job(job_id))
            if not is_kept
        ]
        self.figures["attempts"] = sum(self.job(job_id).attempt for _, job_id in self.jobs)
        longest = max(self.watch.outlived)
        self.figures["seconds that a worker outlived its agent, at most"] = longest
        if longest > OUTLIVING_SECONDS:
            found.append(f"a worker outlived its agent by {longest:.1f} s")
        found += [f"a secret is in {place}" for place in self._leaks()]
        if importlib.util.find_spec("ray") is not None:
            found.append("ray is installed beside the service")
        return found

    def _promises(self, method: int, job: Job) -> Iterator[tuple[str, bool]]:
        events = self.service.store.events(job.id, after=0, limit=10**6)
        states = [event.body["state"] for event in events if event.kind is EventKind.STATE]
        blocks = [event.body["index"] for event in events if event.kind is EventKind.BLOCK]
        yield "it ends well", job.state is JobState.SUCCEEDED
        yield "it ends once", sum(JobState(state).is_terminal for state in states) == 1 and states[-1] == job.state
        yield "a finished block is not computed again", blocks == list(range(BLOCKS))
        yield f"it is charged {job.charged_attempts} attempts", job.charged_attempts == 0 or job.id in self.taken
        yield "it begins once, unless its agent was taken", job.attempt == 1 or job.id in self.taken
        if job.result is not None:
            digests, _ = published(self.objects, job)
            there = {path: digest for path, digest in digests.items() if path.endswith(".safetensors")}
            yield "its weights have the bytes of a run without a server", self._is_like_local(there, method)

    def _is_like_local(self, there: dict[str, str], method: int) -> bool:
        local = self.expected[method]
        return bool(local) and sorted(there.values()) == sorted(local.values())

    def _shown_by_ray(self) -> Iterator[str]:
        """Answers of Ray's API that hold a secret."""
        paths = ["/api/jobs/", "/api/v0/actors?detail=true&limit=1000", "/api/v0/workers?detail=true&limit=1000"]
        paths += [f"/api/jobs/{name}{part}" for name, _ in self._states() for part in ("", "/logs")]
        key = "answers of Ray's API that were searched"
        self.figures[key] = self.figures.get(key, 0) + len(paths)
        yield from (path for path in paths if leaks.leaks_in(self.ray.call(path).data))

    def _leaks(self) -> Iterator[str]:
        """Where Ray shows a secret: in its API, or in a file below its folder."""
        yield from self.shown | set(self._shown_by_ray())
        files = [path for path in self.ray.temporary.rglob("*") if path.is_file()]
        self.figures["files below Ray's folder that were searched"] = len(files)
        logs = [path for path in files if path.name.startswith("job-driver-")]
        assert any(b"taking jobs" in path.read_bytes() for path in logs), "agents did not log there"
        yield from map(str, leaks.search(self.ray.temporary))
        yield from (str(path) for path in self.folder.glob("*.log") if leaks.leaks_in(path.read_bytes()))

    def close(self) -> None:
        """End everything."""
        self.client.close()
        self.service.close()
        self.ray.close()


def _key(variable: str) -> str:
    return variable.removeprefix("SECATEUR_").lower()


def _value(variable: str, text: str) -> str:
    """A setting's value as TOML has it."""
    if variable in ("SECATEUR_FILE_ROOTS", "SECATEUR_DESTINATIONS"):
        return json.dumps([text])
    return text if re.fullmatch(r"[0-9.]+", text) else json.dumps(text)


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[tuple[ObjectStore, dict[str, str]]]:
    """PostgreSQL and an object store, and the settings with which they are reached."""
    programs = postgres_folder()
    assert programs is not None, "PostgreSQL is not installed: apt-get install postgresql"
    with contextlib.ExitStack() as stack:
        database = PostgresServer(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postgres-"))), programs)
        database.start()
        stack.callback(database.stop)
        store = S3Server(folder / "s3")
        store.create_bucket("models")
        store.start()
        stack.callback(store.kill)
        destination = "s3://models/results"
        settings = {
            "SECATEUR_DATABASE_URL": database.create_database(),
            "SECATEUR_DESTINATIONS": destination,
            **store.environment(),
        }
        yield open_store(destination, store.settings), settings


def main() -> int:
    """Run it; 1 where something is not as it is to be, 77 without Ray."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="kept, for looking at it afterwards")
    options = parser.parse_args()
    ray = ray_environment()
    if ray is None:
        print("set RAY_ENVIRONMENT to a virtual environment with `pip install 'ray[default]==2.60.0'`")
        return 77
    processes.guard()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        objects, settings = stack.enter_context(surroundings(folder))
        run = OnRay(folder, ray, objects, settings)
        try:
            run.run(options.jobs)
            broken = run.violations()
        finally:
            run.close()
    for what, figure in run.figures.items():
        print(f"{what}: {figure:.1f}" if isinstance(figure, float) else f"{what}: {figure}")
    print("\n".join(broken))
    print(f"{len(run.jobs)} jobs, {len(run.taken)} of them taken from an agent: {len(broken)} broken promises")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
