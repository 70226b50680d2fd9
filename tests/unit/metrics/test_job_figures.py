"""Metrics of jobs, derived from the event log of a real store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from secateur_service.jobs.job import EventKind, Failure
from secateur_service.jobs.store import SqlJobStore, open_job_store
from secateur_service.metrics import attempt_figures
from secateur_service.metrics.attempt_figures import AttemptFigures
from secateur_service.metrics.job_figures import JobFigures
from secateur_service.metrics.registry import Metrics
from support.clock import let_pass
from support.jobs import block, new_job, result


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlJobStore]:
    store = open_job_store(f"sqlite:///{tmp_path}/jobs.sqlite3")
    store.migrate()
    yield store
    store.close()


class Follower:
    """Feeds a store's events to figures of its own, from where it starts."""

    def __init__(self, store: SqlJobStore) -> None:
        self._store = store
        self.metrics = Metrics(CollectorRegistry(), version="1")
        self._figures = JobFigures(self.metrics, store)
        self._figures.seed()
        self._position = store.position()

    def value(self, name: str, **labels: str) -> float | None:
        events, self._position = self._store.events_since(self._position, limit=10_000)
        self._figures.consume(events)
        return self.metrics.registry.get_sample_value(f"secateur_{name}", labels)


def _stage(store: SqlJobStore, job_id: str, attempt: int, stage: str) -> None:
    store.append(job_id, attempt, [(EventKind.STAGE, {"stage": stage})])


def _run_to_success(store: SqlJobStore, job_id: str, attempt: int) -> None:
    _stage(store, job_id, attempt, "PRUNING")
    for index in range(3):
        store.record_block(job_id, attempt, block(index))
    _stage(store, job_id, attempt, "PUBLISHING")
    store.succeed(job_id, attempt, result())


def test_a_job_that_succeeds_at_its_second_attempt_is_counted_once_with_both_attempts(store: SqlJobStore):
    follower = Follower(store)
    job = store.create(new_job())
    store.claim(owner="o", lease_seconds=60)
    _stage(store, job.id, 1, "PRUNING")
    store.release(job.id, 1, Failure("WORKER_CRASHED", "killed", retryable=True))
    store.claim(owner="o", lease_seconds=60)
    _run_to_success(store, job.id, 2)
    assert follower.value("attempts_total", cause="FIRST") == 1
    assert follower.value("attempts_total", cause="WORKER_CRASHED") == 1
    assert follower.value("jobs_finished_total", outcome="succeeded", reason="") == 1
    assert follower.value("blocks_pruned_total") == 3
    assert follower.value("block_duration_seconds_sum") == pytest.approx(0.75)
    assert follower.value("stage_duration_seconds_count", stage="PRUNING") == 2
    assert follower.value("stage_duration_seconds_count", stage="PUBLISHING") == 1
    assert follower.value("queue_wait_seconds_count") == 2
    assert follower.value("job_duration_seconds_count") == 1


def test_failures_and_cancellations_are_told_apart_by_outcome_and_reason(store: SqlJobStore):
    follower = Follower(store)
    failed, cancelled = store.create(new_job()), store.create(new_job())
    store.claim(owner="o", lease_seconds=60)
    store.release(failed.id, 1, Failure("BAD_MODEL", "no", retryable=False))
    store.request_cancel(cancelled.id)
    assert follower.value("jobs_finished_total", outcome="failed", reason="BAD_MODEL") == 1
    assert follower.value("jobs_finished_total", outcome="cancelled", reason="") == 1
    assert follower.value("last_success_timestamp_seconds") == 0


def test_a_job_met_in_the_middle_has_its_whole_duration_but_its_past_is_not_counted_again(store: SqlJobStore):
    job = store.create(new_job())
    store.claim(owner="o", lease_seconds=60)
    _stage(store, job.id, 1, "PRUNING")
    store.record_block(job.id, 1, block(0))
    for number in range(300):  # more than the recall's page
        store.append(job.id, 1, [(EventKind.LOG, {"level": "info", "message": str(number), "fields": {}})])
    let_pass(store, 3600)
    follower = Follower(store)
    _stage(store, job.id, 1, "PUBLISHING")
    store.succeed(job.id, 1, result())
    assert follower.value("blocks_pruned_total") == 0
    assert follower.value("attempts_total", cause="FIRST") is None
    assert follower.value("stage_duration_seconds_sum", stage="PRUNING") >= 3600
    assert follower.value("job_duration_seconds_sum") >= 0.3


def test_what_an_attempt_says_that_it_did_is_counted(store: SqlJobStore):
    follower = Follower(store)
    job = store.create(new_job())
    store.claim(owner="o", lease_seconds=60)
    for peak in (7_000, 5_000):
        figures = AttemptFigures()
        figures.count_request("put", "OK")
        figures.count_request("put", "OK")
        figures.count_request("get", "UNREACHABLE")
        figures.count_bytes("written", 300)
        fields = figures.fields({"calibration_tokens": 512, "peak_device_bytes": peak})
        line = {"level": "info", "message": attempt_figures.MESSAGE, "fields": fields}
        store.append(job.id, 1, [(EventKind.LOG, line), (EventKind.LOG, {**line, "message": "another line"})])
    assert follower.value("calibration_tokens_total") == 1024
    assert follower.value("object_store_requests_total", operation="put", outcome="OK") == 4
    assert follower.value("object_store_requests_total", operation="get", outcome="UNREACHABLE") == 2
    assert follower.value("object_store_bytes_total", direction="written") == 600
    assert follower.value("device_memory_peak_bytes") == 5_000, "that of the last attempt"


def test_the_last_success_of_an_earlier_process_is_remembered(store: SqlJobStore):
    job = store.create(new_job())
    store.claim(owner="o", lease_seconds=60)
    store.succeed(job.id, 1, result())
    ended = store.get(job.id).end_time
    assert ended is not None
    assert Follower(store).value("last_success_timestamp_seconds") == ended.timestamp()
