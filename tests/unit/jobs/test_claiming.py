"""Which job is claimed; whatever the needs, test_store_model.py compares it with a model."""

import random
from dataclasses import replace

import pytest
from sqlalchemy import Engine, event, insert, select, text, update

from secateur_service.jobs.job import EventKind, model_reference
from secateur_service.jobs.port import CLAIM_WINDOW
from secateur_service.jobs.rows import new_row
from secateur_service.jobs.schema import jobs
from secateur_service.records.needs import UNKNOWN, Capacity, Needs, largest
from secateur_service.spec import SPEC_FORMAT
from support.clock import let_pass
from support.jobs import new_job

GB = 10**9
CPU, SMALL, LARGE = (
    Capacity(0, 0, 64 * GB, 10**12),
    Capacity(1, 24 * GB, 64 * GB, 10**12),
    Capacity(1, 80 * GB, *[10**12] * 2),
)
BIG = Needs(host_bytes=200 * GB, disk_bytes=GB, device_bytes=70 * GB, host_bytes_beside_device=10 * GB)


def claim(store, capacity=None, **at_home):
    job = store.claim(owner="test", lease_seconds=600, capacity=capacity, **at_home)
    return job and job.id


def fill(store, count, *needs):
    """Queue many jobs at once, whose needs take turns."""
    with store._database.writer.begin() as connection:
        now = connection.scalar(select(store._database.now))
        rows = [new_row(new_job(needs=needs[number % len(needs)]), now) for number in range(count)]
        connection.execute(insert(jobs), rows)
    with store._database.reader.connect() as connection:
        if connection.dialect.name == "postgresql":  # does so itself after a while; SQLite never does
            connection.execute(text("VACUUM (ANALYZE) jobs"))
    return [row["id"] for row in rows]


def test_a_job_goes_to_the_first_slot_that_it_fits_and_overtakes_none_that_fits_there_too(store):
    big, small, old = (store.create(new_job(needs=needs)).id for needs in (BIG, Needs(GB, GB, GB, GB), UNKNOWN))
    assert claim(store, CPU) == small
    assert claim(store, SMALL) == old
    assert claim(store, SMALL) is None
    assert claim(store, LARGE) == big


def test_device_memory_that_nobody_knows_keeps_no_job_away(store):
    big = store.create(new_job(needs=BIG)).id
    assert claim(store, Capacity(1, 0, 9 * GB, 10**12)) is None
    assert claim(store, Capacity(1, 0, 10 * GB, 10**12)) == big


def test_a_job_whose_work_is_here_goes_first_then_one_whose_model_is_here(store):
    first, second, of_model, of_work = (
        store.create(new_job(model=f"file:///models/{name}")).id for name in ("a", "a", "b", "c")
    )
    at_home = {"held": {of_work, "gone"}, "models": {"file:///models/b"}}
    assert [claim(store, **at_home) for _ in range(4)] == [of_work, of_model, first, second]


def test_a_version_is_part_of_a_models_reference():
    assert model_reference({"uri": "hf://org/name", "revision": "abc"}) == "hf://org/name@abc"
    assert model_reference({"uri": "file:///models/a", "revision": None}) == "file:///models/a"


def test_no_job_is_overtaken_by_one_that_came_long_after_it(store):
    ids = fill(store, CLAIM_WINDOW + 2, UNKNOWN)
    assert claim(store, held={ids[CLAIM_WINDOW]}) == ids[0]
    assert claim(store, held={ids[CLAIM_WINDOW]}) == ids[CLAIM_WINDOW]  # the second came 63 jobs before it
    assert claim(store, held={ids[CLAIM_WINDOW + 1]}) == ids[1]


def test_a_job_that_is_not_due_or_of_a_newer_release_is_left_also_where_its_work_is(store):
    later, newer, other = (store.create(new_job()).id for _ in range(3))
    with store._database.writer.begin() as connection:
        connection.execute(update(jobs).where(jobs.c.id == later).values(not_before=jobs.c.not_before + 60_000))
        connection.execute(update(jobs).where(jobs.c.id == newer).values(spec_format=SPEC_FORMAT + 1))
    assert claim(store, CPU, held={later, newer}) == other
    assert claim(store, CPU, held={later, newer}) is None
    let_pass(store, 60)
    assert claim(store, CPU, held={later, newer}) == later


def test_needs_stay_with_a_job_that_is_tried_again(store):
    job_id = store.create(new_job(needs=BIG)).id
    claim(store, LARGE)
    let_pass(store, 700)
    store.expire_leases()
    assert store.get(job_id).needs == BIG
    assert claim(store, SMALL) is None
    assert claim(store, LARGE) == job_id


@pytest.fixture
def asked():
    """The statements that a store runs, with their parameters."""
    found = []

    def remember(_connection, _cursor, statement, parameters, *_):
        found.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", remember)
    yield found
    event.remove(Engine, "before_cursor_execute", remember)


def plan(store, statement, parameters):
    with store._database.reader.connect() as connection:
        explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        rows = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
    return "\n".join(str(row[-1]) for row in rows)


def test_a_claim_and_the_groups_of_needs_read_the_queue_by_its_indexes(store, asked):
    """A row is large; reading a queue of 100,000 for each claim would take a second."""
    fill(store, 2000, BIG, Needs(GB, GB, 30 * GB, GB))
    for capacity in (SMALL, replace(SMALL, device_bytes=40 * GB), CPU):
        del asked[:]
        claim(store, capacity, models={"of another job"})
        found = [plan(store, *one) for one in tuple(asked) if "FROM jobs" in one[0] and one[0].startswith("SELECT")]
        assert len(found) == (1 if capacity == SMALL else 5)
        for one in found:
            by_number = any(it in one for it in ("number<?", "(number <", "(number =", "rowid=?"))
            assert by_number or "ix_jobs_queue" in one
            assert not any(slow in one for slow in ("Seq Scan", "Sort", "TEMP B-TREE"))
    del asked[:]
    for call in (store.waiting, store.unserved, lambda: store.explain_waiting([LARGE])):
        call()
    grouped = [plan(store, *one) for one in tuple(asked) if "GROUP BY" in one[0]]
    assert len(grouped) == 3
    assert all("ix_jobs_queue_needs" in one for one in grouped)


def test_what_fits_nobody_says_so_and_no_longer_once_an_agent_has_been_seen(store):
    big, small = (store.create(new_job(needs=needs)).id for needs in (BIG, UNKNOWN))
    assert store.explain_waiting([SMALL, CPU]) == 1
    reason = "needs at least 70.0 GB of device memory; the largest agent seen in ten minutes has 24.0 GB"
    assert (store.get(big).waiting, store.get(small).waiting) == (reason, None)
    assert [job.waiting for job in store.list_jobs(limit=2)[0]] == [None, reason]
    assert store.explain_waiting([CPU, SMALL]) == 0
    assert store.unserved() == [(BIG, 1)]
    assert store.explain_waiting([LARGE]) == 1
    assert store.get(big).waiting is None
    lines = [entry.body for entry in store.events(big, after=1, limit=9)]
    served = "an agent that this job fits has been seen; it waits for a free slot"
    assert [(line["level"], line["message"]) for line in lines] == [("warning", f"waits: {reason}"), ("info", served)]
    assert {entry.kind for entry in store.events(big, after=1, limit=9)} == {EventKind.LOG}


def test_a_reason_has_all_that_is_missing_and_never_two_figures_that_read_the_same():
    assert BIG.waits([replace(SMALL, host_bytes=GB)]) == (
        "needs at least 70.0 GB of device memory and 10.0 GB of memory; the largest agent seen in ten minutes has "
        "24.0 GB and 1.0 GB"
    )
    assert BIG.lacking(replace(LARGE, device_bytes=70 * GB - 1)) == (
        "70,000,000,000 B of device memory instead of 69,999,999,999 B"
    )
    assert BIG.lacking(LARGE) == ""


def test_a_job_that_an_agent_can_be_asked_for_says_so_until_one_is_there(store):
    job_id = fill(store, 1, BIG)[0]
    classes = {"cpu": CPU, "gpu-24": SMALL, "gpu-80": LARGE, "gpu-141": replace(LARGE, device_bytes=141 * GB)}
    store.explain_waiting([CPU], classes)
    asked = "no agent seen in ten minutes fits; the service asks for one of class gpu-80"
    assert store.get(job_id).waiting == asked
    assert [need for need, _ in store.unserved()] == [BIG]
    store.explain_waiting([CPU, LARGE], classes)
    assert store.get(job_id).waiting is None


def test_a_reason_names_the_largest_class_where_none_is_large_enough():
    classes = {"gpu-24": SMALL, "gpu-16": replace(SMALL, device_bytes=16 * GB)}
    needed = "needs at least 70.0 GB of device memory; the largest agent"
    asked = f"{needed} that can be asked for, of class gpu-24, has 24.0 GB"
    assert BIG.waits([], classes) == asked
    assert BIG.waits([replace(SMALL, device_bytes=16 * GB)], classes) == asked
    seen = [replace(SMALL, device_bytes=40 * GB)]
    assert BIG.waits(seen, classes) == f"{needed} seen in ten minutes has 40.0 GB"


def test_without_any_agent_every_job_says_that(store):
    job_id = store.create(new_job()).id
    store.explain_waiting([])
    assert store.get(job_id).waiting.startswith("no agent has been seen in the last ten minutes; start one")
    assert claim(store) == job_id
    assert store.get(job_id).waiting is None


def test_a_reason_goes_with_the_state_also_if_an_older_release_leaves_it_there(store):
    cancelled, running = (store.create(new_job()).id for _ in range(2))
    store.explain_waiting([])
    store.request_cancel(cancelled)
    assert store.get(cancelled).waiting is None
    with store._database.writer.begin() as connection:
        connection.execute(update(jobs).where(jobs.c.id == running).values(state="RUNNING", attempt=1))
    assert store.get(running).waiting is None
    assert store.unserved() == []


def test_many_jobs_are_told_in_pieces_and_each_once(store):
    ids = fill(store, 1200, UNKNOWN)
    assert store.explain_waiting([]) == 1200
    assert [store.get(job_id).last_sequence for job_id in ids[:2]] == [1, 1]
    assert store.explain_waiting([]) == 0
    assert store.explain_waiting([CPU]) == 1200


def test_an_agent_that_another_covers_in_everything_is_not_compared():
    rng = random.Random(7)
    for _ in range(300):
        some = [Capacity(rng.randint(0, 1), *(rng.randint(0, 3) for _ in range(3))) for _ in range(rng.randint(0, 5))]
        needs = Needs(*(rng.randint(0, 4) for _ in range(4)))
        assert needs.waits(largest(some)) == needs.waits(some)
        assert (needs.waits(some) is None) == any(needs.fits(one) for one in some)
