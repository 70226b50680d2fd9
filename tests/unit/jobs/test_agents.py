"""Who runs jobs, and who does what only one may do."""

from dataclasses import replace

from secateur_service.jobs.agents import AgentRecord
from secateur_service.records.needs import Capacity
from support.clock import let_pass

CAPACITY = Capacity(1, 24 * 10**9, 64 * 10**9, 10**12)
ONE = AgentRecord("one:1", "one", "0.9", slots=2, busy=1, capacity=CAPACITY)


def seen(store, seconds=30):
    return [replace(agent, heartbeat=None) for agent in store.agents.seen(seconds)]


def test_an_agent_is_seen_as_it_announced_itself_last(store):
    other = replace(ONE, id="other:1", node="other", capacity=replace(CAPACITY, devices=0, device_bytes=0))
    for record in (ONE, other, replace(ONE, busy=2, draining=True)):
        store.agents.announce(record)
    assert seen(store) == [replace(ONE, busy=2, draining=True), other]
    assert all(agent.heartbeat is not None for agent in store.agents.seen(30))


def test_an_agent_that_is_silent_is_seen_no_more_and_later_forgotten(store):
    store.agents.announce(ONE)
    let_pass(store, 60)
    store.agents.announce(replace(ONE, id="two:1"))
    assert [agent.id for agent in seen(store)] == ["two:1"]
    assert [agent.id for agent in seen(store, 600)] == ["one:1", "two:1"]
    assert store.agents.forget(50) == 1
    assert [agent.id for agent in seen(store, 600)] == ["two:1"]


def test_an_agent_that_has_ended_still_counts_as_seen_but_has_no_slots(store):
    store.agents.announce(ONE)
    store.agents.withdraw(ONE.id)
    store.agents.withdraw("never there")
    assert seen(store) == [replace(ONE, slots=0, busy=0, draining=True)]
    store.agents.announce(ONE)
    assert seen(store) == [ONE]


def test_one_has_a_lease_until_it_ends_or_is_given_up(store):
    assert store.leases.take("capacity", "a", 10)
    assert store.leases.take("capacity", "a", 10)
    assert not store.leases.take("capacity", "b", 10)
    assert store.leases.take("other", "b", 10)
    let_pass(store, 11)
    assert store.leases.take("capacity", "b", 10)
    assert not store.leases.take("capacity", "a", 10)
    store.leases.release("capacity", "a")
    assert not store.leases.take("capacity", "a", 10)
    store.leases.release("capacity", "b")
    assert store.leases.take("capacity", "a", 10)
