"""Whether a job fits into a slot of this machine, and what it needs of any.

Only what certainly cannot run is refused: what would not fit into an empty machine, with everything saved that a worker
can save, and a margin for the estimate. All else is a warning; continuations of texts, which workers skip where the
whole model does not fit, are never a reason to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from secateur._text import size
from secateur_service.destination import parse_destination
from secateur_service.errors import FieldViolation, ResourceError
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.plan_file import PlanFile
from secateur_service.records.needs import Needs
from secateur_service.records.result import Available, Estimate, Shortage
from secateur_service.sizing.dividing import obstacle
from secateur_service.sizing.estimate import estimate_cost
from secateur_service.sizing.preflight import find_room, least_memory
from secateur_service.sizing.slots import Slots, free_bytes
from secateur_service.spec import PruneSpec

_KINDS = {Shortage.HOST: "memory", Shortage.DEVICE: "device memory"}


@dataclass
class Room:
    """What was found.

    Attributes:
        slot: what a slot has at the moment.
        refused: why the job cannot run here.
        warnings: what may happen to it.
    """

    slot: Available
    refused: list[FieldViolation] = field(default_factory=list)
    warnings: list[FieldViolation] = field(default_factory=list)


def check_room(
    checkpoint: Checkpoint, spec: PruneSpec, slots: Slots, *, plan: PlanFile | None, on_device: bool
) -> Room:
    """Compare what a job is expected to need with what a slot has.

    Args:
        checkpoint: the model.
        spec: the resolved specification.
        slots: those of this machine.
        plan: that of another job, if the specification names it.
        on_device: whether jobs compute on an accelerator.
    """
    room = Room(slots.now())
    cost = partial(_cost, checkpoint, plan=plan, on_device=on_device)
    empty = slots.empty()
    fit = partial(_problem, cost=cost, there=empty, on_device=on_device)
    problem = fit(_silent(spec))
    if problem is not None:
        room.refused.append(_refusal(spec, problem, fit))
        return room
    room.warnings += _shortages(spec, cost, room.slot, on_device=on_device)
    room.warnings += _disk(checkpoint, spec, cost(spec, ()), room.slot)
    return room


def needs_of(checkpoint: Checkpoint, spec: PruneSpec, *, plan: PlanFile | None) -> Needs:
    """What a job needs of the slot that it runs in, on a CPU or on an accelerator; whatever has less, refuses it.

    Memory is that of the job that saves all it can, disk that of the job that saves none: what it saves may wait there.

    Args:
        checkpoint: the model.
        spec: the resolved specification.
        plan: that of another job, if the specification names it.
    """
    quiet = _silent(spec)
    on_cpu, on_device = (partial(_cost, checkpoint, quiet, plan=plan, on_device=it) for it in (False, True))
    saving = frozenset(Shortage)
    beside = on_device(saving)
    return Needs(
        host_bytes=least_memory(on_cpu(saving).peak_host_bytes),
        disk_bytes=min(on_cpu(()).disk_bytes, on_device(()).disk_bytes),
        device_bytes=least_memory(beside.peak_device_bytes),
        host_bytes_beside_device=least_memory(beside.peak_host_bytes),
    )


def check_processes(spec: PruneSpec, allowed: int, *, on_device: bool) -> list[FieldViolation]:
    """Warn where a job gets fewer processes than it asks for: it ends with the same bytes, but later.

    Args:
        spec: the specification.
        allowed: the most that the operator lets run one job.
        on_device: whether jobs compute on an accelerator.
    """
    asked, field = spec.execution.processes or 1, "execution.processes"
    if asked == 1:
        return []
    hindered = obstacle(on_device=on_device)
    if hindered:
        return [FieldViolation(field, f"the job runs as one process: {hindered}; leave it out")]
    if asked > allowed:
        problem = f"a job runs in {allowed} at most here (SECATEUR_PROCESSES_PER_WORKER), and so will this one"
        return [FieldViolation(field, f"{problem}, instead of {asked}")]
    return []


def _cost(
    checkpoint: Checkpoint, spec: PruneSpec, shortages: Collection[Shortage], *, plan: PlanFile | None, on_device: bool
) -> Estimate:
    return estimate_cost(checkpoint, spec, on_device=on_device, shortages=shortages, plan=plan)


_Cost = Callable[[PruneSpec, Collection[Shortage]], Estimate]


def _problem(spec: PruneSpec, *, cost: _Cost, there: Available, on_device: bool) -> ResourceError | None:
    """Why a job does not fit; None if it does."""
    try:
        find_room(partial(cost, spec), there, on_device=on_device)
    except ResourceError as error:
        return error
    return None


def _refusal(
    spec: PruneSpec, problem: ResourceError, fit: Callable[[PruneSpec], ResourceError | None]
) -> FieldViolation:
    """Name the field whose value is too large, and the largest that fits; the model if none of them would."""
    languages, length = len(spec.calibration.languages), spec.calibration.sequence_length or 1
    found = problem.message.partition(";")[0]

    def with_samples(each: int) -> PruneSpec:
        calibration = spec.calibration.model_copy(update={"samples": each * languages})
        return _silent(spec.model_copy(update={"calibration": calibration}))

    def with_windows(count: int) -> PruneSpec:
        evaluation = spec.evaluation.model_copy(update={"tokens_per_language": count * length})
        return _silent(spec.model_copy(update={"evaluation": evaluation}))

    each = _largest(spec.calibration.samples_per_language, lambda count: fit(with_samples(count)) is None)
    if each:
        return FieldViolation("calibration.samples", f"{found}; use at most {each * languages}, or shorter sequences")
    windows = spec.evaluation.tokens_per_language // length
    count = _largest(windows, lambda count: fit(with_windows(count)) is None)
    if count:
        return FieldViolation("evaluation.tokens_per_language", f"{found}; use at most {count * length}")
    return FieldViolation(
        "model.uri", f"{found}, however little text there is; choose a smaller model or a larger machine"
    )


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, if smaller ones do too; 0 if not even 1 does."""
    if most < 1 or not fits(1):
        return 0
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _silent(spec: PruneSpec) -> PruneSpec:
    """The same without continuations."""
    return spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"continuations": 0})})


def _shortages(spec: PruneSpec, cost: _Cost, there: Available, *, on_device: bool) -> list[FieldViolation]:
    """What a worker saves, and what it leaves out, to fit."""
    roomy = replace(there, disk_bytes=2**63)
    saved = find_room(partial(cost, _silent(spec)), roomy, on_device=on_device)
    warnings = []
    if saved:
        kinds = " and ".join(
            {Shortage.HOST: "memory", Shortage.DEVICE: "device memory"}[kind] for kind in sorted(saved)
        )
        problem = f"{kinds} may not suffice: hidden states then wait elsewhere between two blocks, which takes longer"
        warnings.append(FieldViolation("calibration.samples", f"{problem}; fewer need less"))
    if spec.evaluation.continuations:
        try:
            continues = find_room(partial(cost, spec), roomy, on_device=on_device, shortages=saved) == saved
        except ResourceError:
            continues = False
        if not continues:
            problem = "the whole model does not fit in memory, so no texts will be continued"
            warnings.append(FieldViolation("evaluation.continuations", problem))
    return warnings


def _disk(checkpoint: Checkpoint, spec: PruneSpec, cost: Estimate, there: Available) -> list[FieldViolation]:
    """Where disks are too full at the moment: for the work, for the model if it is fetched, for the result."""
    warnings = []
    free = there.disk_bytes
    if cost.disk_bytes > free:
        problem = f"the work needs {size(cost.disk_bytes)} of disk, and {size(free)} are free"
        warnings.append(FieldViolation("model.uri", f"{problem}; the job fails unless there is more when it starts"))
    if not spec.model.uri.startswith("file:") and checkpoint.size_bytes > free:
        problem = f"the checkpoint is larger ({size(checkpoint.size_bytes)}) than the free disk ({size(free)})"
        how = "it is fetched a few shards at a time, and a part of it more than once"
        warnings.append(FieldViolation("model.uri", f"{problem}: {how}"))
    place = parse_destination(spec.output.destination) if spec.output.destination else None
    if isinstance(place, Path) and cost.output_bytes > (left := free_bytes(place)):
        problem = f"the result has up to {size(cost.output_bytes)}, and {size(left)} are free there"
        warnings.append(FieldViolation("output.destination", problem))
    return warnings
