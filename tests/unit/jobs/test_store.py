"""The store in one process; what several processes do to it is tests/integration/test_store_processes.py."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from secateur_service.errors import (
    CancelledError,
    FencedError,
    NotFoundError,
    NotReadyError,
    RequestIdReusedError,
)
from secateur_service.jobs.events import MAX_LOG_BYTES
from secateur_service.jobs.job import EventKind, Failure, Shortage
from secateur_service.jobs.locked_job import MAX_UNCHARGED_ATTEMPTS
from secateur_service.jobs.states import JobState
from secateur_service.records.progress import Progress, Stage
from secateur_service.spec import PruneSpec
from support.clock import let_pass
from support.jobs import SPEC, block, new_job, result
from support.waiting import HANG_SECONDS

TRANSIENT = Failure(reason="NETWORK", message="the network is gone", retryable=True, details={"host": "a"})
PERMANENT = Failure(reason="BAD_MODEL", message="the model is bad", retryable=False)
LEASE = 600


def claim(store, *, lease_seconds=LEASE):
    return store.claim(owner="test", lease_seconds=lease_seconds)


def begin(store):
    """Claim a job, whose worker sends its first heartbeat."""
    job = claim(store)
    store.heartbeat(job.id, job.attempt, lease_seconds=LEASE)
    return job


def running(store, **kwargs):
    store.create(new_job(**kwargs))
    return claim(store)


def bodies(store, job_id, kind):
    return [event.body for event in store.events(job_id, after=0, limit=1000) if event.kind is kind]


def states(store, job_id):
    return [body["state"] for body in bodies(store, job_id, EventKind.STATE)]


def test_a_created_job_is_queued_with_its_first_event_and_reads_back_as_it_was_given(store):
    given = new_job(labels={"team": "a"}, max_attempts=7)
    created = store.create(given)
    assert created == store.get(given.id)
    assert (created.id, created.uid, created.spec) == (given.id, given.uid, SPEC)
    assert PruneSpec.model_validate(created.resolved) == given.resolved
    assert (created.labels, created.estimate) == ({"team": "a"}, given.estimate)
    assert (created.state, created.attempt, created.max_attempts) == (JobState.QUEUED, 0, 7)
    [event] = store.events(given.id, after=0, limit=10)
    assert (event.sequence, event.attempt, event.kind) == (1, 0, EventKind.STATE)
    assert event.body["state"] == "QUEUED"
    assert created.last_sequence == 1
    assert event.time == created.create_time


def test_times_are_the_databases_in_utc_with_millisecond_precision(store):
    before = datetime.now(UTC) - timedelta(milliseconds=2)
    times = [store.create(new_job()).create_time for _ in range(20)]
    assert all(before <= time <= datetime.now(UTC) + timedelta(milliseconds=2) for time in times)
    assert any(time.microsecond % 10_000 for time in times)


def test_a_missing_job_is_not_found(store):
    for call in (store.get, store.request_cancel):
        with pytest.raises(NotFoundError, match="no job absent"):
            call("absent")


def test_a_known_request_id_returns_the_first_job_and_refuses_another_request(store):
    first = store.create(new_job(request_id="r", request_digest="d"))
    assert store.create(new_job(request_id="r", request_digest="d")) == first
    with pytest.raises(RequestIdReusedError):
        store.create(new_job(request_id="r", request_digest="other"))
    assert len(store.list_jobs(limit=10)[0]) == 1


def test_the_job_of_a_request_is_found_by_its_id_and_digest(store):
    assert store.find_request("r", "d") is None
    first = store.create(new_job(request_id="r", request_digest="d"))
    assert store.find_request("r", "d") == first
    with pytest.raises(RequestIdReusedError):
        store.find_request("r", "other")


def test_text_that_no_message_can_carry_is_stored_as_text_that_one_can(store):
    job = running(store)
    store.append(job.id, 1, [(EventKind.LOG, {"level": "info", "message": "a", "fields": {"file": "d\udce9"}})])
    ended = store.release(job.id, 1, Failure("BAD_MODEL", "no tensor in caf\udce9 é", retryable=False))
    assert store.get(ended.id).failure.message == "no tensor in caf? é"
    assert bodies(store, job.id, EventKind.LOG)[0]["fields"] == {"file": "d?"}


def test_the_newest_jobs_of_a_model_that_have_a_report_are_found(store):
    def ended(digest, **details):
        job = running(store)
        if details:
            store.release(job.id, 1, Failure("LIMIT_EXCEEDED", "too much", retryable=False, details=details))
        else:
            store.succeed(job.id, 1, replace(result(), model_digest=digest))
        return job.id

    first, other, second = ended("aa"), ended("bb"), ended("aa")
    exceeded = ended("", model_digest="aa", manifest_sha256="cc")
    running(store)
    ended("")
    found, left_out = store.jobs_of_models(["aa"], except_for=[first], limit=5)
    assert ([job.id for job in found], left_out) == ([exceeded, second], 0)
    found, left_out = store.jobs_of_models(["aa", "bb"], except_for=[], limit=2)
    assert ([job.id for job in found], left_out) == ([exceeded, second], 2)
    assert store.jobs_of_models(["bb"], except_for=[other], limit=5) == ([], 0)


def test_claims_take_the_oldest_job_first_and_each_job_once(store):
    created = [store.create(new_job()).id for _ in range(3)]
    claimed = [claim(store) for _ in range(3)]
    assert [job.id for job in claimed] == created
    assert all(job.state is JobState.RUNNING and job.attempt == 1 and job.start_time for job in claimed)
    assert claim(store) is None


def test_a_released_job_is_not_claimed_before_its_time_and_then_with_the_next_attempt(store):
    job = running(store)
    store.release(job.id, 1, TRANSIENT, delay_seconds=7200)
    let_pass(store, 3600)
    assert claim(store) is None
    assert store.oldest_queued_age_seconds() == 0
    let_pass(store, 3600)
    again = claim(store)
    assert again.attempt == 2
    assert again.start_time == job.start_time - timedelta(hours=2)


def test_a_job_fails_with_the_last_reason_when_its_charged_attempts_are_used_up(store):
    store.create(new_job(max_attempts=2))
    for attempt in (1, 2):
        job = claim(store)
        ended = store.release(job.id, attempt, TRANSIENT)
    assert (ended.state, ended.charged_attempts, ended.failure) == (JobState.FAILED, 2, TRANSIENT)
    assert ended.end_time is not None
    assert states(store, job.id) == ["QUEUED", "RUNNING", "QUEUED", "RUNNING", "FAILED"]
    assert bodies(store, job.id, EventKind.STATE)[2]["failure"]["reason"] == "NETWORK"
    assert claim(store) is None


def test_a_failure_that_is_not_retryable_ends_the_job_at_once(store):
    job = running(store)
    assert store.release(job.id, 1, PERMANENT).state is JobState.FAILED
    assert store.get(job.id).failure == PERMANENT


def test_preemptions_are_free_up_to_a_cap_and_charged_beyond_it(store):
    store.create(new_job(max_attempts=1))
    for attempt in range(1, MAX_UNCHARGED_ATTEMPTS + 1):
        job = claim(store)
        job = store.release(job.id, attempt, TRANSIENT, charged=False)
        assert (job.state, job.charged_attempts) == (JobState.QUEUED, 0)
    claim(store)
    assert store.release(job.id, MAX_UNCHARGED_ATTEMPTS + 1, TRANSIENT, charged=False).state is JobState.FAILED


def test_every_write_of_a_superseded_attempt_is_fenced_and_changes_nothing(store):
    job = running(store)
    store.release(job.id, 1, TRANSIENT)
    claim(store)
    before = (store.get(job.id), store.position(), store.blocks(job.id))
    writes = [
        lambda: store.heartbeat(job.id, 1, lease_seconds=30),
        lambda: store.append(job.id, 1, [(EventKind.STAGE, {"stage": "PRUNING"})]),
        lambda: store.record_block(job.id, 1, block(0)),
        lambda: store.commit_manifest(job.id, 1, "a" * 64),
        lambda: store.succeed(job.id, 1, result()),
        lambda: store.cancelled(job.id, 1),
        lambda: store.release(job.id, 1, TRANSIENT),
        lambda: store.heartbeat(job.id, 3, lease_seconds=30),
        lambda: store.heartbeat("absent", 1, lease_seconds=30),
    ]
    for write in writes:
        with pytest.raises(FencedError):
            write()
    assert (store.get(job.id), store.position(), store.blocks(job.id)) == before


def test_an_attempt_that_ended_the_job_owns_it_no_longer(store):
    job = running(store)
    store.succeed(job.id, 1, result())
    with pytest.raises(FencedError):
        store.append(job.id, 1, [(EventKind.LOG, {"level": "info", "message": "late", "fields": {}})])


def test_a_queued_job_is_cancelled_at_once_and_a_running_one_when_its_worker_has_stopped(store):
    queued = store.create(new_job())
    assert store.request_cancel(queued.id).state is JobState.CANCELLED
    job = running(store)
    assert not store.heartbeat(job.id, 1, lease_seconds=30).cancel_requested
    assert store.request_cancel(job.id).state is JobState.CANCELLING
    assert store.request_cancel(job.id).state is JobState.CANCELLING
    assert store.heartbeat(job.id, 1, lease_seconds=30).cancel_requested
    store.cancelled(job.id, 1)
    assert store.request_cancel(job.id).state is JobState.CANCELLED
    assert states(store, job.id) == ["QUEUED", "RUNNING", "CANCELLING", "CANCELLED"]


def test_a_running_job_whose_cancellation_nobody_asked_for_cannot_be_cancelled_by_its_worker(store):
    job = running(store)
    with pytest.raises(NotReadyError, match="RUNNING and cannot become CANCELLED"):
        store.cancelled(job.id, 1)
    assert store.get(job.id).state is JobState.RUNNING


@pytest.mark.parametrize("failure", [TRANSIENT, PERMANENT])
def test_a_cancelling_job_that_fails_is_cancelled(store, failure):
    job = running(store)
    store.request_cancel(job.id)
    assert store.release(job.id, 1, failure).state is JobState.CANCELLED


def test_a_cancellation_after_the_manifest_was_committed_changes_nothing(store):
    job = running(store)
    assert store.commit_manifest(job.id, 1, "a" * 64) == "a" * 64
    assert store.request_cancel(job.id).state is JobState.RUNNING
    store.release(job.id, 1, TRANSIENT)
    assert store.request_cancel(job.id).state is JobState.QUEUED
    claim(store)
    store.succeed(job.id, 2, result())
    assert store.get(job.id).state is JobState.SUCCEEDED


def test_a_cancellation_before_the_commit_stops_the_publication(store):
    job = running(store)
    store.request_cancel(job.id)
    with pytest.raises(CancelledError):
        store.commit_manifest(job.id, 1, "a" * 64)
    with pytest.raises(NotReadyError, match="CANCELLING and cannot become SUCCEEDED"):
        store.succeed(job.id, 1, result())
    assert store.get(job.id).state is JobState.CANCELLING


def test_the_first_manifest_that_is_committed_holds_and_no_other_can_become_the_result(store):
    job = running(store)
    store.commit_manifest(job.id, 1, "a" * 64)
    store.release(job.id, 1, TRANSIENT)
    claim(store)
    assert store.commit_manifest(job.id, 2, "b" * 64) == "a" * 64
    with pytest.raises(NotReadyError, match="has committed manifest aaaa"):
        store.succeed(job.id, 2, result("b" * 64))
    assert store.get(job.id).state is JobState.RUNNING


def test_a_lease_that_ran_out_releases_the_job_charged_and_fences_its_worker(store):
    store.create(new_job(max_attempts=2))
    job = begin(store)
    assert store.expire_leases() == []
    let_pass(store, LEASE)
    [expired] = store.expire_leases()
    assert (expired.id, expired.state, expired.charged_attempts) == (job.id, JobState.QUEUED, 1)
    with pytest.raises(FencedError):
        store.heartbeat(job.id, 1, lease_seconds=30)
    begin(store)
    let_pass(store, LEASE)
    store.expire_leases()
    assert store.get(job.id).failure.reason == "LEASE_EXPIRED"


def test_a_lease_that_ran_out_before_the_first_heartbeat_is_not_charged(store):
    store.create(new_job(max_attempts=1))
    for attempt in range(1, MAX_UNCHARGED_ATTEMPTS + 1):
        job = claim(store)
        let_pass(store, LEASE)
        [expired] = store.expire_leases()
        assert (expired.state, expired.attempt, expired.charged_attempts) == (JobState.QUEUED, attempt, 0)
        assert bodies(store, job.id, EventKind.STATE)[-1]["failure"]["reason"] == "LEASE_EXPIRED"
    claim(store)
    let_pass(store, LEASE)
    assert [expired.state for expired in store.expire_leases()] == [JobState.FAILED]


def test_whoever_started_an_attempt_keeps_its_lease_until_the_first_heartbeat_and_no_longer(store):
    job = running(store)
    for _ in range(5):
        let_pass(store, 0.9 * LEASE)
        assert store.keep_starting(job.id, 1, lease_seconds=LEASE)
        assert store.expire_leases() == []
    store.heartbeat(job.id, 1, lease_seconds=LEASE)
    let_pass(store, 0.9 * LEASE)
    assert not store.keep_starting(job.id, 1, lease_seconds=LEASE)
    let_pass(store, 0.1 * LEASE)
    assert [expired.charged_attempts for expired in store.expire_leases()] == [1]
    with pytest.raises(FencedError):
        store.keep_starting(job.id, 1, lease_seconds=LEASE)


def test_every_attempt_has_a_start_of_its_own(store):
    store.create(new_job())
    job = begin(store)
    store.release(job.id, 1, TRANSIENT)
    claim(store)
    assert store.max_heartbeat_age_seconds() == 0
    assert store.keep_starting(job.id, 2, lease_seconds=LEASE)


def test_a_cancelling_job_whose_lease_ran_out_is_cancelled(store):
    store.create(new_job())
    job = claim(store)
    store.request_cancel(job.id)
    let_pass(store, LEASE)
    assert [expired.state for expired in store.expire_leases()] == [JobState.CANCELLED]
    assert store.get(job.id).end_time is not None


def test_a_heartbeat_keeps_the_lease(store):
    store.create(new_job())
    job = claim(store)
    let_pass(store, 0.9 * LEASE)
    store.heartbeat(job.id, 1, lease_seconds=LEASE)
    let_pass(store, 0.9 * LEASE)
    assert store.expire_leases() == []


def test_a_job_whose_time_is_over_fails_unless_its_result_is_committed_or_it_is_being_cancelled(store):
    limits = {"queue_deadline_seconds": 3600, "run_deadline_seconds": 3600}
    at_work, requeued, committed, cancelled, begun, in_time, waiting = (
        store.create(new_job(**given)).id
        for given in (limits, limits, limits, limits, {"queue_deadline_seconds": 3600}, {}, limits)
    )
    for _ in range(6):
        claim(store)
    store.release(requeued, 1, TRANSIENT, delay_seconds=7200)
    store.commit_manifest(committed, 1, "a" * 64)
    store.request_cancel(cancelled)
    assert store.expire_deadlines() == []
    let_pass(store, 3600)
    assert {job.id for job in store.expire_deadlines()} == {at_work, requeued, waiting}
    reasons = {job_id: store.get(job_id).failure.reason for job_id in (at_work, requeued, waiting)}
    assert reasons == {
        at_work: "RUN_DEADLINE_EXCEEDED",
        requeued: "RUN_DEADLINE_EXCEEDED",
        waiting: "QUEUE_DEADLINE_EXCEEDED",
    }
    with pytest.raises(FencedError):
        store.heartbeat(at_work, 1, lease_seconds=30)
    assert states(store, waiting) == ["QUEUED", "FAILED"]
    assert store.get(cancelled).state is JobState.CANCELLING
    assert {store.get(job_id).state for job_id in (committed, begun, in_time)} == {JobState.RUNNING}
    assert store.expire_deadlines() == []


def test_an_attempt_that_tells_of_nothing_is_given_up_although_its_heart_beats(store):
    silent, busy, starting = (running(store) for _ in range(3))
    for job in (silent, busy):
        store.heartbeat(job.id, 1, lease_seconds=LEASE)
    let_pass(store, 3600)
    for job in (silent, busy):
        store.heartbeat(job.id, 1, lease_seconds=LEASE)
    store.append(busy.id, 1, [(EventKind.STAGE, {"stage": "PRUNING"})])
    assert store.expire_stalled(7200) == []
    [stalled] = store.expire_stalled(1800)
    store.heartbeat(starting.id, 1, lease_seconds=LEASE)
    assert store.expire_stalled(1800) == []
    assert (stalled.id, stalled.state, stalled.charged_attempts) == (silent.id, JobState.QUEUED, 1)
    assert bodies(store, silent.id, EventKind.STATE)[-1]["failure"]["reason"] == "STALLED"


def release_for(store, job_id, attempt, reason, **details):
    return store.release(job_id, attempt, Failure(reason, "memory did not suffice", retryable=True, details=details))


@pytest.mark.parametrize(
    ("reason", "kind"), [("OUT_OF_MEMORY", Shortage.HOST), ("DEVICE_OUT_OF_MEMORY", Shortage.DEVICE)]
)
def test_memory_that_did_not_suffice_is_spared_in_one_more_attempt(store, reason, kind):
    job = running(store, max_attempts=9)
    assert job.shortages == frozenset()
    assert release_for(store, job.id, 1, reason).state is JobState.QUEUED
    assert claim(store).shortages == {kind}
    assert store.release(job.id, 2, TRANSIENT).state is JobState.QUEUED
    assert claim(store).shortages == {kind}
    ended = release_for(store, job.id, 3, reason)
    assert (ended.state, ended.failure.reason, ended.shortages) == (JobState.FAILED, reason, {kind})


def test_each_kind_of_memory_is_spared_in_its_turn(store):
    job = running(store, max_attempts=9)
    release_for(store, job.id, 1, "DEVICE_OUT_OF_MEMORY")
    claim(store)
    assert release_for(store, job.id, 2, "OUT_OF_MEMORY").state is JobState.QUEUED
    assert claim(store).shortages == {Shortage.HOST, Shortage.DEVICE}


def test_a_worker_that_was_killed_may_have_wanted_memory_but_may_be_killed_again(store):
    job = running(store, max_attempts=3)
    assert release_for(store, job.id, 1, "WORKER_KILLED", signal="SIGSEGV").shortages == frozenset()
    claim(store)
    assert release_for(store, job.id, 2, "WORKER_KILLED", signal="SIGKILL").shortages == {Shortage.HOST}
    claim(store)
    ended = release_for(store, job.id, 3, "WORKER_KILLED", signal="SIGKILL")
    assert (ended.state, ended.charged_attempts) == (JobState.FAILED, 3)


def test_stage_and_progress_events_also_update_the_job_until_the_attempt_ends(store):
    job = running(store)
    progress = {"blocks_done": 1, "blocks_total": 4, "fraction": 0.25, "eta_seconds": 3.0}
    store.append(job.id, 1, [(EventKind.STAGE, {"stage": "PRUNING"}), (EventKind.PROGRESS, progress)])
    read = store.get(job.id)
    assert (read.stage, read.progress) == (Stage.PRUNING, Progress(**progress))
    assert read.last_sequence == 4
    released = store.release(job.id, 1, TRANSIENT)
    assert released.stage is None
    assert [event.sequence for event in store.events(job.id, after=0, limit=100)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", [EventKind.STATE, EventKind.BLOCK])
def test_events_that_tell_of_a_change_cannot_be_appended_without_it(store, kind):
    job = running(store)
    with pytest.raises(ValueError, match="written by the store itself"):
        store.append(job.id, 1, [(EventKind.STAGE, {"stage": "PRUNING"}), (kind, {})])
    assert store.get(job.id).last_sequence == 2


def test_log_lines_are_cut_to_the_limit_in_whole_characters(store):
    job = running(store)
    fields = {"long": "x" * MAX_LOG_BYTES}
    line = {"level": "info", "message": "ї" * MAX_LOG_BYTES, "fields": fields}
    store.append(
        job.id, 1, [(EventKind.LOG, line), (EventKind.LOG, {**line, "message": "broken \ud800", "fields": {}})]
    )
    long, broken = bodies(store, job.id, EventKind.LOG)
    assert MAX_LOG_BYTES - 4 <= len(long["message"].encode()) <= MAX_LOG_BYTES
    assert long["message"].startswith("її")
    assert long["message"].endswith("ї…")
    assert long["fields"] == {"fields_left_out_bytes": len(fields["long"]) + len('{"long": ""}')}
    assert broken["message"] == "broken ?"


def test_the_ledger_keeps_blocks_in_order_and_replaces_a_repeated_one_with_an_event_each(store):
    job = running(store)
    for record in (block(1), block(0), block(1, snr_db=3.0)):
        store.record_block(job.id, 1, record)
    assert store.blocks(job.id) == [block(0), block(1, snr_db=3.0)]
    assert [body["index"] for body in bodies(store, job.id, EventKind.BLOCK)] == [1, 0, 1]
    assert bodies(store, job.id, EventKind.BLOCK)[0] == {
        "index": 1,
        "sparsity": 0.5,
        "seconds": 0.25,
        "snr_db": {"de": 20.0},
    }


def test_a_block_that_is_recorded_again_by_who_got_no_answer_is_one_event(store):
    job = running(store)
    for _ in range(2):
        store.record_block(job.id, 1, block(0))
    assert store.blocks(job.id) == [block(0)]
    assert len(bodies(store, job.id, EventKind.BLOCK)) == 1


def test_the_next_attempt_finds_the_ledger_of_the_last(store):
    job = running(store)
    store.record_block(job.id, 1, block(0))
    store.release(job.id, 1, TRANSIENT)
    claim(store)
    store.record_block(job.id, 2, block(1))
    assert [record.index for record in store.blocks(job.id)] == [0, 1]


def test_a_retry_begins_with_the_ledger_of_the_other_job_and_none_of_its_events(store):
    job = running(store)
    for index in range(2):
        store.record_block(job.id, 1, block(index))
    store.release(job.id, 1, PERMANENT)
    given = {"request_id": "r", "request_digest": "d", "retry_of": job.id}
    retried = store.create(new_job(**given))
    assert store.create(new_job(**given)) == retried
    assert (retried.state, retried.retry_of, retried.last_sequence) == (JobState.QUEUED, job.id, 1)
    assert store.blocks(retried.id) == [block(0), block(1)] == store.blocks(job.id)
    claim(store)
    store.record_block(retried.id, 1, block(2))
    assert len(store.blocks(job.id)) == 2


def test_events_are_paged_after_a_sequence_and_followed_across_jobs_after_a_position(store):
    first, second = store.create(new_job()), store.create(new_job())
    start = store.position()
    for _ in range(2):
        claim(store)
    store.request_cancel(first.id)
    assert [event.sequence for event in store.events(first.id, after=1, limit=1)] == [2]
    page, position = store.events_since(start, limit=2)
    rest, end = store.events_since(position, limit=10)
    assert [(event.job_id, event.sequence) for event in page + rest] == [(first.id, 2), (second.id, 2), (first.id, 3)]
    assert store.events_since(end, limit=10) == ([], end)
    assert end == store.position()


def test_who_waits_for_a_change_hears_of_every_write_and_of_nothing_else(store):
    token = store.await_change(None, 0)
    assert store.await_change(token, 0.01) == token
    store.claim(owner="test", lease_seconds=1)
    store.get(store.create(new_job()).id)
    changed = store.await_change(token, 5)
    assert changed != token
    store.list_jobs(limit=10)
    assert store.await_change(changed, 0.01) == changed


def test_who_waits_for_a_change_is_woken_by_it(store):
    token = store.await_change(None, 0)
    seen = []
    waiting = threading.Thread(target=lambda: seen.append(store.await_change(token, 3600)))
    waiting.start()
    store.create(new_job())
    waiting.join(HANG_SECONDS)
    assert seen not in ([], [token])


def test_figures_of_the_queue_count_what_is_there(store):
    assert set(store.count_by_state().values()) == {0}
    assert (store.oldest_queued_age_seconds(), store.max_heartbeat_age_seconds()) == (0, 0)
    store.heartbeat(running(store).id, 1, lease_seconds=LEASE)
    store.create(new_job())
    let_pass(store, 3600)
    counted = store.count_by_state()
    assert (counted[JobState.RUNNING], counted[JobState.QUEUED], counted[JobState.FAILED]) == (1, 1, 0)
    assert 3600 <= store.oldest_queued_age_seconds() < 7200
    assert 3600 <= store.max_heartbeat_age_seconds() < 7200
