"""What a newer release writes is read by this one: no field, event or stage of its own hides a job."""

import json

import pytest
from sqlalchemy import select, update

from secateur.v1 import prune_job_pb2 as pb
from secateur_service.api.conversion import event_to_message, job_to_message
from secateur_service.jobs.job import EventKind, Failure
from secateur_service.jobs.schema import blocks, events, jobs
from secateur_service.jobs.states import JobState
from secateur_service.spec import SPEC_FORMAT
from support.jobs import block, new_job, result

NEW = {"of_a_newer_release": {"a": [1]}}


def rewrite(store, table, where, **values):
    with store._database.writer.begin() as connection:
        assert connection.execute(update(table).where(where).values(values)).rowcount == 1


def rows(store, table):
    with store._database.reader.begin() as connection:
        return connection.execute(select(table)).mappings().all()


def newer(data):
    """The same with an unknown field in every object; what has names of its own (`seconds`) is none."""
    if isinstance(data, list):
        return [newer(item) for item in data]
    return (
        {**{name: value if name == "seconds" else newer(value) for name, value in data.items()}, **NEW}
        if isinstance(data, dict)
        else data
    )


@pytest.fixture
def job_id(store):
    """A job with every kind of event and a result."""
    job_id = store.create(new_job()).id
    store.claim(owner="test", lease_seconds=60)
    store.append(
        job_id,
        1,
        [
            (EventKind.STAGE, {"stage": "PRUNING"}),
            (EventKind.PROGRESS, {"blocks_done": 1, "blocks_total": 2, "fraction": 0.5}),
            (EventKind.LOG, {"level": "info", "message": "hello", "fields": {}}),
        ],
    )
    store.record_block(job_id, 1, block(0))
    store.release(job_id, 1, Failure("NETWORK", "gone", retryable=True))
    store.claim(owner="test", lease_seconds=60)
    store.succeed(job_id, 2, result())
    return job_id


def test_fields_that_this_release_does_not_know_are_left_out(store, job_id):
    before = store.get(job_id)
    [ledger], history = (
        store.blocks(job_id),
        [event_to_message(event) for event in store.events(job_id, after=0, limit=50)],
    )
    [row] = rows(store, jobs)
    estimate, progress, outcome = (newer(row[name]) for name in ("estimate", "progress", "result"))
    failure = {"reason": "A", "message": "b", "retryable": True, "details": {}, **NEW}
    rewrite(
        store, jobs, jobs.c.id == job_id, estimate=estimate, progress=progress, result=outcome, failure=failure,
        resolved={**row["resolved"], **NEW, "pruning": {**row["resolved"]["pruning"], **NEW}},
        spec={**row["spec"], **NEW}, short_of=["host", "network"],
    )  # fmt: skip
    for event in rows(store, events):
        body = event["body"] if event["kind"] == "log" else {**event["body"], **NEW}
        if "failure" in body:
            body["failure"] = {**body["failure"], **NEW}
        rewrite(store, events, events.c.position == event["position"], body=body)
    record = {**rows(store, blocks)[0]["record"], **NEW}
    rewrite(store, blocks, blocks.c.job_id == job_id, record={**record, "layers": [{**record["layers"][0], **NEW}]})
    after = store.get(job_id)
    assert (after.estimate, after.progress, after.result) == (before.estimate, before.progress, before.result)
    assert (after.failure, after.shortages) == (Failure("A", "b", retryable=True), frozenset({"host"}))
    shown, shown_before = job_to_message(after), job_to_message(before)
    assert (shown.spec, shown.resolved_spec) == (shown_before.spec, shown_before.resolved_spec)
    assert store.blocks(job_id) == [ledger]
    assert [event_to_message(event) for event in store.events(job_id, after=0, limit=50)] == history


def test_events_that_only_a_newer_release_knows_are_lines_of_the_log_without_a_gap(store, job_id):
    rewrite(store, events, (events.c.job_id == job_id) & (events.c.sequence == 3), body={"stage": "POLISHING"})
    rewrite(store, events, (events.c.job_id == job_id) & (events.c.sequence == 4), kind="trace", body={"span": "ab"})
    found = store.events(job_id, after=0, limit=50)
    assert [event.sequence for event in found] == list(range(1, len(found) + 1))
    for event, message, fields in (
        (found[2], "stage, an event of a newer release", {"stage": "POLISHING"}),
        (found[3], "trace, an event of a newer release", {"span": "ab"}),
    ):
        log = event_to_message(event).log
        assert (log.level, log.message, dict(log.fields)) == ("info", message, fields)
    assert store.events_since(0, limit=50)[0] == found


def test_an_unknown_stage_of_a_job_is_shown_as_none(store):
    job_id = store.create(new_job()).id
    rewrite(store, jobs, jobs.c.id == job_id, stage="POLISHING")
    assert job_to_message(store.get(job_id)).stage == pb.JOB_STAGE_UNSPECIFIED


def test_a_job_in_a_newer_format_waits_for_a_replica_that_knows_it_and_holds_up_nobody(store):
    newer_job, job = store.create(new_job()), store.create(new_job())
    rewrite(store, jobs, jobs.c.id == newer_job.id, spec_format=SPEC_FORMAT + 1, not_before=0)
    assert store.claim(owner="test", lease_seconds=60).id == job.id
    assert store.claim(owner="test", lease_seconds=60) is None
    assert store.oldest_queued_age_seconds() > 1e9
    assert store.get(newer_job.id).spec_format == SPEC_FORMAT + 1
    assert store.request_cancel(newer_job.id).state is JobState.CANCELLED


def test_a_release_before_the_format_was_told_apart_wrote_the_first_one(store):
    store.migrate(back_to="0004")
    with store._database.writer.begin() as connection:
        row = {"id": "a", "uid": "b", "spec": "{}", "resolved": json.dumps({"output": {"destination": None}})}
        row |= {"labels": "{}", "state": "CANCELLED", "attempt": 0, "charged_attempts": 0, "uncharged_attempts": 0}
        row |= {"max_attempts": 1, "not_before": 0, "last_sequence": 0, "create_time": 0}
        row["estimate"] = json.dumps(
            {"checkpoint_bytes": 1, "peak_host_bytes": 1, "peak_device_bytes": 1, "disk_bytes": 1, "flops": 1}
        )
        values = ", ".join(repr(value) for value in row.values())
        connection.exec_driver_sql(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({values})")
    store.migrate()
    assert store.get("a").spec_format == 1
    assert store.get("a").destination is None
