"""How a process that runs jobs makes itself known: a server with slots, or an agent.

It is told by the loop that claims jobs, not by a thread of its own: who is announced is who claims.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from secateur_service.jobs.agents import AgentRecord
from secateur_service.jobs.port import Agents
from secateur_service.records.needs import Capacity

ANNOUNCE_SECONDS = 10.0
"""How often a process announces itself if nothing about it changes."""


class Presence:
    """Announces one process. Not thread-safe: it belongs to the loop that claims jobs.

    Args:
        agents: where.
        record: the process, with nothing to do.
        monotonic: clock for the time between two announcements.
    """

    def __init__(self, agents: Agents, record: AgentRecord, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._agents = agents
        self._record = record
        self._monotonic = monotonic
        self._shown: float | None = None

    @property
    def capacity(self) -> Capacity:
        """What each slot has."""
        return self._record.capacity

    def show(self, *, free: int, draining: bool = False) -> None:
        """Announce the process, if that is due or something has changed.

        Args:
            free: slots that are free.
            draining: whether it takes no more jobs.

        Raises:
            TransientError: the store does not answer; the next call tries again.
        """
        record = replace(self._record, busy=max(0, self._record.slots - free), draining=draining)
        now = self._monotonic()
        if record == self._record and self._shown is not None and now - self._shown < ANNOUNCE_SECONDS:
            return
        self._agents.announce(record)
        self._record, self._shown = record, now

    def withdraw(self) -> None:
        """Say that the process ends.

        Raises:
            TransientError: the store does not answer; the process will just not be heard of any more.
        """
        self._agents.withdraw(self._record.id)
