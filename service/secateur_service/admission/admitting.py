"""Admits a specification: the steps in order, and the resolved specification with every default filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from secateur_service.admission.access import AccessPolicy
from secateur_service.admission.review import LastModel, Review
from secateur_service.admission.room import check_processes, check_room, needs_of
from secateur_service.errors import FieldViolation, InvalidSpecError, ResourceError, TransientError, UnreachableError
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.records.needs import Needs
from secateur_service.records.result import Estimate
from secateur_service.sizing.continuations import default_continuations
from secateur_service.sizing.depth import SCORED_EVERY
from secateur_service.sizing.dividing import hardware_for
from secateur_service.sizing.estimate import estimate_cost
from secateur_service.sizing.reconstruction import HELD_OUT_EVERY
from secateur_service.sizing.sequences import least_sequences
from secateur_service.spec import (
    DEFAULT_TASK_LIMIT,
    TRAINED_PRESETS,
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    OutputSpec,
    PruneSpec,
    ShrinkSpec,
    parse_parts,
)


@dataclass(frozen=True)
class Admission:
    """A job that may run.

    Attributes:
        needs: what it needs of the agent that runs it.
        model_identity: equal for jobs whose models have the same bytes; see `Source.identity`.
    """

    resolved: PruneSpec
    estimate: Estimate
    needs: Needs
    model_identity: str


def admit(
    data: Mapping[str, Any],
    access: AccessPolicy,
    *,
    at: Callable[[str], None] = lambda _field: None,
    passed: str | None = None,
    last: LastModel | None = None,
) -> Admission:
    """Check a specification given as plain data.

    Args:
        data: the specification.
        access: what it may name.
        at: called with the field whose rules are about to be checked, before what it names is read.
        passed: the identity of a model that has already passed `MODEL_CHECKS`.
        last: state that a caller keeps between calls.

    Raises:
        InvalidSpecError: rules are broken; lists all of them.
        UnreachableError: what it names cannot be reached.
        TransientError, ResourceError: the store that the results go to cannot be reached, or is full.
    """
    parts, violations = parse_parts(data)
    review = Review(access, violations, at, passed, last or LastModel())
    model: ModelSpec | None = parts.get("model")
    calibration: CalibrationSpec | None = parts.get("calibration")
    evaluation: EvaluationSpec | None = parts.get("evaluation")
    shrink: ShrinkSpec | None = parts.get("shrink")
    try:
        checkpoint = review.model(model) if model else None
        if calibration:
            review.corpus("calibration", calibration.corpus, [entry.language for entry in calibration.languages])
        if evaluation and (evaluation.corpus or calibration):
            # An invalid mix has its own violation; its languages are not looked up a second time.
            mix = [entry.language for entry in calibration.languages] if calibration else []
            corpus = evaluation.corpus or (calibration.corpus if calibration else "")
            if evaluation.corpus or evaluation.languages:
                review.corpus("evaluation", corpus, evaluation.languages or mix)
        if evaluation and evaluation.tasks:
            review.tasks(evaluation)
        if shrink and checkpoint:
            review.shrinking(shrink, checkpoint)
        plan = review.plan(shrink.plan, checkpoint) if shrink and shrink.plan and checkpoint else None
    except TransientError as error:
        message = f"{review.place}: {error.message}"
        raise UnreachableError(message, reason=error.reason, metadata=error.metadata) from error
    if parts.get("pruning") and checkpoint:
        review.layers(parts["pruning"], checkpoint, shrink, plan)
    if shrink and shrink.budget and calibration:
        review.sequences(calibration, SCORED_EVERY, "a budget")
    if parts.get("reconstruction") and calibration:
        by_preset = parts.get("pruning") and parts["pruning"].preset in TRAINED_PRESETS
        purpose = f"reconstruction, which preset {parts['pruning'].preset} includes," if by_preset else "reconstruction"
        review.sequences(calibration, HELD_OUT_EVERY, purpose)
    length = review.sequence_length(calibration, evaluation, checkpoint)
    if calibration and evaluation:
        review.text(calibration, evaluation, length, least_sequences(shrink, parts.get("reconstruction")))
        review.weightless(calibration)
    if "output" in parts:
        try:
            review.destination(parts["output"])
        except (TransientError, ResourceError) as error:  # an outage, and no fault of the specification
            if not violations:
                message = f"output.destination: results cannot be written at the moment: {error.message}"
                raise type(error)(message, reason=error.reason, metadata=error.metadata) from error
    if violations:
        raise InvalidSpecError(violations)
    assert checkpoint is not None
    resolved = _resolve(review.pinned(PruneSpec(**parts)), length, checkpoint, access)
    hardware = hardware_for(access.hardware, resolved, on_device=access.on_device)
    estimate = estimate_cost(checkpoint, resolved, on_device=access.on_device, plan=plan, hardware=hardware)
    needs = needs_of(checkpoint, resolved, plan=plan)
    warnings = review.warnings
    if access.slots is not None:
        room = check_room(checkpoint, resolved, access.slots, plan=plan, on_device=access.on_device)
        if room.refused and not any(needs.fits(capacity) for capacity in access.elsewhere):
            raise InvalidSpecError(room.refused)
        estimate = replace(estimate, slot=room.slot)
        divided = check_processes(resolved, access.hardware.processes, on_device=access.on_device)
        warnings = [*warnings, *map(_only_elsewhere, room.refused), *room.warnings, *divided]
    estimate = replace(estimate, warnings=tuple(str(warning) for warning in warnings))
    return Admission(resolved, estimate, needs, review.model_identity)


def _only_elsewhere(refused: FieldViolation) -> FieldViolation:
    problem = refused.description.partition(";")[0]
    return FieldViolation(refused.field, f"not in a slot of this server: {problem}; an agent that has more takes it")


def _resolve(spec: PruneSpec, sequence_length: int, checkpoint: Checkpoint, access: AccessPolicy) -> PruneSpec:
    calibration = spec.calibration.resolved(sequence_length)
    continuations = spec.evaluation.continuations
    if continuations is None:
        continuations = default_continuations(checkpoint, on_device=access.on_device)
    evaluation = spec.evaluation.model_copy(
        update={
            "corpus": spec.evaluation.corpus or calibration.corpus,
            "text_field": spec.evaluation.text_field or calibration.text_field,
            "chat_template": _either(spec.evaluation.chat_template, calibration.chat_template),
            "enough_documents": spec.evaluation.resolved_enough_documents,
            "languages": spec.evaluation.languages or tuple(entry.language for entry in calibration.languages),
            "task_limit": (spec.evaluation.task_limit or DEFAULT_TASK_LIMIT) if spec.evaluation.tasks else None,
            "continuations": continuations,
        }
    )
    output = spec.output
    if output.destination is None and access.destinations:
        output = OutputSpec(destination=access.destinations[0])
    pruning = spec.pruning and spec.pruning.resolved(trained=spec.reconstruction is not None)
    return spec.model_copy(
        update={"calibration": calibration, "pruning": pruning, "evaluation": evaluation, "output": output}
    )


def _either(chosen: bool | None, otherwise: bool) -> bool:  # noqa: FBT001
    return otherwise if chosen is None else chosen
