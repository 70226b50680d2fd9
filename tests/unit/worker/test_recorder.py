import itertools

import pytest

from secateur_service.errors import FencedError
from secateur_service.jobs.job import EventKind, Failure
from secateur_service.records.progress import Progress, Stage
from secateur_service.worker.lease import Lease
from secateur_service.worker.recorder import StoreLedger, StoreObserver
from support.jobs import block


@pytest.fixture
def observer(store, job, clock):
    return StoreObserver(store, job.id, 1, Lease(store, job.id, 1, lease_seconds=30), monotonic=clock)


def kinds(store, job):
    return [event.kind for event in store.events(job.id, after=2, limit=1000)]


def fractions(store, job):
    events = store.events(job.id, after=2, limit=1000)
    return [event.body["fraction"] for event in events if event.kind is EventKind.PROGRESS]


def test_progress_is_written_at_most_once_a_second(store, job, observer, clock):
    for step in range(1, 41):
        clock.now += 0.125
        observer.progress(Progress(0, 4, step / 40))
    assert fractions(store, job) == [step / 40 for step in (1, 9, 17, 25, 33)]


def test_progress_of_a_long_job_is_written_a_thousand_times_and_not_every_second(store, job, observer, clock):
    for step in range(1, 40_001):
        clock.now += 1
        observer.progress(Progress(0, 4, step / 40_000))
    written = store.events(job.id, after=2, limit=100_000)
    assert 500 <= len(written) <= 1001


@pytest.mark.parametrize(("took", "apart"), [(0.01, 1.0), (0.125, 6.25), (100.0, 30.0)])
def test_where_the_store_takes_long_progress_is_written_less_often(store, job, clock, took, apart):
    """A thousand jobs that write every second would only make each other wait."""

    class SlowStore:
        def append(self, *arguments):
            clock.now += took
            store.append(*arguments)

    observer = StoreObserver(SlowStore(), job.id, 1, Lease(store, job.id, 1, lease_seconds=30), monotonic=clock)
    observer.progress(Progress(0, 4, 0.01))
    for fraction, waited in [(0.02, apart - 0.01), (0.03, 0.02)]:
        clock.now += waited
        observer.progress(Progress(0, 4, fraction))
    assert fractions(store, job) == [0.01, 0.03]


@pytest.mark.parametrize("total", [50_000_000, 0])
def test_bytes_that_are_fetched_are_written_step_by_step_although_the_bar_has_not_moved(
    store, job, observer, clock, total
):
    """Also of text from the hub, of which nobody knows how much it will be."""
    for second in range(5_000):
        clock.now += 1
        observer.progress(Progress(0, 4, 0.1, bytes_done=10_000 * (second + 1), bytes_total=total))
    observer.progress(Progress(0, 4, 0.1))
    clock.now += 1
    observer.progress(Progress(0, 4, 0.1))
    written = [event.body for event in store.events(job.id, after=2, limit=100_000)]
    assert 45 <= len(written) <= 300
    assert all(later["bytes_done"] > body["bytes_done"] for body, later in itertools.pairwise(written[:-1]))
    assert written[-1]["bytes_done"] == 0
    assert written[-2]["bytes_done"] > 45_000_000


@pytest.mark.parametrize("progress_first", [False, True])
def test_the_first_progress_after_a_block_is_written_at_once(store, job, observer, clock, progress_first):
    ledger = StoreLedger(store, job.id, 1, Lease(store, job.id, 1, lease_seconds=30))
    observer.progress(Progress(0, 4, 0.1))
    clock.now += 0.1
    observer.progress(Progress(0, 4, 0.2))
    ledger.record(block(0))
    calls = [lambda: observer.block(block(0)), lambda: observer.progress(Progress(1, 4, 0.25, eta_seconds=9.0))]
    for call in reversed(calls) if progress_first else calls:
        call()
    observer.progress(Progress(1, 4, 0.3))
    assert kinds(store, job) == [EventKind.PROGRESS, EventKind.BLOCK, EventKind.PROGRESS]
    assert fractions(store, job) == [0.1, 0.25]
    assert store.get(job.id).progress == Progress(1, 4, 0.25, 9.0)
    assert ledger.entries() == [block(0)]


def test_a_stage_comes_after_the_progress_of_the_one_before(store, job, observer):
    observer.progress(Progress(0, 4, 0.1))
    observer.progress(Progress(0, 4, 0.2))
    observer.stage(Stage.PACKAGING)
    observer.flush()
    assert kinds(store, job) == [EventKind.PROGRESS, EventKind.PROGRESS, EventKind.STAGE]
    assert store.get(job.id).stage is Stage.PACKAGING


def test_log_lines_keep_their_fields_as_plain_data(store, job, observer, tmp_path):
    observer.log("warning", "slow", path=tmp_path, tokens=3, nested={"a": (1, 2)})
    [event] = store.events(job.id, after=2, limit=10)
    assert event.body == {
        "level": "warning",
        "message": "slow",
        "fields": {"path": str(tmp_path), "tokens": 3, "nested": {"a": [1, 2]}},
    }


def test_nothing_is_written_under_a_lost_attempt(store, job, observer):
    store.release(job.id, 1, Failure("ANY", "any", retryable=True))
    for write in (
        lambda: observer.stage(Stage.PRUNING),
        lambda: observer.log("info", "late"),
        lambda: StoreLedger(store, job.id, 1, Lease(store, job.id, 1, lease_seconds=30)).record(block(0)),
    ):
        with pytest.raises(FencedError):
            write()


def test_a_time_left_that_is_wrong_by_now_is_written_although_the_bar_has_not_moved(store, job, observer, clock):
    observer.progress(Progress(0, 4, 0.5, 100.0))
    for second in range(1, 11):  # as foretold
        clock.now += 1
        observer.progress(Progress(0, 4, 0.5, 100.0 - second))
    assert fractions(store, job) == [0.5]
    observer.progress(Progress(0, 4, 0.5002, 240.0))
    assert store.get(job.id).progress == Progress(0, 4, 0.5002, 240.0)


def test_a_time_left_that_is_always_wrong_is_written_less_often_the_longer_the_job_takes(store, job, observer, clock):
    for second in range(40_000):
        clock.now += 1
        observer.progress(Progress(0, 4, 0.5, 100.0 if second % 2 else 1000.0))
    assert 500 <= len(store.events(job.id, after=2, limit=100_000)) <= 3000
