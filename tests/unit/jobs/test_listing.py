"""Lists of jobs: every filter and order gives what a few lines of Python give, in both ways of looking."""

import itertools
import math
import random
from contextlib import closing

import pytest
from sqlalchemy import create_engine, update

from secateur_service.errors import NotFoundError, NotReadyError
from secateur_service.jobs.filters import Filter, Order, OrderKey
from secateur_service.jobs.job import Failure
from secateur_service.jobs.listing import FEW, page
from secateur_service.jobs.schema import job_labels, jobs
from secateur_service.jobs.states import JobState
from secateur_service.jobs.store import open_job_store
from secateur_service.records.growth import growths_of_details, growths_of_result, worst_growth
from secateur_service.records.result import JobResult, LanguageResult
from support.jobs import SPEC, new_job, result

OTHER_KEYS = ["run", 'a"b', "a.b", "$[0]", "\\u0061", "ключ", "'", "{x}"]


def growth_result(growth, language="de"):
    return JobResult("file:///m", "a" * 64, 0.5, (LanguageResult(language, 10.0, 10.0 * growth, 1.0, 1.0),))


def exceeded(growth, language="de"):
    details = {
        "model_digest": "b" * 64,
        f"growth_{language}": "0.100000",
        f"perplexity_growth_{language}": f"{growth:.6f}",
    }
    return Failure("LIMIT_EXCEEDED", "too much", retryable=False, details=details)


def filled(store, count=40):
    """Jobs in several states, with labels, and figures of which some are equal."""
    draw = random.Random(0)
    for number in range(count):
        labels = {"team": draw.choice("ab"), draw.choice(OTHER_KEYS): str(number % 3)}
        job = store.create(new_job(labels=labels))
        fate = draw.choice(["queued", "cancelled", "succeeded", "succeeded", "failed", "exceeded"])
        if fate == "cancelled":
            store.request_cancel(job.id)
        elif fate != "queued":
            while (claimed := store.claim(owner="test", lease_seconds=600)).id != job.id:
                store.release(claimed.id, claimed.attempt, Failure("ANY", "any", retryable=False))
            if fate == "failed":
                store.release(job.id, 1, Failure("ANY", "any", retryable=False))
            elif fate == "exceeded":
                store.release(job.id, 1, exceeded(draw.choice([1.5, 3.0])))
            else:
                store.succeed(job.id, 1, growth_result(draw.choice([1.0, 1.5, 2.0])))
    return store.list_jobs(Filter(), Order(descending=False), limit=count)[0]


def growth_of(job):
    if job.result is None:
        return worst_growth(job.resolved, growths_of_details(job.failure.details if job.failure else {}))
    return worst_growth(job.resolved, growths_of_result(job.result))


KEYS = {
    OrderKey.CREATE_TIME: lambda job: job.create_time,
    OrderKey.END_TIME: lambda job: job.end_time,
    OrderKey.WORST_GROWTH: growth_of,
}


def expected(oldest_first, wanted, order):
    key = KEYS[order.key]
    found = [
        (key(job), number, job.id)
        for number, job in enumerate(oldest_first)
        if key(job) is not None
        and (not wanted.states or job.state in wanted.states)
        and wanted.labels.items() <= job.labels.items()
        and (wanted.created_from is None or job.create_time >= wanted.created_from)
        and (wanted.created_before is None or job.create_time < wanted.created_before)
        and job.id.startswith(wanted.id_prefix)
    ]
    return [job_id for *_, job_id in sorted(found, reverse=order.descending)]


@pytest.mark.parametrize("few", [-1, FEW])
def test_every_filter_in_every_order_gives_each_job_once(store, few):
    known = filled(store)
    times = [job.create_time for job in known]
    filters = [
        Filter(),
        Filter(states=(JobState.SUCCEEDED,)),
        Filter(states=(JobState.QUEUED, JobState.FAILED), labels={"team": "a"}),
        *(Filter(labels={key: "1"}) for key in OTHER_KEYS),
        Filter(labels={"team": "b", "run": "0"}),
        Filter(labels={"team": "c"}),
        Filter(created_from=times[11], created_before=times[29]),
        Filter(states=(JobState.SUCCEEDED,), labels={"team": "a"}, created_from=times[7]),
        Filter(id_prefix=known[3].id[:1]),
        Filter(id_prefix=known[3].id),
        Filter(id_prefix=known[3].id[:1], labels={"team": "a"}, created_before=times[20]),
    ]
    for wanted, key, descending in itertools.product(filters, OrderKey, (True, False)):
        order = Order(key, descending)
        seen, place = [], None
        with store._reading() as connection:
            while True:
                found, place = page(connection, store._database, wanted, order, limit=4, after=place, few=few)
                seen += [job.id for job in found]
                if place is None:
                    break
                assert len(found) == 4
        assert seen == expected(known, wanted, order), (wanted, order)


def test_a_page_that_is_exactly_full_is_the_last_one(store):
    created = [store.create(new_job()).id for _ in range(3)]
    assert store.list_jobs(limit=3)[1] is None
    found, place = store.list_jobs(limit=2)
    assert [job.id for job in found] == created[:0:-1]
    store.create(new_job())
    assert [job.id for job in store.list_jobs(limit=2, after=place)[0]] == created[:1]


def test_the_growth_is_of_the_language_of_the_mix_that_lost_most():
    assert worst_growth(SPEC, {"de": 1.25, "uk": 1.5, "fr": 9.0}) == 1.5
    assert worst_growth(SPEC, {"fr": 9.0}) == 9.0
    assert worst_growth(SPEC, {"de": 1.25, "uk": math.inf}) == math.inf
    assert worst_growth(SPEC, {"de": 1.25, "uk": math.nan}) == 1.25
    assert worst_growth(SPEC, {}) is None
    unweighted = {"calibration": {"languages": [{"language": "de", "weight": 0.0}, {"language": "uk", "weight": 1.0}]}}
    assert worst_growth(unweighted, {"de": 3.0, "uk": 1.5}) == 1.5


def test_what_a_release_without_these_columns_left_is_filled_in(database_url):
    with closing(open_job_store(database_url)) as store:
        engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
        store.migrate()
        job = store.create(new_job(labels={"team": "a"}))
        store.claim(owner="test", lease_seconds=600)
        store.succeed(job.id, 1, result())
        dear = store.create(new_job(labels={"team": "a"}))
        store.claim(owner="test", lease_seconds=600)
        store.release(dear.id, 1, exceeded(99.0))
        with engine.begin() as connection:  # as an older release would have ended them
            connection.execute(update(jobs).values(worst_growth=None))
        store.migrate(back_to="0008")
        store.migrate()
        for wanted, ids in (
            (Filter(labels={"team": "a"}), [dear.id, job.id]),
            (Filter(id_prefix=job.id[:5]), [job.id]),
        ):
            found, _ = store.list_jobs(wanted, Order(OrderKey.WORST_GROWTH), limit=9)
            assert [listed.id for listed in found] == ids
        engine.dispose()


def test_deleting_a_job_leaves_nothing_of_it(store, database_url):
    job = store.create(new_job(labels={"team": "a"}, request_id="1" * 32, request_digest="a"))
    other = store.create(new_job(labels={"team": "a"}))
    for stop in (lambda: store.deletable(job.id), lambda: store.delete(job.id)):
        with pytest.raises(NotReadyError, match="is QUEUED; cancel it"):
            stop()
    store.request_cancel(job.id)
    assert store.deletable(job.id).id == job.id
    store.delete(job.id)
    for again in (store.get, store.deletable, store.delete):
        with pytest.raises(NotFoundError):
            again(job.id)
    assert store.find_request("1" * 32, "a") is None
    assert store.events(job.id, after=0, limit=9) == []
    with store._reading() as connection:
        assert len(connection.execute(job_labels.select()).all()) == 1
    assert [found.id for found in store.list_jobs(Filter(labels={"team": "a"}), limit=9)[0]] == [other.id]


def test_a_job_is_not_deleted_while_a_retry_of_its_retry_may_use_its_blocks(store):
    first = store.create(new_job())
    store.request_cancel(first.id)
    second = store.create(new_job(retry_of=first.id))
    store.request_cancel(second.id)
    third = store.create(new_job(retry_of=second.id))
    with pytest.raises(NotReadyError, match=third.id) as refused:
        store.delete(first.id)
    assert refused.value.reason == "JOB_IN_USE"
    store.request_cancel(third.id)
    store.delete(first.id)
    store.delete(third.id)
