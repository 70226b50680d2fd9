"""Protocol messages and the service's own types."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from secateur.v1 import prune_job_pb2 as pb
from secateur_service.api import conversion
from secateur_service.jobs.job import Event, EventKind
from secateur_service.jobs.states import JobState
from secateur_service.records.progress import Stage
from secateur_service.spec import parse_spec
from support.jobs import SPEC

texts = st.text(max_size=8)
numbers = st.floats(allow_nan=True, allow_infinity=True)
specs = st.builds(
    pb.PruneSpec,
    model=st.none() | st.builds(pb.ModelSpec, uri=texts),
    calibration=st.none()
    | st.builds(
        pb.CalibrationSpec,
        corpus=texts,
        languages=st.lists(st.builds(pb.LanguageWeight, language=texts, weight=st.none() | numbers), max_size=3),
        samples=st.none() | st.integers(-5, 5),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        policy=st.none() | texts,
    ),
    pruning=st.none()
    | st.builds(
        pb.PruningSpec,
        sparsity=st.none() | numbers,
        pattern=st.none() | texts,
        allocation=st.none() | st.builds(pb.AllocationSpec, policy=st.none() | texts, span=st.none() | numbers),
        overrides=st.lists(st.builds(pb.LayerOverride, layers=texts, dense=st.none() | st.booleans()), max_size=3),
    ),
    evaluation=st.none()
    | st.builds(pb.EvaluationSpec, languages=st.lists(texts, max_size=3), layer_snr=st.none() | st.booleans()),
    execution=st.none() | st.builds(pb.ExecutionSpec, max_attempts=st.none() | st.integers(0, 9)),
)


@given(specs)
def test_a_specification_survives_the_way_to_plain_data_and_back(message: pb.PruneSpec):
    back = conversion.spec_from_dict(conversion.spec_to_dict(message))
    assert back.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


def test_only_set_fields_are_passed_on_and_zero_is_not_unset():
    message = pb.PruneSpec(calibration=pb.CalibrationSpec(samples=0), pruning=pb.PruningSpec(sparsity=math.nan))
    data = conversion.spec_to_dict(message)
    assert data["calibration"] == {"samples": 0}
    assert math.isnan(data["pruning"].pop("sparsity"))
    assert data["pruning"] == {}
    assert "model" not in data


def test_a_resolved_specification_shows_every_default():
    overrides = [{"layers": "*", "dense": True}]
    pruning = {**SPEC["pruning"], "allocation": {"policy": "owl"}, "overrides": overrides}
    spec = parse_spec({**SPEC, "pruning": pruning, "execution": {}})
    message = conversion.resolved_to_message(spec.model_copy(update={"pruning": spec.pruning.resolved()}))
    assert message.pruning.HasField("order")
    assert message.pruning.group == "row"
    assert message.pruning.allocation.span == 0.08
    assert message.pruning.overrides[0].dense
    assert not message.pruning.overrides[0].HasField("sparsity")
    assert message.evaluation.layer_snr
    assert message.calibration.policy == "weights"
    assert message.calibration.languages[0].weight == 0.75
    assert message.execution.max_attempts == 3
    assert not message.pruning.HasField("pattern")


@pytest.mark.parametrize("state", JobState)
def test_every_state_has_its_value_in_the_protocol_and_back(state: JobState):
    assert conversion.state_from_enum(conversion.state_to_enum(state)) is state


def test_the_protocol_has_no_state_or_stage_that_the_service_has_not():
    assert len(pb.JobState.values()) == len(JobState) + 1
    assert {conversion.stage_to_enum(stage) for stage in Stage} == set(pb.JobStage.values()) - {0}
    assert conversion.state_from_enum(0) is None
    assert conversion.state_from_enum(99) is None


def _event(kind: EventKind, body: dict) -> pb.PruneJobEvent:
    time = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    return conversion.event_to_message(Event("j", 7, time, 2, kind, body))


def test_every_kind_of_event_has_its_body():
    failure = {"reason": "LEASE_EXPIRED", "message": "gone", "retryable": True, "details": {"a": "b"}}
    state = _event(EventKind.STATE, {"state": "QUEUED", "message": "again", "failure": failure})
    assert (state.sequence, state.attempt) == (7, 2)
    assert state.time.ToDatetime(tzinfo=UTC).microsecond == 678000
    assert (state.state.state, state.state.failure.reason) == (pb.JOB_STATE_QUEUED, "LEASE_EXPIRED")
    assert not _event(EventKind.STATE, {"state": "QUEUED", "message": "x"}).state.HasField("failure")
    progress = _event(EventKind.PROGRESS, {"blocks_done": 1, "blocks_total": 2, "fraction": 0.5, "eta_seconds": 0.0})
    assert progress.progress.HasField("eta_seconds")
    fetched = {"blocks_done": 0, "blocks_total": 2, "fraction": 0.0, "bytes_done": 3 * 2**40, "bytes_total": 2**42}
    message = _event(EventKind.PROGRESS, fetched).progress
    assert (message.bytes_done, message.bytes_total) == (3 * 2**40, 2**42)
    log = _event(EventKind.LOG, {"level": "info", "message": "m", "fields": {"n": None, "deep": {"x": [1, "a"]}}})
    assert log.log.fields["deep"]["x"][1] == "a"
    bodies = {_event(kind, body).WhichOneof("body") for kind, body in _BODIES.items()}
    assert bodies == {kind.value for kind in EventKind}


_BODIES = {
    EventKind.STATE: {"state": "RUNNING", "message": ""},
    EventKind.STAGE: {"stage": "PACKAGING"},
    EventKind.PROGRESS: {"blocks_done": 0, "blocks_total": 2, "fraction": 0.0},
    EventKind.BLOCK: {"index": 0, "sparsity": 0.5, "seconds": 1.0, "snr_db": {"de": math.inf}},
    EventKind.LOG: {"level": "info", "message": ""},
}


def _paths(descriptor, prefix: str = "") -> set[str]:
    paths = set()
    for field in descriptor.fields:
        paths.add(prefix + field.name)
        if field.message_type is not None:
            paths |= _paths(field.message_type, f"{prefix}{field.name}.")
    return paths


def _model_paths(model, prefix: str = "") -> set[str]:
    paths = set()
    for name, field in model.model_fields.items():
        paths.add(prefix + name)
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(kind, "model_fields"):
                paths |= _model_paths(kind, f"{prefix}{name}.")
    return paths


def test_protocol_and_validator_know_the_same_fields_of_a_specification():
    from secateur_service.spec import PruneSpec

    assert _paths(pb.PruneSpec.DESCRIPTOR) == _model_paths(PruneSpec)


def test_messages_are_plain_protobuf():
    assert isinstance(conversion.heartbeat_message(3, datetime.now(UTC)), Message)
