"""Figures of agents, and of the jobs that fit none: read from the store at each scrape, the same on every replica."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from prometheus_client.core import GaugeMetricFamily

from secateur_service.jobs.port import JobStore

ALIVE_SECONDS = 30.0
"""An agent announces itself every ten seconds; one that was not heard of for this long is gone or stuck."""


class AgentFamilies:
    """The families of one scrape."""

    def __init__(self, namespace: str) -> None:
        self.agents = GaugeMetricFamily(
            f"{namespace}_agents",
            "Agents, and servers with slots, that were heard of within 30 seconds: ready, or draining.",
            labels=["state"],
        )
        self.slots = GaugeMetricFamily(f"{namespace}_slots", "Slots of these agents: busy, or free.", labels=["state"])
        self.capacity = GaugeMetricFamily(
            f"{namespace}_slot_capacity_bytes",
            "The most that a slot of one of these agents has: device_memory, memory, disk.",
            labels=["kind"],
        )
        self.unserved = GaugeMetricFamily(
            f"{namespace}_jobs_unserved", "Queued jobs that fit no agent seen in the last ten minutes.", labels=[]
        )
        self.needs = GaugeMetricFamily(
            f"{namespace}_unserved_need_bytes",
            "The most that a job needs which fits no agent: device_memory, memory_beside_device, memory_on_cpu, disk.",
            labels=["kind"],
        )

    def __iter__(self) -> Iterator[GaugeMetricFamily]:
        yield from (self.agents, self.slots, self.capacity, self.unserved, self.needs)


@dataclass(frozen=True)
class AgentFigures:
    """What the families show, by their label."""

    agents: Mapping[str, int]
    slots: Mapping[str, int]
    capacity: Mapping[str, int]
    unserved: int
    needs: Mapping[str, int]

    @classmethod
    def read(cls, store: JobStore) -> Self:
        """Read them.

        Raises:
            TransientError: the store does not answer.
        """
        alive = [agent for agent in store.agents.seen(ALIVE_SECONDS) if agent.slots]
        states = Counter("draining" if agent.draining else "ready" for agent in alive)
        unserved = store.unserved()
        needs = [need for need, _ in unserved]
        capacities = [agent.capacity for agent in alive]
        return cls(
            agents={state: states[state] for state in ("ready", "draining")},
            slots={
                "busy": sum(agent.busy for agent in alive),
                "free": sum(agent.slots - agent.busy for agent in alive if not agent.draining),
            },
            capacity={
                "device_memory": max((one.device_bytes for one in capacities), default=0),
                "memory": max((one.host_bytes for one in capacities), default=0),
                "disk": max((one.disk_bytes for one in capacities), default=0),
            },
            unserved=sum(count for _, count in unserved),
            needs={
                "device_memory": max((need.device_bytes for need in needs), default=0),
                "memory_beside_device": max((need.host_bytes_beside_device for need in needs), default=0),
                "memory_on_cpu": max((need.host_bytes for need in needs), default=0),
                "disk": max((need.disk_bytes for need in needs), default=0),
            },
        )

    def fill(self, families: AgentFamilies) -> None:
        """Show them."""
        labelled = (
            (families.agents, self.agents),
            (families.slots, self.slots),
            (families.capacity, self.capacity),
            (families.needs, self.needs),
        )
        for family, figures in labelled:
            for label, value in figures.items():
                family.add_metric([label], value)
        families.unserved.add_metric([], self.unserved)
