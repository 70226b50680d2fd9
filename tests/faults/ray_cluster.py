"""A real Ray cluster on this machine: every node has a loopback address, ports and a PID namespace of its own.

Ray is no dependency of anything here: it is installed into an environment of its own (`RAY_ENVIRONMENT`), and spoken to
by HTTP. Killing the first process of a namespace kills a node as the loss of a machine does. GPUs are pretended.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import urllib3

from servers import free_port
from support.waiting import until

VERSION = "2.60.0"
RECONNECT_SECONDS = 20
"""How long a node whose head is gone waits for it before it ends itself; Ray's default is 60."""
_HEALTH = {"initial_delay_ms": 3000, "period_ms": 3000, "timeout_ms": 10_000, "failure_threshold": 3}


def ray_environment() -> Path | None:
    """The folder of an environment that has Ray; None where there is none."""
    named = os.environ.get("RAY_ENVIRONMENT")
    return Path(named) if named and (Path(named) / "bin" / "ray").exists() else None


@dataclass
class Node:
    """A node, which is started again when it ends, as a machine's own supervisor would do; unless it is `down`."""

    address: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    down: bool = False
    ends: list[float] = field(default_factory=list)

    def start(self) -> None:
        with self.log.open("ab") as log:
            namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
            # A shell, which waits for all that is left to it, is the namespace's first process.
            shell = ["bash", "-c", '"$@"; exit $?', "node", *self.command]
            self.process = subprocess.Popen(
                [*namespace, *shell], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.starts += 1

    def kill(self) -> None:
        """The machine is gone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.ends.append(time.monotonic())


class RayCluster:
    """A head, and nodes with one GPU each.

    Args:
        environment: has Ray.
        folder: for logs and everything of Ray.
        nodes: how many besides the head.
        of_node: the variables of a node's environment, by its number.
    """

    def __init__(self, environment: Path, folder: Path, nodes: int, of_node: dict[int, dict[str, str]]) -> None:
        self.temporary, self._bin = folder / "ray", environment / "bin"
        self._port, self._dashboard = free_port(), free_port()
        self.url = f"http://127.0.0.2:{self._dashboard}"
        self.token_file = folder / "ray.token"
        self.token_file.write_text("a1b2c3d4e5f6" * 4)
        self.token_file.chmod(0o600)
        home = folder / "home"
        home.mkdir()
        common = {
            "PATH": f"{self._bin}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_SECONDS),
            **{f"RAY_health_check_{name}": str(value) for name, value in _HEALTH.items()},
        }
        head = ["--head", "--node-ip-address=127.0.0.2", f"--port={self._port}", "--num-cpus=0", "--num-gpus=0"]
        head += ["--dashboard-host=127.0.0.2", f"--dashboard-port={self._dashboard}", f"--temp-dir={self.temporary}"]
        self.head = Node("127.0.0.2", self._start(head), common, folder / "head.log")
        joining = [f"--address=127.0.0.2:{self._port}", "--num-cpus=2", "--num-gpus=1"]
        self.nodes = [
            Node(
                address := f"127.0.0.{3 + number}",
                self._start([*joining, f"--node-ip-address={address}"]),
                {**common, **of_node[number]},
                folder / f"node-{number}.log",
            )
            for number in range(nodes)
        ]
        self._closing = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._http = urllib3.PoolManager(retries=False, timeout=10)

    def _start(self, arguments: list[str]) -> list[str]:
        names = (
            "dashboard-agent-listen-port",
            "dashboard-agent-grpc-port",
            "metrics-export-port",
            "runtime-env-agent-port",
        )
        ports = [f"--{name}={free_port()}" for name in names]
        return [str(self._bin / "ray"), "start", "--block", "--disable-usage-stats", *arguments, *ports]

    def start(self) -> None:
        """Start all; returns when the head knows all nodes."""
        self.head.start()
        until(self._answers)
        for node in self.nodes:
            node.start()
        self._supervisor.start()
        until(lambda: self.alive() == 1 + len(self.nodes))

    def replace_head(self) -> None:
        """Another head at the same address, which knows nothing of what was."""
        self.head.down = True
        self.head.kill()
        self.head.start()
        self.head.down = False
        until(self._answers)

    def call(self, path: str) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {self.token_file.read_text()}"}
        return self._http.request("GET", f"{self.url}{path}", headers=headers)

    def alive(self) -> int:
        """How many nodes the head believes alive."""
        try:
            answer = self.call("/api/v0/nodes?detail=false&limit=100")
        except urllib3.exceptions.HTTPError:
            return 0
        if answer.status != 200:
            return 0
        return sum(node["state"] == "ALIVE" for node in answer.json()["data"]["result"]["result"])

    def _answers(self) -> bool:
        try:
            return self.call("/api/jobs/").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _supervise(self) -> None:
        while not self._closing.wait(0.5):
            for node in (self.head, *self.nodes):
                if not node.down and node.process is not None and node.process.poll() is not None:
                    node.ends.append(time.monotonic())
                    node.start()

    def close(self) -> None:
        self._closing.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for node in itertools.chain(self.nodes, [self.head]):
            if node.process is not None and node.process.poll() is None:
                node.kill()
