"""What the capacity loop needs from a system that starts agents: Ray, Kubernetes, or another.

A provider starts agents and stops them, no more: which job an agent runs is decided when it claims one. So nothing that
a provider knows has to survive, and a wrong answer of its system costs time or an idle agent, never a job.

A *ticket* is one request for one agent. Its name is made from the class and a number, so that a request that is
repeated, by this replica or by another, asks for nothing twice.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from secateur_service.agent_classes import AgentClass


class TicketState(enum.StrEnum):
    """What became of a request."""

    WAITING = "waiting"
    """No agent runs yet: the system has no room, or is starting a machine."""
    RUNNING = "running"
    """The agent's process was started."""
    ENDED = "ended"
    """The agent ended as it should, or was stopped."""
    FAILED = "failed"
    """The agent ended with an error, or could not be started."""


ALIVE = (TicketState.WAITING, TicketState.RUNNING)


@dataclass(frozen=True)
class Ticket:
    """One request for one agent.

    Attributes:
        name: in the system, and of the agent.
        agent_class: name of the class that was asked for.
        state: what became of it.
        said: the system's own words on that; may be empty.
        version: what `withdraw` needs to see that nothing has changed; may be empty.
    """

    name: str
    agent_class: str
    state: TicketState
    said: str = ""
    version: str = ""


def ticket_name(service: str, agent_class: str, number: int) -> str:
    """The name of a ticket, in which `service` tells several services of one cluster apart."""
    return f"{service}-{agent_class}-{number}"


def ticket_of(agent_id: str) -> str:
    """The name of the ticket that an agent was started for, from the id with which it announces itself."""
    return agent_id.rpartition(":")[0]


def numbered(name: str, service: str) -> tuple[str, int]:
    """The class and the number in the name of a ticket; number 0 if the name is none of this service."""
    own, found, rest = name.partition(f"{service}-")
    agent_class, _, digits = rest.rpartition("-")
    if own or not found or not (digits.isascii() and digits.isdigit()):
        return "", 0
    return agent_class, int(digits)


class Provider(Protocol):
    """Starts and stops agents. Every method raises `CapacityError` when the system does not do as it is asked."""

    def tickets(self) -> list[Ticket]:
        """All requests of this service that the system knows, ended ones included."""

    def request(self, name: str, agent_class: str, wanted: AgentClass) -> Ticket:
        """Ask for an agent. If there is a ticket of that name, nothing is asked for, and it is returned."""

    def withdraw(self, ticket: Ticket) -> None:
        """Take a request back: an agent that runs is told to stop; of a ticket that has ended, nothing is kept.

        A ticket that is gone, or that has changed since it was read, is left as it is.
        """
