"""Clients that connect and say nothing."""

import contextlib
import socket
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from secateur.v1 import prune_service_pb2 as service_pb
from secateur.v1 import prune_service_pb2_grpc as stubs
from support.service import Service

PATIENCE = 120
DESCRIPTORS = 128  # so few that a test can take them all


@pytest.fixture
def service(tmp_path, monkeypatch):
    """A server that begins with few descriptors, of which it may have more."""
    monkeypatch.setattr(sys, "executable", str(limited(tmp_path, f"ulimit -S -n {DESCRIPTORS}")))
    service = Service(tmp_path)
    yield service
    service.close()


@pytest.fixture
def poor_service(tmp_path, monkeypatch):
    """A server that never gets more."""
    monkeypatch.setattr(sys, "executable", str(limited(tmp_path, f"ulimit -n {DESCRIPTORS}")))
    service = Service(tmp_path)
    yield service
    service.close()


def limited(folder, limit):
    """A Python under a limit."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\n{limit}\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


@contextlib.contextmanager
def silent(service, count):
    host, _, port = service.endpoint.rpartition(":")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection((host, int(port)), PATIENCE)) for _ in range(count)]


def ask(service):
    """A new client that asks for the health and for a list."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(service.endpoint, options=options) as channel:
        patient = {"timeout": PATIENCE, "wait_for_ready": True}
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), **patient)
        return stubs.PruneServiceStub(channel).ListPruneJobs(service_pb.ListPruneJobsRequest(), **patient)


def has_said_more_than_hello(connection):
    """Read what the server says first, and then that it has closed."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4096):
            pass
    return True


def test_more_silent_connections_than_a_shell_gives_descriptors_shut_nobody_out(service):
    with silent(service, 3 * DESCRIPTORS) as held:
        ask(service)
        assert all(has_said_more_than_hello(connection) for connection in held), "their time to say hello is not over"
    ask(service)


def test_a_server_that_gets_no_more_descriptors_keeps_some_for_its_work(poor_service):
    job = poor_service.queued_job()
    with grpc.insecure_channel(poor_service.endpoint) as channel:
        stub = stubs.PruneServiceStub(channel)
        get = service_pb.GetPruneJobRequest(name=f"pruneJobs/{job}")
        stub.GetPruneJob(get, timeout=PATIENCE)
        with silent(poor_service, 3 * DESCRIPTORS):
            for _ in range(20):
                assert stub.GetPruneJob(get, timeout=PATIENCE).name == f"pruneJobs/{job}"
    ask(poor_service)
    assert "Too many open files" not in (poor_service.folder / "log").read_text()
