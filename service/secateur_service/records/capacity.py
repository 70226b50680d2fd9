"""What a round of the capacity loop found and did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CapacityRound:
    """What a round found and did.

    Attributes:
        leads: whether this replica is the one that asks for agents.
        tickets: number of requests by class and state.
        outcomes: number of calls by outcome: `requested`, `withdrawn`, or the reason of an error.
        unserved: queued jobs that need more than any class of agents, and any agent, has.
        held_back: queued jobs that wait because their class has the most agents that it may have.
    """

    leads: bool = False
    tickets: Mapping[tuple[str, str], int] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    unserved: int = 0
    held_back: int = 0
