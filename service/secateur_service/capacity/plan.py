"""Which agents to ask for: queued jobs by their needs, less the agents that could run them, less those on their way.

Pure: everything comes in as an argument, and nothing is remembered from round to round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from secateur_service.agent_classes import AgentClass
from secateur_service.capacity.port import ALIVE, Ticket, TicketState
from secateur_service.records.needs import Capacity, Needs

_ANY_DISK_BYTES = 2**62


@dataclass(frozen=True)
class Plan:
    """What a round does.

    Attributes:
        request: class of every agent to ask for.
        withdraw: requests that no job waits for any more.
        unserved: queued jobs that need more than any class of agents and any agent has.
        held_back: queued jobs for which no agent was asked, because their class has the most that it may.
    """

    request: tuple[str, ...]
    withdraw: tuple[Ticket, ...]
    unserved: int
    held_back: int


@dataclass(frozen=True)
class Offer:
    """What an agent of a class has for a job, and how many of them there may be."""

    capacity: Capacity
    most_agents: int

    @classmethod
    def of(cls, kind: AgentClass) -> Offer:
        """The offer as the settings state it; a disk of unknown size is enough for any job."""
        disk_bytes = kind.disk_bytes or _ANY_DISK_BYTES
        return cls(Capacity(kind.devices, kind.device_bytes, kind.host_bytes, disk_bytes), kind.most_agents)

    def limited_to(self, seen: Capacity) -> Offer:
        """The offer without what an agent of the class turned out to lack."""
        stated = self.capacity
        known = seen.device_bytes or stated.device_bytes  # 0: unknown
        return replace(
            self,
            capacity=Capacity(
                min(stated.devices, seen.devices),
                min(stated.device_bytes or known, known),
                min(stated.host_bytes, seen.host_bytes),
                min(stated.disk_bytes, seen.disk_bytes),
            ),
        )


@dataclass(frozen=True)
class _Place:
    """Where one job could go: an idle slot, or the slot of an agent on its way."""

    capacity: Capacity
    ticket: Ticket | None = None

    @property
    def order(self) -> tuple[int, tuple[int, ...]]:
        """Idle slots first and requests that wait last, which can be withdrawn; within each, the smallest first."""
        tier = 0 if self.ticket is None else 1 if self.ticket.state is TicketState.RUNNING else 2
        size = self.capacity
        return tier, (size.devices, size.device_bytes, size.host_bytes, size.disk_bytes)


def plan(
    waiting: Iterable[tuple[Needs, int]],
    *,
    idle: Iterable[Capacity],
    busy: Collection[Capacity],
    tickets: Sequence[Ticket],
    uncounted: Collection[str],
    offers: Mapping[str, Offer],
) -> Plan:
    """Compare demand with supply.

    Jobs that need most choose first. A job for which there is no place gets an agent of the first class that fits it,
    in the order of `offers`.

    Args:
        waiting: needs of queued jobs, and how many jobs have them.
        idle: capacity of each idle slot.
        busy: capacities of slots that are taken.
        tickets: all requests.
        uncounted: names of tickets that bring no further slot: their agents have announced themselves, or should have
            done so long ago, or are withdrawn already.
        offers: what agents of each class have, by its name.
    """
    alive = [ticket for ticket in tickets if ticket.state in ALIVE]
    coming = [ticket for ticket in alive if ticket.name not in uncounted and ticket.agent_class in offers]
    places = [_Place(capacity) for capacity in idle]
    places += [_Place(offers[ticket.agent_class].capacity, ticket) for ticket in coming]
    places.sort(key=lambda place: place.order)
    count = Counter(ticket.agent_class for ticket in alive)
    room = {name: offer.most_agents - count[name] for name, offer in offers.items()}
    request: list[str] = []
    unserved = held_back = 0
    for needs, jobs in sorted(waiting, key=lambda entry: _size(entry[0]), reverse=True):
        places, left = _fill(places, needs, jobs)
        fitting = next((name for name, offer in offers.items() if needs.fits(offer.capacity)), None)
        if fitting is None:
            unserved += 0 if any(needs.fits(capacity) for capacity in busy) else left
        else:
            asked = max(0, min(left, room[fitting]))
            room[fitting] -= asked
            request += [fitting] * asked
            held_back += left - asked
    surplus = [place.ticket for place in places if place.ticket is not None]
    orphans = [ticket for ticket in alive if ticket.agent_class not in offers and ticket.name not in uncounted]
    withdraw = [ticket for ticket in (*surplus, *orphans) if ticket.state is TicketState.WAITING]
    return Plan(tuple(request), tuple(withdraw), unserved, held_back)


def _fill(places: list[_Place], needs: Needs, jobs: int) -> tuple[list[_Place], int]:
    """Give jobs the first places that fit; returns the places and the number of jobs that are left."""
    free = []
    for place in places:
        if jobs and needs.fits(place.capacity):
            jobs -= 1
        else:
            free.append(place)
    return free, jobs


def _size(needs: Needs) -> tuple[int, int, int]:
    return needs.device_bytes, needs.host_bytes, needs.disk_bytes
