"""Which jobs several processes can run together, and how many of them do."""

from __future__ import annotations

from dataclasses import replace

from secateur_service.sizing.durations import Hardware
from secateur_service.spec import PruneSpec


def obstacle(*, on_device: bool) -> str | None:
    """Why jobs are run by one process each; None if it is not so.

    Args:
        on_device: whether an accelerator computes.
    """
    return "several processes compute on CPUs only" if on_device else None


def processes_of(spec: PruneSpec, allowed: int, default: int | None = None) -> int:
    """How many processes run a job together where it can be divided.

    Args:
        spec: says how many it asks for.
        allowed: the most that may.
        default: how many do if it says nothing; by default all of them.
    """
    return min(spec.execution.processes or default or allowed, allowed)


def hardware_for(hardware: Hardware, spec: PruneSpec, *, on_device: bool) -> Hardware:
    """What runs a job, out of what is there."""
    count = processes_of(spec, hardware.most_processes or hardware.processes, hardware.processes)
    divides = obstacle(on_device=on_device) is None
    return replace(hardware, processes=count if divides else 1)
