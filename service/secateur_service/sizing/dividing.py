"""Which jobs several processes can run together, and how many of them do."""

from __future__ import annotations

from dataclasses import replace

from secateur_service.models.checkpoint import Checkpoint
from secateur_service.sizing.durations import Hardware
from secateur_service.spec import PruneSpec


def obstacle(checkpoint: Checkpoint, *, on_device: bool, shrinks: bool, trains: bool, neurons: bool) -> str | None:
    """Why a job can be run by one process only; None if it is not so.

    Args:
        checkpoint: the model.
        on_device: whether an accelerator computes.
        shrinks: whether the output lacks parts of the dense model.
        trains: whether blocks are trained.
        neurons: whether the neurons of languages are looked for.
    """
    if on_device:
        return "several processes compute on CPUs only"
    if shrinks:
        return "the model becomes smaller"
    if trains:
        return "blocks are trained"
    if neurons:
        return "the neurons of languages are looked for"
    groups = (group for index in range(checkpoint.num_blocks) for group in checkpoint.inputs(index))
    if any(checkpoint.expert_of(name) is not None for group in groups for name in group):
        return "the model is a mixture of experts"
    return None


def obstacle_of(checkpoint: Checkpoint, spec: PruneSpec, *, on_device: bool) -> str | None:
    """The same for a specification, before its job runs."""
    return obstacle(
        checkpoint,
        on_device=on_device,
        shrinks=spec.shrink is not None,
        trains=spec.reconstruction is not None,
        neurons=spec.evaluation.language_neurons,
    )


def processes_of(spec: PruneSpec, allowed: int, default: int | None = None) -> int:
    """How many processes run a job together where it can be divided.

    Args:
        spec: says how many it asks for.
        allowed: the most that may.
        default: how many do if it says nothing; by default all of them.
    """
    return min(spec.execution.processes or default or allowed, allowed)


def hardware_for(hardware: Hardware, checkpoint: Checkpoint, spec: PruneSpec, *, on_device: bool) -> Hardware:
    """What runs a job, out of what is there."""
    count = processes_of(spec, hardware.most_processes or hardware.processes, hardware.processes)
    divides = obstacle_of(checkpoint, spec, on_device=on_device) is None
    return replace(hardware, processes=count if divides else 1)
