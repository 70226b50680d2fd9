"""The server as operators run it: a process of its own, with signals, addresses, logs and a data folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from secateur.v1 import prune_service_pb2 as service_pb
from secateur.v1 import prune_service_pb2_grpc as service_grpc
from secateur_service.jobs.store import SqlJobStore, open_job_store
from support import processes
from support.forking import forked_command, run_command
from support.jobs import new_job
from support.service import AGENT
from support.waiting import HANG_SECONDS

COMMAND = [sys.executable, "-m", "secateur_service"]


class ServerProcess:
    """`secateur-service serve` without device slots, so that jobs stay queued; `forked` off a process that is ready."""

    def __init__(self, data_dir: Path, *flags: str, forked: bool = False) -> None:
        self.data_dir = data_dir
        self.ready_file = data_dir.parent / "ready.json"
        self.log_file = data_dir.parent / f"log-{time.monotonic_ns()}"
        self._flags = flags
        self._forked = forked

    def start(self) -> ServerProcess:
        self.ready_file.unlink(missing_ok=True)
        arguments = ["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
        arguments += ["--data-dir", str(self.data_dir), "--ready-file", str(self.ready_file), *self._flags]
        environment = {**os.environ, "SECATEUR_DEVICES": ""}
        with self.log_file.open("wb") as log:
            if self._forked:
                self.process = forked_command(arguments, environment=environment, errors=self.log_file)
            else:
                self.process = processes.start([*COMMAND, *arguments], stderr=log, env=environment)
        processes.await_ready(self.process, self.ready_file.exists, self.log_file)
        with closing(self.open_store()) as store:
            store.agents.announce(AGENT)
        self.addresses = json.loads(self.ready_file.read_text())
        return self

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def stub(self) -> service_grpc.PruneServiceStub:
        return service_grpc.PruneServiceStub(grpc.insecure_channel(self.addresses["grpc"]))

    def open_store(self) -> SqlJobStore:
        return open_job_store(f"sqlite:///{self.data_dir}/secateur.sqlite3")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path / "data").start()
    yield server
    if server.process.poll() is None:
        server.process.kill()
    server.process.wait()


SECRETS = {"SECATEUR_S3_ACCESS_KEY": "an-access-key", "SECATEUR_S3_SECRET_KEY": "a-secret-key"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """For tests that only look at a server; it has secrets."""
    with pytest.MonkeyPatch.context() as patch:
        for name, secret in SECRETS.items():
            patch.setenv(name, secret)
        server = ServerProcess(tmp_path_factory.mktemp("running") / "data").start()
    yield server
    processes.end_tree(server.process)


def test_the_log_and_the_ready_file_tell_the_addresses_that_were_bound(running: ServerProcess):
    (line,) = [line for line in running.lines() if line["event"] == "serving"]
    assert {"grpc": line["grpc"], "metrics": line["metrics"], "pid": line["pid"]} == running.addresses
    assert running.addresses["pid"] == running.process.pid
    channel = grpc.insecure_channel(running.addresses["grpc"])
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "secateur.v1.PruneService"):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status
    assert service_grpc.PruneServiceStub(channel).GetServiceInfo(service_pb.GetServiceInfoRequest()).version


def test_metrics_are_served_on_their_own_port(running: ServerProcess):
    running.stub().GetServiceInfo(service_pb.GetServiceInfoRequest())
    with urllib.request.urlopen(f"http://{running.addresses['metrics']}/metrics", timeout=HANG_SECONDS) as answer:
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    assert {
        "secateur_rpc_requests",
        "secateur_jobs",
        "secateur_build_info",
        "secateur_watch_streams",
    } <= families.keys()
    methods = {sample.labels["method"] for sample in families["secateur_rpc_requests"].samples}
    assert methods - {"/grpc.health.v1.Health/Check"} == {"/secateur.v1.PruneService/GetServiceInfo"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sends_watchers_away_and_ends_the_process_well(server: ServerProcess, number: signal.Signals):
    store = server.open_store()
    job = store.create(new_job())
    store.close()
    watch = server.stub().WatchPruneJob(service_pb.WatchPruneJobRequest(name=f"pruneJobs/{job.id}"))
    assert next(watch).snapshot.name
    server.process.send_signal(number)
    with pytest.raises(grpc.RpcError) as caught:
        list(watch)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    assert server.process.wait(HANG_SECONDS) == 0
    assert [line["event"] for line in server.lines()][-1] == "stopped"
    assert not server.ready_file.exists()


def test_a_killed_server_comes_back_with_every_job_and_watchers_resume_without_a_gap(server: ServerProcess):
    store = server.open_store()
    job = store.create(new_job())
    name = f"pruneJobs/{job.id}"
    watch = server.stub().WatchPruneJob(service_pb.WatchPruneJobRequest(name=name, after_sequence=0))
    assert next(watch).sequence == 1
    server.process.kill()
    server.process.wait()
    with pytest.raises(grpc.RpcError):
        list(watch)
    store.claim(owner="other", lease_seconds=60)
    server.start()
    watch = server.stub().WatchPruneJob(service_pb.WatchPruneJobRequest(name=name, after_sequence=1))
    assert next(watch).sequence == 2
    server.stub().CancelPruneJob(service_pb.CancelPruneJobRequest(name=name))
    assert next(watch).sequence == 3
    store.cancelled(job.id, 1)
    assert [event.sequence for event in watch] == [4]
    store.close()


def test_the_settings_are_logged_at_start_without_secrets(running: ServerProcess):
    (line,) = [line for line in running.lines() if line["event"] == "settings"]
    assert line["data_dir"] == str(running.data_dir)
    assert not any(secret in running.log_file.read_text() for secret in SECRETS.values())


def _serve(tmp_path: Path, *flags: str, **variables: str) -> SimpleNamespace:
    command = ["serve", "--data-dir", str(tmp_path), "--metrics-listen", "", *flags]
    return run_command(command, tmp_path, environment={**os.environ, "SECATEUR_DEVICES": "", **variables})


def test_listening_where_other_machines_reach_must_be_asked_for(tmp_path: Path):
    ended = _serve(tmp_path, "--listen", "0.0.0.0:0")
    assert ended.returncode == 2
    assert "no TLS and no tokens" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_listening_publicly_on_demand_is_logged_as_unsafe(tmp_path: Path):
    server = ServerProcess(tmp_path / "data", "--listen", "0.0.0.0:0", "--allow-public-listen", forked=True).start()
    server.process.terminate()
    assert server.process.wait(HANG_SECONDS) == 0
    [warning] = [line for line in server.lines() if line["level"] == "warning"]
    assert "UNSAFE" in warning["event"]
    assert (warning["listen"], warning["missing"]) == ("0.0.0.0:0", ["TLS", "tokens"])


def test_metrics_that_other_machines_can_read_are_told_and_are_no_warning(tmp_path: Path):
    server = ServerProcess(tmp_path / "data", "--metrics-listen", "0.0.0.0:0", forked=True).start()
    server.process.terminate()
    assert server.process.wait(HANG_SECONDS) == 0
    assert [line for line in server.lines() if line["level"] == "warning"] == []
    [line] = [line for line in server.lines() if line.get("metrics_listen") and line["event"] != "settings"]
    assert line["metrics_listen"] == "0.0.0.0:0"


def test_a_second_server_on_one_data_folder_or_database_is_refused(running: ServerProcess, tmp_path: Path):
    database = {"SECATEUR_DATABASE_URL": f"sqlite:///{running.data_dir}/secateur.sqlite3"}
    for what, folder, variables in (("data folder", running.data_dir, {}), ("database", tmp_path, database)):
        ended = _serve(folder, "--listen", "127.0.0.1:0", **variables)
        assert ended.returncode == 1
        told = f"the server cannot start: the server with process id {running.process.pid} has the {what} "
        assert told in ended.stderr.splitlines()[-1]


def test_an_address_in_use_is_one_line_that_says_so(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flags in (["--listen", address], ["--listen", "127.0.0.1:0", "--metrics-listen", address]):
            ended = _serve(tmp_path, *flags)
            assert ended.returncode == 1
            assert f"the server cannot start: cannot listen on {address}" in ended.stderr.splitlines()[-1]


def test_a_wrong_setting_is_named_with_its_variable(tmp_path: Path):
    ended = _serve(tmp_path, SECATEUR_MAX_WATCHERS="many")
    assert ended.returncode == 2
    assert "SECATEUR_MAX_WATCHERS" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_cluster_that_is_not_there_is_refused_before_anything_is_begun(tmp_path: Path):
    classes = '{"small": {"template": "agent", "host_bytes": 1000000000}}'
    ended = _serve(tmp_path, SECATEUR_CAPACITY="kubernetes", SECATEUR_CAPACITY_CLASSES=classes)
    assert ended.returncode == 2
    assert "capacity is kubernetes: capacity_url is empty and this is no pod of Kubernetes" in ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"stdout", "stderr"}


def test_migrate_prepares_the_database(tmp_path: Path):
    command = [*COMMAND, "migrate", "--data-dir", str(tmp_path / "data")]
    for _ in range(2):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
        assert ended.returncode == 0, ended.stderr
        assert "is up to date" in ended.stdout
    store = open_job_store(f"sqlite:///{tmp_path}/data/secateur.sqlite3")
    assert store.position() == 0
    store.close()


def test_help_names_every_command_for_people_and_hides_the_workers():
    ended = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=HANG_SECONDS, check=True)
    for command in ("serve", "migrate", "run", "demo"):
        assert f"  {command} " in ended.stdout
    assert "  work " not in ended.stdout


def test_settings_without_effect_are_told_of_at_start(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_DEVICE", "cuda:0")
    server = ServerProcess(tmp_path / "data", "--file-root", str(tmp_path / "nope"), forked=True).start()
    processes.end_tree(server.process)
    told = {line.get("variable") or line.get("file_root") for line in server.lines() if line["level"] == "warning"}
    assert told == {"SECATEUR_DEVICE", str(tmp_path / "nope")}
