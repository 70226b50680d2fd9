"""Turns the protocol's messages into the SDK's values, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf import struct_pb2, timestamp_pb2
from google.protobuf.message import Message

from secateur._artifact import Architecture, Artifact, CorpusPreset, ServiceInfo
from secateur._event import BlockEvent, Event, LogEvent, ProgressEvent, SnapshotEvent, StageEvent, StateEvent
from secateur._job import (
    Bound,
    Estimate,
    Failure,
    Job,
    JobStage,
    JobState,
    LanguageResult,
    Plan,
    Progress,
    PublishedResult,
    Slot,
)
from secateur._spec import spec_mapping
from secateur.v1 import prune_job_pb2 as pb
from secateur.v1 import prune_service_pb2 as service_pb

_STATE_PREFIX = "JOB_STATE_"
_STAGE_PREFIX = "JOB_STAGE_"
_BOUND_PREFIX = "BOUND_"
_LARGEST_EXACT_INTEGER = 2**53


def job_from(message: pb.PruneJob) -> Job:
    """A job."""
    return Job(
        name=message.name,
        uid=message.uid,
        state=_state(message.state),
        stage=_stage(message.stage),
        progress=_progress(message.progress) if message.HasField("progress") else None,
        attempt=message.attempt,
        max_attempts=message.max_attempts,
        failure=_failure(message.failure) if message.HasField("failure") else None,
        result=_result(message.result) if message.HasField("result") else None,
        estimate=_estimate(message.estimate) if message.HasField("estimate") else None,
        labels=dict(sorted(message.labels.items())),
        spec=spec_mapping(message.spec),
        resolved_spec=spec_mapping(message.resolved_spec),
        last_sequence=message.last_sequence,
        create_time=_time(message, "create_time"),
        start_time=_time(message, "start_time"),
        end_time=_time(message, "end_time"),
        retry_of=message.retry_of or None,
        waiting=message.waiting or None,
    )


def plan_from(message: pb.PruneJob) -> Plan:
    """The answer to a dry run."""
    return Plan(resolved_spec=spec_mapping(message.resolved_spec), estimate=_estimate(message.estimate))


def event_from(message: pb.PruneJobEvent) -> Event | None:
    """An event; None for a heartbeat, or for a newer service's kind of event that this SDK does not know."""
    common: dict[str, Any] = {
        "sequence": message.sequence,
        "time": message.time.ToDatetime(tzinfo=UTC),
        "attempt": message.attempt,
    }
    match message.WhichOneof("body"):
        case "snapshot":
            return SnapshotEvent(**common, job=job_from(message.snapshot))
        case "state":
            failure = _failure(message.state.failure) if message.state.HasField("failure") else None
            return StateEvent(
                **common, state=_state(message.state.state), message=message.state.message, failure=failure
            )
        case "stage":
            return StageEvent(**common, stage=_stage(message.stage.stage))
        case "progress":
            return ProgressEvent(**common, progress=_progress(message.progress))
        case "block":
            block = message.block
            return BlockEvent(
                **common,
                index=block.index,
                sparsity=block.sparsity,
                seconds=block.seconds,
                snr_db=dict(sorted(block.snr_db.items())),
            )
        case "log":
            log = message.log
            return LogEvent(**common, level=log.level, message=log.message, fields=plain_struct(log.fields))
        case _:
            return None


def artifact_from(message: service_pb.Artifact) -> Artifact:
    """A published file."""
    return Artifact(
        path=message.path,
        size_bytes=message.size_bytes,
        sha256=message.sha256,
        media_type=message.media_type,
        download_url=message.download_url,
        download_url_expire_time=_time(message, "download_url_expire_time"),
    )


def architecture_from(message: service_pb.Architecture) -> Architecture:
    """What a service knows of an architecture."""
    return Architecture(
        model_type=message.model_type,
        supported=message.supported,
        known=message.known,
        class_name=message.class_name,
        layers=tuple(message.layers),
        excluded_tensors=tuple(message.excluded_tensors),
        axes=tuple(message.axes),
        nearest=message.nearest,
        text_models=tuple(message.text_models),
        towers=tuple(message.towers),
        obstacles=tuple(message.obstacles),
        excepted=message.excepted,
    )


def info_from(message: service_pb.ServiceInfo) -> ServiceInfo:
    """What a service can do."""
    return ServiceInfo(
        version=message.version,
        methods=tuple(message.methods),
        updates=tuple(message.updates),
        orders=tuple(message.orders),
        policies=tuple(message.policies),
        allocations=tuple(message.allocations),
        architectures=tuple(message.architectures),
        devices=tuple(message.devices),
        file_roots=tuple(message.file_roots),
        destinations=tuple(message.destinations),
        max_request_bytes=message.max_request_bytes,
        presets=tuple(
            CorpusPreset(
                name=preset.name,
                title=preset.title,
                repository=preset.repository,
                license=preset.license,
                gated=preset.gated,
                verified=preset.verified,
                languages=tuple(preset.languages),
            )
            for preset in message.presets
        ),
    )


def state_value(state: JobState) -> pb.JobState:
    """The protocol's value for a state."""
    return pb.JobState.Value(_STATE_PREFIX + state.value)


def timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    """A point in time."""
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time.astimezone(UTC))
    return message


def plain_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """The plain data in a Struct.

    A Struct has only doubles, so whole numbers become integers again, and its fields have no order: keys are sorted.
    """
    return {name: _plain_value(value) for name, value in sorted(struct.fields.items())}


def _plain_value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return plain_struct(value.struct_value)
        case "list_value":
            return [_plain_value(item) for item in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= _LARGEST_EXACT_INTEGER else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _state(value: int) -> JobState:
    return JobState(_known(value, pb.JobState, _STATE_PREFIX))


def _stage(value: int) -> JobStage:
    return JobStage(_known(value, pb.JobStage, _STAGE_PREFIX))


def _known(value: int, kind: Any, prefix: str) -> str:
    names: Mapping[int, str] = kind.DESCRIPTOR.values_by_number
    return kind.Name(value if value in names else 0).removeprefix(prefix)


def _progress(message: pb.Progress) -> Progress:
    eta = message.eta_seconds if message.HasField("eta_seconds") else None
    blocks, fetched = (message.blocks_done, message.blocks_total), (message.bytes_done, message.bytes_total)
    return Progress(*blocks, message.fraction, eta, *fetched)


def _failure(message: pb.Failure) -> Failure:
    return Failure(message.reason, message.message, message.retryable, dict(sorted(message.details.items())))


def _estimate(message: pb.Estimate) -> Estimate:
    return Estimate(
        checkpoint_bytes=message.checkpoint_bytes,
        peak_host_bytes=message.peak_host_bytes,
        peak_device_bytes=message.peak_device_bytes,
        disk_bytes=message.disk_bytes,
        flops=message.flops,
        parameters=message.parameters,
        output_parameters=message.output_parameters,
        output_bytes=message.output_bytes,
        seconds=dict(sorted(message.seconds.items())),
        slot=_slot(message.slot) if message.HasField("slot") else None,
        warnings=tuple(message.warnings),
        bounds={name: Bound(_known(value, pb.Bound, _BOUND_PREFIX)) for name, value in sorted(message.bounds.items())},
        growth_margin=message.growth_margin,
    )


def _slot(message: pb.Slot) -> Slot:
    return Slot(host_bytes=message.host_bytes, device_bytes=message.device_bytes, disk_bytes=message.disk_bytes)


def _result(message: pb.Result) -> PublishedResult:
    languages = {
        entry.language: LanguageResult(
            language=entry.language,
            dense_perplexity=entry.dense_perplexity,
            pruned_perplexity=entry.pruned_perplexity,
            dense_bits_per_byte=entry.dense_bits_per_byte,
            pruned_bits_per_byte=entry.pruned_bits_per_byte,
        )
        for entry in message.languages
    }
    return PublishedResult(
        message.manifest_uri,
        message.manifest_sha256,
        message.sparsity,
        languages,
        message.parameters,
        message.dense_parameters,
    )


def _time(message: Message, field: str) -> datetime | None:
    return getattr(message, field).ToDatetime(tzinfo=UTC) if message.HasField(field) else None
