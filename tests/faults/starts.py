"""Runs many jobs on agents whose workers start slowly, and counts what that cost them: it must be nothing.

    python -m faults.starts [--jobs 40] [--agents 8] [--loops 6] [--delay 0] [--lease 10] [--folder DIR]

Beside busy loops, agents with one data folder take jobs from a replica without slots, which gives up every attempt
whose lease has ended. The lease is shorter than a start takes here; `--delay` has every worker wait so many seconds
before it imports anything, as on a cold node. Prints how long starts took, from the claim to the worker's first event,
and what was charged; 1 where anything was.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import secateur
from secateur_service.jobs.job import EventKind, Job
from secateur_service.jobs.states import JobState
from support import processes
from support.models import save_corpora, save_model, spec_data
from support.service import WITH_WORKERS, Service
from support.waiting import HANG_SECONDS

BUSY = "while True: pass"
IDLE_SECONDS = 3
HOOK = """
import sys, time

if "work" in sys.orig_argv:
    time.sleep({seconds})
"""


@contextlib.contextmanager
def beside(loops: int) -> Iterator[None]:
    """Keep processors busy meanwhile."""
    started = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def start_agents(
    count: int, folder: Path, delay_seconds: float, settings: dict[str, str]
) -> list[subprocess.Popen[bytes]]:
    """Agents on one data folder, as a scheduler starts them; their workers begin to import after the delay."""
    hook = folder / "hook" / "sitecustomize.py"
    hook.parent.mkdir()
    hook.write_text(HOOK.format(seconds=delay_seconds))
    path = os.pathsep.join([str(hook.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **settings, "SECATEUR_DATA_DIR": str(folder / "node"), "PYTHONPATH": path}
    command = [sys.executable, "-m", "secateur_service", "agent", "--idle-seconds", str(IDLE_SECONDS)]
    with (folder / "agents.log").open("ab") as log:
        return [subprocess.Popen(command, env=environment, stderr=log, start_new_session=True) for _ in range(count)]


def start_seconds(service: Service, job: Job) -> list[float]:
    """For each attempt, the time from its claim to its worker's first event."""
    claimed, found = None, []
    for event in service.store.events(job.id, after=0, limit=10**6):
        if event.kind is EventKind.STATE:
            claimed = event.time if event.body["state"] == JobState.RUNNING else None
        elif claimed is not None:
            found.append((event.time - claimed).total_seconds())
            claimed = None
    return found


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        well: jobs that ended well at their first attempt.
        charged: attempts that were charged.
        starts: how long each took, in seconds.
        codes: the agents' exit codes.
    """

    well: int
    charged: int
    starts: list[float]
    codes: list[int]


def run(folder: Path, *, jobs: int, agents: int, loops: int, delay_seconds: float, lease_seconds: float) -> Outcome:
    """Submit jobs, have agents run them beside busy loops, and look at every attempt."""
    files = folder / "files"
    save_model(files / "model", "llama", dtype=torch.bfloat16, num_hidden_layers=2)
    save_corpora(files)
    data = spec_data(files / "model", files / "calibration", files / "evaluation", method="magnitude", sparsity=0.5)
    settings = {**WITH_WORKERS, "SECATEUR_LEASE_SECONDS": f"{lease_seconds}"}
    with contextlib.ExitStack() as stack:
        service = Service(folder, file_root=files, **{**settings, "SECATEUR_DEVICES": ""})
        stack.callback(service.close)
        client = stack.enter_context(secateur.Client(service.endpoint, reconnect_seconds=HANG_SECONDS))
        handles = [client.submit(data) for _ in range(jobs)]
        settings |= {
            "SECATEUR_DATABASE_URL": f"sqlite:///{service.data_dir}/secateur.sqlite3",
            "SECATEUR_FILE_ROOTS": str(files),
            "SECATEUR_DESTINATIONS": (service.data_dir / "artifacts").as_uri(),
        }
        stack.enter_context(beside(loops))
        started = start_agents(agents, folder, delay_seconds, settings)
        for process in started:
            stack.callback(processes.end_tree, process)
        for handle in handles:
            with contextlib.suppress(secateur.JobFailedError):
                handle.wait(timeout_seconds=3600)
        codes = [process.wait(timeout=HANG_SECONDS) for process in started]
        ended = [service.store.get(handle.name.partition("/")[2]) for handle in handles]
        return Outcome(
            well=sum(job.state is JobState.SUCCEEDED and job.attempt == 1 for job in ended),
            charged=sum(job.charged_attempts for job in ended),
            starts=sorted(seconds for job in ended for seconds in start_seconds(service, job)),
            codes=codes,
        )


def main() -> int:
    """Run it; 1 where a start was charged or a job did not end well at its first attempt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--loops", type=int, default=6)
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--lease", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--folder", type=Path, help="kept, for looking at it afterwards")
    options = parser.parse_args()
    processes.guard()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        given = {"jobs": options.jobs, "agents": options.agents, "loops": options.loops}
        found = run(folder, **given, delay_seconds=options.delay, lease_seconds=options.lease)
    print(
        f"{options.jobs} jobs on {options.agents} agents beside {options.loops} busy loops, lease {options.lease:g} s, "
        f"imports delayed by {options.delay:g} s: {found.well} ended well at their first attempt,\n"
        f"  {found.charged} attempts were charged; starts took {found.starts[0]:.0f} to {found.starts[-1]:.0f} s, "
        f"half of them more than {statistics.median(found.starts):.0f} s; {time.monotonic() - began:.0f} s in all"
    )
    return 0 if found.well == options.jobs and not found.charged and not any(found.codes) else 1


if __name__ == "__main__":
    sys.exit(main())
