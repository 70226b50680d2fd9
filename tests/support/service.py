"""A service as a process of its own. Without devices the test plays its workers through the job store."""

import contextlib
import hashlib
import json
import os
import socket
import sys
from pathlib import Path

from secateur_service.artifacts.manifest import Manifest, ManifestFile
from secateur_service.jobs.agents import AgentRecord
from secateur_service.jobs.job import EventKind, Failure, JobResult, LanguageResult
from secateur_service.jobs.store import open_job_store
from secateur_service.records.needs import Capacity
from support import processes, worker_forks
from support.clock import let_pass
from support.forking import ForkedProcess
from support.jobs import new_job
from support.server import serve

SERVER = Path(__file__).with_name("server.py")
TOY_WORKER = Path(__file__).with_name("toy_worker.py")
LEASE_SECONDS = 20
"""So long that no machine is so slow as to fence the healthy; tests that need its end let time pass (`clock`)."""

WITH_WORKERS = {
    "SECATEUR_DEVICES": "cpu",
    "SECATEUR_THREADS_PER_WORKER": "1",
    "SECATEUR_LEASE_SECONDS": f"{LEASE_SECONDS}",
    "SECATEUR_POLL_SECONDS": "0.2",
    "SECATEUR_RETRY_BASE_SECONDS": "0.1",
    "OMP_NUM_THREADS": "1",
}
"""Settings of a service that starts its workers itself."""

AGENT = AgentRecord("test:1", "test", "1", slots=1, busy=0, capacity=Capacity(0, 0, 10**10, 10**12))
"""Who runs the jobs of a service without devices: jobs without needs fit it."""


class Service:
    """`secateur-service serve` on a port that stays the same over restarts; `settings` are its environment.

    With a `toy`, its workers run the toy pipeline and behave so. Unless they are to be `started` as an installation
    starts them, it and its other processes are forked off ones that have loaded what they need (`forking`,
    `worker_forks`).
    """

    def __init__(self, folder, *, file_root=None, metrics="", toy=None, started=False, **settings):
        self.folder = folder
        self.metrics = metrics
        self.toy = toy
        self.started = started
        self.settings = {"SECATEUR_DEVICES": "", **settings}
        self.data_dir = folder / "data"
        self.file_root = file_root or folder / "files"
        self.file_root.mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
        self.start()
        database_url = self.settings.get("SECATEUR_DATABASE_URL", f"sqlite:///{self.data_dir}/secateur.sqlite3")
        self.store = open_job_store(database_url)
        if not self.settings["SECATEUR_DEVICES"]:  # as the test plays the workers, it plays their agent
            self.store.agents.announce(AGENT)

    process = None

    def start(self):
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        arguments = ["--listen", self.endpoint, "--metrics-listen", self.metrics, "--data-dir", str(self.data_dir)]
        arguments += ["--file-root", str(self.file_root), "--ready-file", str(ready)]
        log, environment = self.folder / "log", {**os.environ, **self.settings}
        before, workers = self.process, self._workers()
        if self.started:
            program = [str(SERVER), json.dumps(workers)] if workers else ["-m", "secateur_service", "serve"]
            with log.open("ab") as errors:
                self.process = processes.start([sys.executable, *program, *arguments], stderr=errors, env=environment)
        else:
            log.touch()
            commands = {**workers, **self._zygote()}
            self.process = ForkedProcess(serve, commands, arguments, environment=environment, errors=log)
        processes.replace(before, self.process)
        processes.await_ready(self.process, ready.exists, log)

    def _workers(self):
        """What starts its workers, where it is not what an installation starts."""
        if self.toy:
            started = [sys.executable, str(TOY_WORKER), self.toy]
            return {"worker": started if self.started else worker_forks.toy_stand_in(self.toy)}
        if self.settings["SECATEUR_DEVICES"] and not self.started:
            return {"worker": worker_forks.stand_in()}
        return {}

    def _zygote(self):
        """The same of what inspects specifications."""
        if "SECATEUR_HUB_ENDPOINT" in self.settings:  # the hub's library reads it when it is loaded
            return {}
        return {"zygote": worker_forks.zygote_stand_in()}

    def kill(self):
        self.process.kill()
        self.process.wait()

    def worker_pids(self):
        """The workers of this data folder, orphans of a killed server included."""
        own = []
        for process in processes.running():
            command = process.command
            if "secateur_service work" in command or "toy_worker" in command:
                with contextlib.suppress(OSError):
                    if f"SECATEUR_DATA_DIR={self.data_dir}\0" in Path(f"/proc/{process.pid}/environ").read_text():
                        own.append(process.pid)
        return own

    def kill_workers(self):
        """All of them; returns when they are gone."""
        own = set(self.worker_pids())
        for pid in own:
            worker_forks.kill(pid)
        processes.end([found for found in processes.running() if found.pid in own])

    def close(self):
        self.store.close()
        processes.end_tree(self.process)
        self.kill_workers()  # orphans of servers before it

    def lose_workers(self):
        """The machine is gone, and so long that leases have ended."""
        self.kill_workers()
        let_pass(self.store, float(self.settings["SECATEUR_LEASE_SECONDS"]))

    def queued_job(self, **given):
        return self.store.create(new_job(destination=(self.data_dir / "artifacts").as_uri(), **given)).id

    def running_job(self):
        job_id = self.queued_job()
        claimed = None
        while claimed != job_id:  # older jobs come first
            claimed = self.store.claim(owner="test", lease_seconds=600).id
        return job_id

    def log(self, job_id, *lines):
        events = [(EventKind.LOG, {"level": "info", "message": line, "fields": {"n": 1}}) for line in lines]
        self.store.append(job_id, 1, events)

    def publish(self, job_id, contents, *, exceeded=False):
        """Play the end of a worker: publish files and a manifest, and succeed, or have exceeded a limit."""
        destination = Path(self.store.get(job_id).destination.removeprefix("file://"))
        folder = destination / job_id
        files = []
        for path, content in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            files.append(ManifestFile(path=path, size_bytes=len(content), sha256=digest, media_type="text/plain"))
        report = hashlib.sha256(contents["report/report.json"]).hexdigest()
        manifest = Manifest(job_id=job_id, attempt=1, files=tuple(files), resolved_spec={}, report_sha256=report)
        (folder / "manifest.json").write_bytes(manifest.to_bytes())
        self.store.commit_manifest(job_id, 1, manifest.digest())
        if exceeded:
            details = {"manifest_sha256": manifest.digest()}
            self.store.release(job_id, 1, Failure("LIMIT_EXCEEDED", "too much", retryable=False, details=details))
            return folder
        language = LanguageResult("de", 10.0, 12.5, 1.0, 1.25)
        uri = (folder / "manifest.json").as_uri()
        model = json.loads(contents["report/report.json"]).get("model", {}).get("digest", "")
        self.store.succeed(job_id, 1, JobResult(uri, manifest.digest(), 0.5, (language,), model_digest=model))
        return folder


def folder_of(result):
    """Where a result was published."""
    return Path(result.manifest_uri.removeprefix("file://")).parent


def checkpoint_digests(result):
    """SHA-256 of the published shards by name."""
    shards = folder_of(result).glob("checkpoint/*.safetensors")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards}


REPORT = json.dumps({"schema_version": "1", "blocks": 6, "ratio": 1.25, "languages": {"de": None}}).encode()
FILES = {
    "report/report.json": REPORT,
    "checkpoint/config.json": b"{}",
    "checkpoint/model.safetensors": b"x" * 3_000_000,
}
