"""Agents as Jobs, against an API server that checks every object against Kubernetes' own schemas."""

from __future__ import annotations

import copy
import functools
import operator
import re

import pytest

from secateur_service.capacity.kubernetes import QUEUE_LABEL, KubernetesProvider
from secateur_service.capacity.port import TicketState
from secateur_service.capacity.rest import Rest
from secateur_service.commands.main import EXIT_CANNOT_START, EXIT_USAGE
from secateur_service.errors import CapacityError, PreemptedError
from support.deployment import KUSTOMIZE, documents
from support.kubernetes_api import TOKEN, KubernetesApi


def template():
    (found,) = [
        document
        for document in documents(KUSTOMIZE / "components" / "agents" / "agent.yaml")
        if document["kind"] == "CronJob"
    ]
    return found


@pytest.fixture
def api():
    with KubernetesApi("prune", [template()]).serving() as server:
        yield server


@pytest.fixture
def provider(api, tmp_path):
    return open_provider(api, tmp_path)


def open_provider(api, folder, *, service="secateur-agent", token=TOKEN):
    file = folder / "token"
    file.write_text(f"{token}\n")
    arguments = ["agent", "--idle-seconds", "300"]
    rest = Rest(api.url, token_file=file)
    return KubernetesProvider(rest, namespace="prune", service=service, arguments=arguments)


def state_of(provider, name="secateur-agent-gpu-1"):
    return {ticket.name: ticket.state for ticket in provider.tickets()}[name]


def test_a_job_is_the_operators_template_with_what_makes_it_one_agents(api, provider, gpu):
    provider.request("secateur-agent-gpu-1", "gpu", gpu)
    spec, own = api.jobs["secateur-agent-gpu-1"]["spec"], template()["spec"]["jobTemplate"]["spec"]
    (container,), (given,) = spec["template"]["spec"]["containers"], own["template"]["spec"]["containers"]
    assert container["args"] == ["agent", "--idle-seconds", "300", "--name", "secateur-agent-gpu-1"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["resources"]["requests"]["cpu"] == "8"
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"] == "64000000000"
    for part in ("image", "env", "envFrom", "volumeMounts", "securityContext"):
        assert container[part] == given[part]
    assert "suspend" not in spec
    assert QUEUE_LABEL not in api.jobs["secateur-agent-gpu-1"]["metadata"]["labels"]


def test_no_credential_is_in_a_job(api, provider, gpu):
    provider.request("secateur-agent-gpu-1", "gpu", gpu)
    (container,) = api.jobs["secateur-agent-gpu-1"]["spec"]["template"]["spec"]["containers"]
    secret = [entry for entry in container["env"] if re.search("URL|KEY|TOKEN|CREDENTIALS", entry["name"])]
    assert len(secret) >= 4
    assert all(entry.keys() == {"name", "valueFrom"} for entry in secret)


def test_with_a_queue_kueue_decides_when_it_starts(api, provider, gpu):
    api.templates["secateur-agent"]["spec"]["jobTemplate"]["metadata"]["labels"][QUEUE_LABEL] = "agents"
    assert provider.request("secateur-agent-gpu-1", "gpu", gpu).state is TicketState.WAITING
    job = api.jobs["secateur-agent-gpu-1"]
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"][QUEUE_LABEL] == "agents"
    assert state_of(provider) is TicketState.WAITING
    api.admit("secateur-agent-gpu-1")
    assert state_of(provider) is TicketState.WAITING
    api.start("secateur-agent-gpu-1")
    assert state_of(provider) is TicketState.RUNNING


@pytest.mark.parametrize(
    ("exit_code", "state"),
    [
        (0, TicketState.ENDED),
        (EXIT_CANNOT_START, TicketState.WAITING),
        (EXIT_USAGE, TicketState.FAILED),
        (137, TicketState.WAITING),
        (PreemptedError.exit_code, TicketState.WAITING),
        (None, TicketState.WAITING),
    ],
    ids=["done", "no database", "invalid setting", "killed", "told to stop", "evicted"],
)
def test_the_end_of_a_pod_decides_what_becomes_of_the_job(api, provider, gpu, exit_code, state):
    provider.request("secateur-agent-gpu-1", "gpu", gpu)
    api.start("secateur-agent-gpu-1")
    api.end("secateur-agent-gpu-1", exit_code)
    assert state_of(provider) is state


def test_evictions_are_not_counted_and_faults_are(api, provider, gpu):
    provider.request("secateur-agent-gpu-1", "gpu", gpu)
    for exit_code in [None, PreemptedError.exit_code] * 10 + [137] * 4:
        assert state_of(provider) is TicketState.WAITING
        api.start("secateur-agent-gpu-1")
        api.end("secateur-agent-gpu-1", exit_code)
    (ticket,) = provider.tickets()
    assert ticket.state is TicketState.FAILED
    assert "BackoffLimitExceeded" in ticket.said


def test_the_same_request_twice_asks_once(api, provider, gpu):
    first = provider.request("secateur-agent-gpu-1", "gpu", gpu)
    assert provider.request("secateur-agent-gpu-1", "gpu", gpu) == first
    assert len(api.jobs) == 1


def test_a_name_that_is_taken_by_another_service_is_refused(api, tmp_path, gpu):
    open_provider(api, tmp_path, service="others").request("agent-1", "gpu", gpu)
    with pytest.raises(CapacityError, match="capacity_name"):
        open_provider(api, tmp_path).request("agent-1", "gpu", gpu)


def test_tickets_are_those_of_the_service_over_all_pages(api, tmp_path, gpu):
    own, others = open_provider(api, tmp_path), open_provider(api, tmp_path, service="others")
    others.request("others-gpu-1", "gpu", gpu)
    own.request("secateur-agent-gpu-0", "gpu", gpu)
    first = api.jobs["secateur-agent-gpu-0"]
    for number in range(1, 450):
        name = f"secateur-agent-gpu-{number}"
        api.jobs[name] = {**first, "metadata": {**first["metadata"], "name": name}}
    assert sorted(ticket.name for ticket in own.tickets()) == sorted(set(api.jobs) - {"others-gpu-1"})


def test_what_is_withdrawn_is_gone_unless_it_has_started_meanwhile(api, provider, gpu):
    waits = provider.request("secateur-agent-gpu-1", "gpu", gpu)
    api.start("secateur-agent-gpu-1")
    provider.withdraw(waits)
    (runs,) = provider.tickets()
    assert runs.state is TicketState.RUNNING
    provider.withdraw(runs)
    assert provider.tickets() == []
    provider.withdraw(runs)  # it is gone


def test_an_ended_job_can_be_forgotten_whatever_else_changed(api, provider, gpu):
    provider.request("secateur-agent-gpu-1", "gpu", gpu)
    api.end("secateur-agent-gpu-1", 0)
    (ended,) = provider.tickets()
    api.start("secateur-agent-gpu-1")  # any change
    provider.withdraw(ended)
    assert api.jobs == {}


def test_a_template_that_is_missing_is_named(provider, gpu):
    with pytest.raises(CapacityError, match=r"no CronJob other-agents.*component `agents`") as caught:
        provider.request("secateur-agent-gpu-1", "gpu", gpu.model_copy(update={"template": "other-agents"}))
    assert caught.value.reason == "CAPACITY_REFUSED"


def test_what_the_server_says_is_told(api, tmp_path):
    with pytest.raises(CapacityError, match="answered with 401: Unauthorized") as caught:
        open_provider(api, tmp_path, token="wrong").tickets()
    assert caught.value.reason == "CAPACITY_REFUSED"
    assert "wrong" not in caught.value.message
    api.failing = 1
    with pytest.raises(CapacityError, match="503: the server is currently unable") as caught:
        open_provider(api, tmp_path).tickets()
    assert caught.value.reason == "CAPACITY_UNREACHABLE"


def test_the_server_of_these_tests_refuses_what_kubernetes_refuses(api, provider, gpu):
    """Otherwise the others could not fail."""
    provider.request("secateur-agent-gpu-1", "gpu", gpu)
    good = api.jobs.pop("secateur-agent-gpu-1")

    def refused(path, value):
        job = copy.deepcopy({name: part for name, part in good.items() if name != "status"})
        *parents, last = path
        functools.reduce(operator.getitem, parents, job)[last] = value
        with pytest.raises(CapacityError, match="answered with 4"):
            provider._rest.call("POST", provider._jobs, fields={"fieldValidation": "Strict"}, body=job)

    pod = ("spec", "template", "spec")
    refused(("spec", "queueName"), "x")
    refused((*pod, "restartPolicy"), "Always")
    refused((*pod, "containers", 0, "args"), "agent")
    refused((*pod, "containers", 0, "resources", "requests", "nvidia.com/gpu"), "2")
    refused(("metadata", "name"), "Agent_1")
    refused(("metadata", "labels", "secateur/agent-class"), "a b")
    refused(("spec", "podFailurePolicy", "rules", 1, "onExitCodes", "values"), [0])
