"""A worker with a toy pipeline, started by tests as the executor starts the real one: `toy_worker.py BEHAVIOUR ...`."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from secateur_service.errors import PermanentError
from secateur_service.records.progress import Progress, Stage
from secateur_service.settings import Settings
from secateur_service.worker.attempt import run_attempt
from support.jobs import block, result

BLOCKS = 3


class Lingering:
    """Keeps the interpreter busy after it has put its signal handlers away."""

    def __init__(self, sleep=time.sleep):
        self.sleep = sleep

    def __del__(self):
        self.sleep(1)


def pipeline(behaviour):
    def run(attempt, machine, ports):
        workdir, device, threads = machine.workdir, machine.device, machine.threads
        ledger, store, observer, number = ports.ledger, ports.store, ports.observer, attempt.number
        print(f"{behaviour} on {device}", flush=True)
        observer.log("info", "toy pipeline", device=device, threads=threads, workdir=str(workdir))
        observer.stage(Stage.PRUNING)
        first = len(ledger.entries())
        assert len(list((workdir / "checkpoint").glob("*"))) == first, "work of an earlier attempt is missing"
        for index in range(first, BLOCKS):
            observer.check()
            shard = workdir / "checkpoint" / block(index).shard
            shard.parent.mkdir(exist_ok=True)
            shard.touch()
            ledger.record(block(index))
            observer.progress(Progress(index + 1, BLOCKS, (index + 1) / BLOCKS))
            observer.block(block(index))
            if index == first:
                after_first_block(behaviour, observer, number, workdir)
        observer.stage(Stage.PUBLISHING)
        store.put_bytes(f"{attempt.prefix}/proof", str(number).encode(), "text/plain")
        digest = ports.commit("a" * 64)
        if behaviour == "slow-after-commit" and number == 1:
            observer.log("info", "committed")
            wait(observer)
        return SimpleNamespace(result=result(digest), figures={})

    return run


def after_first_block(behaviour, observer, attempt, workdir):
    if behaviour == "crash":
        print("about to crash", flush=True)
        os._exit(3)
    if behaviour == "crash-once" and attempt == 1:
        os._exit(3)
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "permanent":
        raise PermanentError("weights are not finite", reason="NON_FINITE", metadata={"layer": "a"})
    if behaviour == "defect":
        raise ValueError("surprise")
    if behaviour == "disk-full":
        raise OSError(28, "No space left on device")
    if behaviour == "memory":
        raise MemoryError
    if behaviour == "slow" or (behaviour == "slow-once" and attempt == 1):
        wait(observer)
    if behaviour == "patient":
        wait(observer, until=workdir / "go")
    if behaviour == "deaf":
        time.sleep(3600)


def wait(observer, until=None):
    while until is None or not until.exists():
        observer.check()
        time.sleep(0.02)


def work(behaviour, job_id, attempt, slot, lock):
    """Be a worker."""
    sys.exit(run_attempt(Settings(), job_id, attempt, slot, lock, pipeline=pipeline(behaviour)))


def main(words=None):
    """Be the worker of a command line."""
    given = parsed(words)
    work(given.behaviour, given.job, given.attempt, given.slot, given.lock)


def parsed(words=None):
    arguments = argparse.ArgumentParser()
    arguments.add_argument("behaviour")
    arguments.add_argument("--job")
    arguments.add_argument("--attempt", type=int)
    arguments.add_argument("--slot", type=int)
    arguments.add_argument("--lock", type=Path)
    return arguments.parse_args(words)


if __name__ == "__main__":
    lingering = Lingering() if parsed().behaviour == "lingers" else None
    main()
