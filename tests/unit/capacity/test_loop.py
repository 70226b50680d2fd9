"""The loop over a real store and the API server of the tests, which plays the cluster."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest

from secateur_service.capacity.kubernetes import KubernetesProvider
from secateur_service.capacity.loop import CapacityLoop
from secateur_service.capacity.port import Ticket, TicketState
from secateur_service.capacity.rest import Rest
from secateur_service.jobs.agents import AgentRecord
from secateur_service.jobs.store import open_job_store
from secateur_service.records.needs import Capacity, Needs
from support.clock import Clock, let_pass
from support.jobs import new_job
from support.kubernetes_api import TOKEN, KubernetesApi

GB = 10**9
TEMPLATE = {
    "apiVersion": "batch/v1",
    "kind": "CronJob",
    "metadata": {"name": "secateur-agent"},
    "spec": {
        "schedule": "0 0 1 1 *",
        "suspend": True,
        "jobTemplate": {
            "spec": {
                "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "agent", "image": "a:1"}]}}
            }
        },
    },
}


@pytest.fixture
def store(tmp_path):
    opened = open_job_store(f"sqlite:///{tmp_path}/jobs.sqlite3")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def api():
    with KubernetesApi("prune", [TEMPLATE]).serving() as server:
        yield server


class LikeRay:
    """What waits cannot be taken back there: it stays until it has a place."""

    def __init__(self):
        self.known: dict[str, Ticket] = {}
        self.stopped: list[str] = []

    def tickets(self):
        return list(self.known.values())

    def request(self, name, agent_class, _wanted):
        return self.known.setdefault(name, Ticket(name, agent_class, TicketState.WAITING))

    def withdraw(self, ticket):
        self.stopped.append(ticket.name)


class Cluster:
    """A loop, the cluster that it asks, and how its rounds went."""

    def __init__(self, store, api, folder, kind, owner="replica-1", provider=None):
        self.store, self.api, self.clock, self.rounds = store, api, Clock(), []
        (folder / "token").write_text(TOKEN)
        rest = Rest(api.url, token_file=folder / "token")
        kubernetes = KubernetesProvider(rest, namespace="prune", service="agent", arguments=["agent", "--once"])
        self.loop = CapacityLoop(
            store,
            provider or kubernetes,
            service="agent",
            owner=owner,
            classes={"gpu": kind},
            start_seconds=300,
            on_round=self.rounds.append,
            monotonic=self.clock,
            rng=random.Random(0),
        )

    def act(self):
        pause = self.loop.act()
        self.clock.now += pause
        return self.rounds[-1]

    def names(self):
        return sorted(self.api.jobs)

    def queue(self, count=1, device_bytes=40 * GB):
        needs = Needs(host_bytes=500 * GB, disk_bytes=GB, device_bytes=device_bytes, host_bytes_beside_device=16 * GB)
        return [self.store.create(dataclasses.replace(new_job(), needs=needs)).id for _ in range(count)]

    def announce(self, name, *, busy=0, device_bytes=80 * GB):
        capacity = Capacity(devices=1, device_bytes=device_bytes, host_bytes=64 * GB, disk_bytes=200 * GB)
        self.store.agents.announce(AgentRecord(f"{name}:1a2b", "node", "1", 1, busy, capacity))


@pytest.fixture
def cluster(store, api, tmp_path, gpu):
    return Cluster(store, api, tmp_path, gpu)


def test_agents_are_asked_for_while_jobs_wait_and_withdrawn_when_none_does(cluster):
    assert cluster.act().leads
    assert cluster.names() == []
    jobs = cluster.queue(2)
    assert cluster.act().outcomes == {"requested": 2}
    assert cluster.names() == ["agent-gpu-1", "agent-gpu-2"]
    assert cluster.act().tickets == {("gpu", "waiting"): 2}
    assert cluster.names() == ["agent-gpu-1", "agent-gpu-2"]
    cluster.store.request_cancel(jobs[0])
    assert cluster.act().outcomes == {"withdrawn": 1}
    assert len(cluster.names()) == 1


def test_no_more_than_the_most_are_asked_for_however_long_the_queue(cluster):
    cluster.queue(7)
    done = cluster.act()
    assert len(cluster.names()) == 3
    assert (done.held_back, done.unserved) == (4, 0)


def test_an_agent_that_runs_is_counted_by_its_slots(cluster):
    cluster.queue(1)
    cluster.act()
    cluster.api.start("agent-gpu-1")
    cluster.act()
    cluster.announce("agent-gpu-1")
    cluster.act()
    assert cluster.names() == ["agent-gpu-1"]
    cluster.announce("agent-gpu-1", busy=1)  # with another job
    cluster.act()
    assert cluster.names() == ["agent-gpu-1", "agent-gpu-2"]


def test_an_agent_that_never_announces_itself_stops_counting(cluster):
    cluster.queue(1)
    cluster.act()
    cluster.api.start("agent-gpu-1")
    cluster.act()
    cluster.act()
    assert cluster.names() == ["agent-gpu-1"]
    cluster.clock.now += 300
    cluster.act()
    assert cluster.names() == ["agent-gpu-1", "agent-gpu-2"]


def test_agents_that_fail_are_asked_for_ever_less_often(cluster):
    cluster.queue(1)
    times = []
    for _ in range(30):
        cluster.clock.now += 110
        done = cluster.act()
        if done.outcomes.get("requested"):
            times.append(cluster.clock.now)
            (name,) = [name for name, job in cluster.api.jobs.items() if not job["status"].get("conditions")]
            cluster.api.start(name)
            cluster.api.end(name, 2)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses[0] == 240  # seen at the next look, and asked for again at the one after that
    assert pauses[-1] >= 480


def test_an_agent_that_comes_up_ends_the_pause_after_failures(cluster):
    cluster.queue(2)
    cluster.act()
    for name in cluster.names():
        cluster.api.start(name)
    cluster.api.end("agent-gpu-1", 2)
    assert cluster.act().outcomes == {}
    cluster.announce("agent-gpu-2", busy=1)
    assert cluster.act().outcomes == {"requested": 2}
    cluster.api.end("agent-gpu-3", 2)
    cluster.announce("agent-gpu-2", busy=1)
    assert cluster.act().outcomes == {}, "one that has been there for long says nothing of those that fail now"


def test_a_fault_of_the_cluster_costs_a_growing_pause_and_nothing_else(cluster):
    cluster.queue(1)
    cluster.act()
    cluster.api.failing = 3
    pauses = [cluster.loop.act() for _ in range(3)]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 30
    assert [done.outcomes for done in cluster.rounds[-3:]] == [{"CAPACITY_UNREACHABLE": 1}] * 3
    assert cluster.loop.act() == 10
    assert cluster.names() == ["agent-gpu-1"]


def test_jobs_that_fit_no_class_are_counted_also_where_the_cluster_does_not_answer(cluster):
    cluster.queue(2, device_bytes=200 * GB)
    cluster.queue(1)
    cluster.api.failing = 1
    done = cluster.act()
    assert (done.outcomes, done.unserved) == ({"CAPACITY_UNREACHABLE": 1}, 2)
    assert cluster.act().unserved == 2


def test_a_class_that_turns_out_smaller_than_stated_is_not_asked_for_in_vain(cluster):
    cluster.queue(1)
    cluster.act()
    cluster.api.start("agent-gpu-1")
    cluster.announce("agent-gpu-1", device_bytes=24 * GB)
    done = cluster.act()
    assert cluster.names() == ["agent-gpu-1"]
    assert done.unserved == 1


def test_one_replica_acts_and_another_takes_over_where_it_was(cluster, store, api, tmp_path, gpu):
    other = Cluster(store, api, tmp_path, gpu, owner="replica-2")
    cluster.queue(2)
    assert cluster.act().leads
    assert not other.act().leads
    let_pass(store, 61)
    cluster.queue(1)
    assert other.act().outcomes == {"requested": 1}
    assert cluster.names() == ["agent-gpu-1", "agent-gpu-2", "agent-gpu-3"]
    done = cluster.act()
    assert (done.leads, done.tickets) == (False, {})


def test_two_that_act_at_once_ask_once(cluster, store, api, tmp_path, gpu):
    """A lease cannot hold a call that hangs."""
    other = Cluster(store, api, tmp_path, gpu, owner="replica-2")
    cluster.queue(2)
    provider = other.loop._provider
    stale = provider.tickets()
    cluster.act()
    provider.tickets = lambda: stale
    let_pass(store, 61)
    other.act()
    assert cluster.names() == ["agent-gpu-1", "agent-gpu-2"]


def test_a_loop_that_stops_lets_another_act_at_once(cluster, store, api, tmp_path, gpu):
    other = Cluster(store, api, tmp_path, gpu, owner="replica-2")
    cluster.act()
    cluster.loop.stop()
    assert other.act().leads


def test_names_of_agents_that_the_cluster_has_forgotten_are_not_given_again(cluster):
    cluster.queue(1)
    cluster.announce("agent-gpu-7", busy=1)
    cluster.act()
    assert cluster.names() == ["agent-gpu-8"]


def test_a_request_that_was_withdrawn_and_still_waits_is_no_agent_on_its_way(store, api, tmp_path, gpu):
    ray = LikeRay()
    cluster = Cluster(store, api, tmp_path, gpu, provider=ray)
    (job,) = cluster.queue(1)
    cluster.act()
    store.request_cancel(job)
    cluster.act()
    cluster.act()
    assert ray.stopped == ["agent-gpu-1"], "once"
    cluster.queue(1)
    cluster.act()
    cluster.act()
    assert list(ray.known) == ["agent-gpu-1", "agent-gpu-2"]
