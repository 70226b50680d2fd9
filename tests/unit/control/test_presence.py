"""How a process that runs jobs makes itself known."""

from dataclasses import replace

import pytest

from secateur_service.control.presence import ANNOUNCE_SECONDS, Presence
from secateur_service.errors import TransientError
from secateur_service.jobs.agents import AgentRecord
from secateur_service.records.needs import Capacity
from support.clock import Clock

RECORD = AgentRecord("a:1", "a", "1", slots=2, busy=0, capacity=Capacity(0, 0, 5, 6))


class Announced:
    """Remembers what was announced, unless it is away."""

    def __init__(self):
        self.records = []
        self.is_away = False

    def announce(self, record):
        if self.is_away:
            raise TransientError("away", reason="STORE_UNAVAILABLE")
        self.records.append(record)

    def withdraw(self, agent_id):
        self.records.append(agent_id)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def announced():
    return Announced()


@pytest.fixture
def presence(announced, clock):
    return Presence(announced, RECORD, monotonic=clock)


def test_it_is_announced_at_once_at_each_change_and_now_and_then(presence, announced, clock):
    for free in (2, 2, 1, 1):
        presence.show(free=free)
    assert announced.records == [RECORD, replace(RECORD, busy=1)]
    clock.now += ANNOUNCE_SECONDS
    presence.show(free=1)
    presence.show(free=1)
    presence.show(free=1, draining=True)
    presence.withdraw()
    assert announced.records[2:] == [
        replace(RECORD, busy=1),
        replace(RECORD, busy=1, draining=True),
        RECORD.id,
    ]


def test_what_could_not_be_announced_is_announced_when_the_store_is_back(presence, announced):
    presence.show(free=2)
    announced.is_away = True
    with pytest.raises(TransientError):
        presence.show(free=0)
    announced.is_away = False
    presence.show(free=0)
    assert announced.records == [RECORD, replace(RECORD, busy=2)]
