"""What a job takes at the least of the machine that runs it, and what a machine has: which may take which.

A need is what admission refuses a job for on a machine that has less, not what it warns of: the estimate of the job
that saves what a worker can save, less the margin of estimates (`sizing.preflight`). So a job that is let in where it
is to run is taken there, too. It is no more than that after memory ran out: the next attempt saves from the start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from secateur._text import listed, size

SEEN_SECONDS = 600.0
"""An agent that was heard of within this time counts when a job is told why it waits."""

NO_AGENT = "no agent has been seen in the last ten minutes; start one: secateur-service agent, or serve with devices"


@dataclass(frozen=True)
class Capacity:
    """What one slot of an agent has.

    Attributes:
        devices: accelerators; 0 for a CPU.
        device_bytes: memory of each; 0 if it is unknown, and then anything is tried.
        host_bytes: memory of the machine, or of its container.
        disk_bytes: size of the disk that jobs work on, however full it is at the moment.
    """

    devices: int
    device_bytes: int
    host_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Needs:
    """What a job needs at the least; 0 for what is unknown, which is never missing.

    Attributes:
        host_bytes: memory where a CPU computes.
        disk_bytes: of disk for its work.
        device_bytes: memory of an accelerator.
        host_bytes_beside_device: memory where an accelerator computes.
    """

    host_bytes: int = 0
    disk_bytes: int = 0
    device_bytes: int = 0
    host_bytes_beside_device: int = 0

    def fits(self, capacity: Capacity) -> bool:
        """Whether a slot may take the job."""
        return not self._missing(capacity)

    def lacking(self, capacity: Capacity) -> str:
        """What a slot has too little of: `80.0 GB of device memory instead of 24.0 GB`; empty if the job fits."""
        return listed([f"{needed} of {kind} instead of {there}" for kind, needed, there in self._told(capacity)])

    def waits(self, seen: Collection[Capacity], offered: Mapping[str, Capacity] = MappingProxyType({})) -> str | None:
        """Why a job waits although there may be free slots; None if one of them may take it.

        Args:
            seen: capacities of a slot of each agent that was seen in the last `SEEN_SECONDS`.
            offered: those of agents that can be asked for, by the name of their class; the first that fits is.
        """
        if any(self.fits(capacity) for capacity in seen):
            return None
        for name, capacity in offered.items():
            if self.fits(capacity):
                return f"no agent seen in ten minutes fits; the service asks for one of class {name}"
        if not seen and not offered:
            return NO_AGENT
        known = [(capacity, "agent seen in ten minutes") for capacity in seen]
        known += [(capacity, f"agent that can be asked for, of class {name},") for name, capacity in offered.items()]
        nearest, which = min(known, key=lambda one: (len(self._missing(one[0])), *_from_the_largest(one[0])))
        missing = self._told(nearest)
        needed = listed([f"{needed} of {kind}" for kind, needed, _ in missing])
        there = listed([there for _, _, there in missing])
        return f"needs at least {needed}; the largest {which} has {there}"

    def _told(self, capacity: Capacity) -> list[tuple[str, str, str]]:
        """What is missing, in words; to the byte where it would read the same otherwise."""
        told = []
        for kind, needed, there in self._missing(capacity):
            in_words = size if size(needed) != size(there) else "{:,} B".format
            told.append((kind, in_words(needed), in_words(there)))
        return told

    def _missing(self, capacity: Capacity) -> list[tuple[str, int, int]]:
        """The kinds that are too little, with what is needed and what is there."""
        host = self.host_bytes_beside_device if capacity.devices else self.host_bytes
        compared = [("memory", host, capacity.host_bytes), ("disk", self.disk_bytes, capacity.disk_bytes)]
        if capacity.devices and capacity.device_bytes:
            compared.insert(0, ("device memory", self.device_bytes, capacity.device_bytes))
        return [(kind, needed, there) for kind, needed, there in compared if needed > there]


def largest(capacities: Iterable[Capacity]) -> list[Capacity]:
    """Those that no other one covers: what fits any fits one of these, and what fits none lacks the same."""
    found: list[Capacity] = []
    for one in sorted(set(capacities), key=_from_the_largest):
        if not any(_covers(other, one) for other in found):
            found.append(one)
    return found


UNKNOWN = Needs()
"""The needs of jobs that an older release admitted: they fit anywhere."""


def _covers(one: Capacity, other: Capacity) -> bool:
    alike = bool(one.devices) == bool(other.devices) and bool(one.device_bytes) == bool(other.device_bytes)
    has = (one.device_bytes, one.host_bytes, one.disk_bytes)
    return alike and all(
        it >= its for it, its in zip(has, (other.device_bytes, other.host_bytes, other.disk_bytes), strict=True)
    )


def _from_the_largest(capacity: Capacity) -> tuple[int, ...]:
    return (-capacity.devices, -capacity.device_bytes, -capacity.host_bytes, -capacity.disk_bytes)
