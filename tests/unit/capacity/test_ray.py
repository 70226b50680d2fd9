"""Agents as jobs of Ray, against answers that a dashboard of Ray 2.60 gave (recorded by faults.record_ray)."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from secateur_service.capacity.port import Ticket, TicketState
from secateur_service.capacity.ray import RayProvider
from secateur_service.capacity.rest import Rest
from secateur_service.errors import CapacityError
from servers import http_server, send

RECORDED = json.loads(Path(__file__).with_name("ray-2.60.json").read_text(encoding="utf-8"))
NAME = "secateur-agent-gpu-1"
JOBS = "/api/jobs/"


class Recorded:
    """Gives recorded answers to calls: the last one to all that follow."""

    def __init__(self):
        self.calls: list[tuple[str, Any]] = []
        self.headers: list[Any] = []
        self.answers: dict[str, list[str]] = {}

    def give(self, call: str, *answers: str):
        self.answers[call] = list(answers)

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        call = f"{request.command} {request.path}"
        self.calls.append((call, json.loads(body) if body else None))
        self.headers.append(request.headers)
        answers = self.answers[call]
        answer = RECORDED[answers.pop(0) if len(answers) > 1 else answers[0]]
        send(request, answer["status"], answer["content"].encode(), answer["type"])


@pytest.fixture
def ray():
    return Recorded()


@pytest.fixture
def provider(ray, tmp_path):
    token = tmp_path / "token"
    token.write_text("token-of-the-cluster\n")
    with http_server(ray.handle) as url:
        rest = Rest(url, token_file=token)
        yield RayProvider(rest, service="secateur-agent", command="secateur-service agent --once", stop_seconds=60)


def test_a_request_says_what_the_class_asks_for_and_how_long_an_agent_may_take_to_stop(ray, provider, gpu):
    ray.give(f"GET {JOBS}{NAME}", "unknown job")
    ray.give(f"POST {JOBS}", "submitted")
    asked = gpu.model_copy(update={"resources": {"fast_disk": 0.5}})
    assert provider.request(NAME, "gpu", asked) == Ticket(NAME, "gpu", TicketState.WAITING)
    (_, body) = ray.calls[-1]
    assert body == {
        "submission_id": NAME,
        "entrypoint": f"exec secateur-service agent --once --name {NAME}",
        "entrypoint_num_cpus": 8,
        "entrypoint_num_gpus": 1,
        "entrypoint_memory": 64 * 10**9,
        "entrypoint_resources": {"fast_disk": 0.5},
        "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}},
        "metadata": {"secateur-service": "secateur-agent", "secateur-class": "gpu"},
    }
    assert {headers["Authorization"] for headers in ray.headers} == {"Bearer token-of-the-cluster"}


def test_a_job_that_is_there_is_not_asked_for_again(ray, provider, gpu):
    ray.give(f"GET {JOBS}{NAME}", "pending job")
    assert provider.request(NAME, "gpu", gpu).state is TicketState.WAITING
    assert [call for call, _ in ray.calls] == [f"GET {JOBS}{NAME}"]


def test_a_name_that_another_replica_took_meanwhile_is_no_error(ray, provider, gpu):
    """Ray answers 500 to a submission id that it knows."""
    ray.give(f"GET {JOBS}{NAME}", "unknown job", "pending job")
    ray.give(f"POST {JOBS}", "known submission id")
    assert provider.request(NAME, "gpu", gpu).state is TicketState.WAITING


def test_a_submission_that_fails_otherwise_is_one(ray, provider, gpu):
    ray.give(f"GET {JOBS}{NAME}", "unknown job")
    ray.give(f"POST {JOBS}", "known submission id")
    with pytest.raises(CapacityError, match=f"failed to take {NAME}") as caught:
        provider.request(NAME, "gpu", gpu)
    assert caught.value.reason == "CAPACITY_UNREACHABLE"


def test_a_name_of_somebody_elses_job_is_refused(ray, provider, gpu):
    ray.give(f"GET {JOBS}{NAME}", "foreign job")
    with pytest.raises(CapacityError, match="capacity_name"):
        provider.request(NAME, "gpu", gpu)


def test_tickets_are_our_jobs_in_every_state_of_ray(ray, provider):
    ray.give(f"GET {JOBS}", "list of jobs")
    states = {ticket.name: ticket.state for ticket in provider.tickets()}
    assert states == {
        "secateur-agent-gpu-1": TicketState.RUNNING,
        "secateur-agent-gpu-2": TicketState.WAITING,
        "secateur-agent-gpu-3": TicketState.ENDED,
        "secateur-agent-gpu-4": TicketState.FAILED,
        "secateur-agent-gpu-5": TicketState.ENDED,
        "secateur-agent-gpu-6": TicketState.ENDED,  # told to stop, by somebody else than Ray
    }
    assert len(json.loads(RECORDED["list of jobs"]["content"])) > len(states), "others have jobs there, too"
    (failed,) = [ticket for ticket in provider.tickets() if ticket.state is TicketState.FAILED]
    assert "exit code 2" in failed.said
    assert "\n" not in failed.said


def test_what_runs_is_stopped_and_what_has_ended_is_deleted(ray, provider):
    ray.give(f"POST {JOBS}{NAME}/stop", "stopped")
    provider.withdraw(Ticket(NAME, "gpu", TicketState.WAITING))
    ray.give(f"DELETE {JOBS}{NAME}", "deleted")
    provider.withdraw(Ticket(NAME, "gpu", TicketState.ENDED))
    assert [call for call, _ in ray.calls] == [f"POST {JOBS}{NAME}/stop", f"DELETE {JOBS}{NAME}"]


def test_what_ray_has_forgotten_is_withdrawn_without_an_error(ray, provider):
    ray.give(f"POST {JOBS}{NAME}/stop", "unknown job")
    provider.withdraw(Ticket(NAME, "gpu", TicketState.RUNNING))
    ray.give(f"DELETE {JOBS}{NAME}", "unknown job")
    provider.withdraw(Ticket(NAME, "gpu", TicketState.FAILED))


def test_a_wrong_token_and_a_wrong_address_are_told_apart(ray, provider):
    ray.give(f"GET {JOBS}", "wrong token")
    with pytest.raises(CapacityError, match="403") as caught:
        provider.tickets()
    assert caught.value.reason == "CAPACITY_REFUSED"
    ray.give(f"GET {JOBS}", "page of the dashboard")
    with pytest.raises(CapacityError, match="cannot be read"):
        provider.tickets()


def test_a_head_that_is_away_is_unreachable(tmp_path):
    provider = RayProvider(Rest("http://127.0.0.1:1"), service="a", command="agent", stop_seconds=1)
    with pytest.raises(CapacityError, match="Connection refused") as caught:
        provider.tickets()
    assert caught.value.reason == "CAPACITY_UNREACHABLE"
