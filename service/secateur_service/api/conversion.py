"""Translates between the protocol's messages and the service's own types, and nothing else.

A specification is passed on as plain data with only the fields that the caller set: defaults and rules belong to
`secateur_service.spec`. The protocol's enums are the service's own with a prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf import struct_pb2, timestamp_pb2
from google.protobuf.message import Message

from secateur.v1 import prune_job_pb2 as pb
from secateur.v1 import prune_service_pb2 as service_pb
from secateur_service.errors import FieldViolation, InvalidSpecError
from secateur_service.jobs.job import Estimate, Event, EventKind, Failure, Job, JobResult
from secateur_service.jobs.states import JobState
from secateur_service.models.support import Support
from secateur_service.records.decoding import decode
from secateur_service.records.progress import Progress, Stage
from secateur_service.records.result import Available
from secateur_service.spec import PruneSpec

NAME_PREFIX = "pruneJobs/"
# An entry takes many times its bytes once converted. The rules of a specification allow fewer, and say how many.
_MAX_ENTRIES = 1000
_STATE_PREFIX = "JOB_STATE_"
_STAGE_PREFIX = "JOB_STAGE_"
_BOUND_PREFIX = "BOUND_"


def job_name(job_id: str) -> str:
    """Resource name of a job."""
    return NAME_PREFIX + job_id


def spec_to_dict(message: pb.PruneSpec) -> dict[str, Any]:
    """A specification as plain data: only the fields that are set, numbers unchanged, NaN and infinity included.

    Raises:
        InvalidSpecError: a list has too many entries to be looked at.
    """
    return _set_fields(message)


def spec_from_dict(data: Mapping[str, Any]) -> pb.PruneSpec:
    """The inverse of `spec_to_dict`; leaves out fields without a value and fields that only a newer release has."""
    message = pb.PruneSpec()
    _fill(message, data)
    return message


def resolved_to_message(spec: PruneSpec) -> pb.PruneSpec:
    """A validated specification, with every default that was filled in."""
    return spec_from_dict(spec.model_dump(mode="json"))


def prefixed(violations: Iterable[FieldViolation]) -> list[FieldViolation]:
    """Violations with paths from the root of CreatePruneJobRequest instead of the specification's."""
    return [FieldViolation(f"spec.{violation.field}", violation.description) for violation in violations]


def state_to_enum(state: JobState) -> pb.JobState:
    """The protocol's value for a state."""
    return pb.JobState.Value(_STATE_PREFIX + state.value)


def state_from_enum(value: int) -> JobState | None:
    """The state for a protocol value; None if the value is unspecified or unknown."""
    return next((state for state in JobState if state_to_enum(state) == value), None)


def stage_to_enum(stage: Stage) -> pb.JobStage:
    """The protocol's value for a stage."""
    return pb.JobStage.Value(_STAGE_PREFIX + stage.value)


def timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    """A UTC time as a message."""
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time.astimezone(UTC))
    return message


def estimate_to_message(estimate: Estimate) -> pb.Estimate:
    """An estimate as a message."""
    return pb.Estimate(
        checkpoint_bytes=estimate.checkpoint_bytes,
        peak_host_bytes=estimate.peak_host_bytes,
        peak_device_bytes=estimate.peak_device_bytes,
        disk_bytes=estimate.disk_bytes,
        flops=estimate.flops,
        parameters=estimate.parameters,
        output_parameters=estimate.output_parameters,
        output_bytes=estimate.output_bytes,
        seconds=estimate.seconds,
        slot=None if estimate.slot is None else _slot_to_message(estimate.slot),
        warnings=estimate.warnings,
        bounds={name: pb.Bound.Value(_BOUND_PREFIX + bound.value) for name, bound in estimate.bounds.items()},
        growth_margin=estimate.growth_margin,
    )


def _slot_to_message(slot: Available) -> pb.Slot:
    return pb.Slot(host_bytes=slot.host_bytes, device_bytes=slot.device_bytes or 0, disk_bytes=slot.disk_bytes)


def progress_to_message(progress: Progress) -> pb.Progress:
    """A job's progress as a message."""
    return pb.Progress(
        blocks_done=progress.blocks_done,
        blocks_total=progress.blocks_total,
        fraction=progress.fraction,
        eta_seconds=progress.eta_seconds,
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
    )


def failure_to_message(failure: Failure) -> pb.Failure:
    """Why a job failed."""
    return pb.Failure(
        reason=failure.reason,
        message=failure.message,
        retryable=failure.retryable,
        details=dict(failure.details),
    )


def result_to_message(result: JobResult) -> pb.Result:
    """What a job produced."""
    return pb.Result(
        manifest_uri=result.manifest_uri,
        manifest_sha256=result.manifest_sha256,
        sparsity=result.sparsity,
        languages=[
            pb.LanguageResult(
                language=entry.language,
                dense_perplexity=entry.dense_perplexity,
                pruned_perplexity=entry.pruned_perplexity,
                dense_bits_per_byte=entry.dense_bits_per_byte,
                pruned_bits_per_byte=entry.pruned_bits_per_byte,
            )
            for entry in result.languages
        ],
        parameters=result.parameters,
        dense_parameters=result.dense_parameters,
    )


def support_to_message(found: Support) -> service_pb.Architecture:
    """What is known of an architecture."""
    return service_pb.Architecture(
        model_type=found.model_type,
        supported=bool(found.class_name),
        known=found.is_known,
        class_name=found.class_name,
        layers=found.layers,
        excluded_tensors=found.excluded,
        axes=found.axes,
        nearest=found.nearest,
        text_models=found.text_models,
        towers=found.towers,
        obstacles=found.obstacles,
        excepted=found.excepted,
    )


def job_to_message(job: Job) -> pb.PruneJob:
    """A job as the API shows it."""
    return pb.PruneJob(
        name=job_name(job.id),
        uid=job.uid,
        create_time=timestamp(job.create_time),
        start_time=timestamp(job.start_time) if job.start_time else None,
        end_time=timestamp(job.end_time) if job.end_time else None,
        spec=spec_from_dict(job.spec),
        resolved_spec=spec_from_dict(job.resolved),
        state=state_to_enum(job.state),
        stage=stage_to_enum(job.stage) if job.stage else pb.JOB_STAGE_UNSPECIFIED,
        progress=progress_to_message(job.progress) if job.progress else None,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        failure=failure_to_message(job.failure) if job.failure else None,
        estimate=estimate_to_message(job.estimate),
        result=result_to_message(job.result) if job.result else None,
        labels=dict(job.labels),
        last_sequence=job.last_sequence,
        retry_of=job_name(job.retry_of) if job.retry_of else "",
        waiting=job.waiting or "",
    )


def event_to_message(event: Event) -> pb.PruneJobEvent:
    """A stored event."""
    message = pb.PruneJobEvent(sequence=event.sequence, time=timestamp(event.time), attempt=event.attempt)
    body = event.body
    match event.kind:
        case EventKind.STATE:
            failure = failure_to_message(decode(Failure, body["failure"])) if body.get("failure") else None
            state = state_to_enum(JobState(body["state"]))
            message.state.CopyFrom(pb.StateChange(state=state, message=body.get("message", ""), failure=failure))
        case EventKind.STAGE:
            message.stage.CopyFrom(pb.StageChange(stage=stage_to_enum(Stage(body["stage"]))))
        case EventKind.PROGRESS:
            message.progress.CopyFrom(progress_to_message(decode(Progress, body)))
        case EventKind.BLOCK:
            message.block.CopyFrom(block_to_message(body))
        case EventKind.LOG:
            fields = to_struct(body.get("fields", {}))
            message.log.CopyFrom(pb.LogRecord(level=body["level"], message=body["message"], fields=fields))
    return message


def block_to_message(body: Mapping[str, Any]) -> pb.BlockPruned:
    """A finished block."""
    return pb.BlockPruned(
        index=body["index"], sparsity=body["sparsity"], seconds=body["seconds"], snr_db=body["snr_db"]
    )


def snapshot_message(job: Job, now: datetime) -> pb.PruneJobEvent:
    """The first message of a watch that does not resume."""
    return pb.PruneJobEvent(
        sequence=job.last_sequence, time=timestamp(now), attempt=job.attempt, snapshot=job_to_message(job)
    )


def heartbeat_message(sequence: int, now: datetime) -> pb.PruneJobEvent:
    """A heartbeat that covers the events up to `sequence`."""
    return pb.PruneJobEvent(sequence=sequence, time=timestamp(now), heartbeat=pb.Heartbeat())


def to_struct(data: Mapping[str, Any]) -> struct_pb2.Struct:
    """Plain JSON data as a Struct; numbers become doubles."""
    struct = struct_pb2.Struct()
    struct.update(data)
    return struct


def _set_fields(message: Message, path: str = "") -> dict[str, Any]:
    data: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.is_repeated and len(value) > _MAX_ENTRIES:
            problem = f"{len(value)} entries are too many; at most {_MAX_ENTRIES} are read"
            raise InvalidSpecError([FieldViolation(path + field.name, problem)])
        if field.message_type is None:
            data[field.name] = list(value) if field.is_repeated else value
        elif field.is_repeated:
            data[field.name] = [_set_fields(item, f"{path}{field.name}[].") for item in value]
        else:
            data[field.name] = _set_fields(value, f"{path}{field.name}.")
    return data


def _fill(message: Message, data: Mapping[str, Any]) -> None:
    for name, value in data.items():
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None or value is None:
            continue
        if field.message_type is None and not field.is_repeated:
            setattr(message, name, value)
        elif field.message_type is None:
            getattr(message, name).extend(value)
        elif not field.is_repeated:
            part = getattr(message, name)
            part.SetInParent()
            _fill(part, value)
        else:
            for item in value:
                _fill(getattr(message, name).add(), item)
