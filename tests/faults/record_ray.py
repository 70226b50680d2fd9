"""Records what a dashboard of Ray answers, for tests/unit/capacity/test_ray.py.

    RAY_ENVIRONMENT=FOLDER python -m faults.record_ray > unit/capacity/ray-2.60.json

Starts a cluster, makes the calls of `secateur_service.capacity.ray` and some that fail, and prints the answers, without
what names this machine.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import urllib3

from faults.ray_cluster import RayCluster, ray_environment
from support import processes
from support.waiting import until

JOBS = "/api/jobs/"
# As this machine names them; what tells of a job stays.
_PARTICULAR = {"driver_agent_http_address", "driver_node_id", "driver_info", "start_time", "end_time", "job_id"}


class Recorder:
    """Calls a dashboard and keeps its answers by name."""

    def __init__(self, cluster: RayCluster) -> None:
        self._cluster, self._http = cluster, urllib3.PoolManager(retries=False, timeout=30)
        self.answers: dict[str, dict[str, Any]] = {}

    def call(self, name: str, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        given = token or self._cluster.token_file.read_text()
        headers = {"Authorization": f"Bearer {given}", "Content-Type": "application/json"}
        answer = self._http.request(
            method, self._cluster.url + path, body=None if body is None else json.dumps(body), headers=headers
        )
        content = answer.data.decode()
        try:
            found = json.loads(content)
        except ValueError:
            found = None
            content = re.sub(r'File ".*/site-packages/', 'File "', content)
        else:
            for job in found if isinstance(found, list) else [found]:
                if isinstance(job, dict):
                    job.update(dict.fromkeys(_PARTICULAR & job.keys()))
            content = json.dumps(found)
        kind = answer.headers.get("Content-Type", "text/plain")
        self.answers[name] = {"status": answer.status, "type": kind, "content": content}
        return found

    def submit(
        self, name: str, number: int, entrypoint: str, *, gpus: int = 0, service: str = "secateur-agent"
    ) -> None:
        body = {
            "submission_id": f"secateur-agent-gpu-{number}",
            "entrypoint": entrypoint,
            "entrypoint_num_cpus": 0.1,
            "entrypoint_num_gpus": gpus,
            "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}},
            "metadata": {"secateur-service": service, "secateur-class": "gpu"},
        }
        self.call(name, "POST", JOBS, body)

    def states(self) -> dict[str, str]:
        return {job["submission_id"]: job["status"] for job in self.call("list of jobs", "GET", JOBS)}


def main() -> int:
    """Record; 77 without Ray."""
    ray = ray_environment()
    if ray is None:
        print("set RAY_ENVIRONMENT to a virtual environment that has Ray", file=sys.stderr)
        return 77
    processes.guard()
    with tempfile.TemporaryDirectory() as name:
        cluster = RayCluster(ray, Path(name), 1, {0: {}})
        try:
            cluster.start()
            record(recorder := Recorder(cluster))
        finally:
            cluster.close()
    print(json.dumps(recorder.answers, indent=1))
    return 0


def record(recorder: Recorder) -> None:
    """Make all calls."""
    recorder.call("unknown job", "GET", f"{JOBS}secateur-agent-gpu-1")
    recorder.call("wrong token", "GET", JOBS, token="wrong")
    recorder.call("page of the dashboard", "GET", "/")
    recorder.submit("submitted", 1, "exec sleep 600", gpus=1)
    until(lambda: recorder.states()["secateur-agent-gpu-1"] == "RUNNING")
    recorder.submit("submitted", 2, "exec sleep 600", gpus=1)
    recorder.submit("known submission id", 2, "exec sleep 600", gpus=1)
    recorder.call("pending job", "GET", f"{JOBS}secateur-agent-gpu-2")
    recorder.submit("submitted", 3, "exec sleep 600")
    recorder.submit("submitted", 4, "echo an invalid setting; exit 2")
    recorder.submit("submitted", 5, "exit 0")
    recorder.submit("submitted", 6, "exit 13")
    recorder.submit("submitted", 9, "exec sleep 600", service="others")
    until(lambda: {recorder.states()[f"secateur-agent-gpu-{number}"] for number in (3, 9)} == {"RUNNING"})
    recorder.call("stopped", "POST", f"{JOBS}secateur-agent-gpu-3/stop")
    ended = {"secateur-agent-gpu-3": "STOPPED", "secateur-agent-gpu-4": "FAILED", "secateur-agent-gpu-5": "SUCCEEDED"}
    ended["secateur-agent-gpu-6"] = "FAILED"
    until(lambda: ended.items() <= recorder.states().items())
    recorder.call("foreign job", "GET", f"{JOBS}secateur-agent-gpu-9")
    recorder.states()
    listed = recorder.answers["list of jobs"]
    recorder.call("deleted", "DELETE", f"{JOBS}secateur-agent-gpu-5")
    # What becomes of one that is stopped while it waits, which the loop has to live with.
    recorder.call("stopped while it waits", "POST", f"{JOBS}secateur-agent-gpu-2/stop")
    time.sleep(10)
    recorder.call("waiting job after its stop", "GET", f"{JOBS}secateur-agent-gpu-2")
    recorder.answers["list of jobs"] = listed


if __name__ == "__main__":
    sys.exit(main())
