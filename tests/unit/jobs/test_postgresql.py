"""What makes PostgreSQL safe as the store of several servers."""

import threading

import pytest
from sqlalchemy import event, text

from secateur_service.errors import TransientError
from secateur_service.jobs.filters import NEWEST_FIRST, Filter
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.listing import page
from secateur_service.jobs.states import JobState
from secateur_service.jobs.store import open_job_store
from support.jobs import new_job
from support.waiting import until


@pytest.fixture
def database_url(postgres):
    return postgres.create_database()


@pytest.fixture
def other(database_url):
    """The store as another process sees it."""
    other = open_job_store(database_url)
    yield other
    other.close()


def log_line(text):
    return [(EventKind.LOG, {"level": "info", "message": text, "fields": {}})]


def waits_for_a_lock(store):
    with store._database.reader.connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))


def test_a_follower_never_passes_an_event_that_was_numbered_but_is_not_committed_yet(store, other):
    first, second = (store.create(new_job()) for _ in range(2))
    for _ in range(2):
        store.claim(owner="test", lease_seconds=60)
    position = store.position()
    with store._owned(first.id, 1) as slow:  # has drawn its number, and takes its time to commit
        slow.add_event(EventKind.LOG, {"level": "info", "message": "first", "fields": {}})
        slow.save()
        writer = threading.Thread(target=other.append, args=(second.id, 1, log_line("second")))
        writer.start()
        until(lambda: waits_for_a_lock(store))
        assert other.events_since(position, limit=10) == ([], position)
    writer.join()
    followed, _ = other.events_since(position, limit=10)
    assert [event.body["message"] for event in followed] == ["first", "second"]


def test_a_heartbeat_does_not_wait_for_those_who_write_events(store, other):
    first, second = (store.create(new_job()) for _ in range(2))
    for _ in range(2):
        store.claim(owner="test", lease_seconds=60)
    with store._owned(first.id, 1) as slow:
        slow.add_event(EventKind.LOG, {"level": "info", "message": "first", "fields": {}})
        slow.save()
        other.heartbeat(second.id, 1, lease_seconds=60)  # raises once it has waited for ten seconds


def test_a_job_that_another_connection_is_claiming_is_passed_over(store, other):
    first, second = (store.create(new_job()) for _ in range(2))
    with store._locked(first.id):
        assert other.claim(owner="other", lease_seconds=60).id == second.id
        assert other.claim(owner="other", lease_seconds=60) is None


def test_nobody_waits_for_ever_for_a_client_that_was_stopped_in_the_middle_of_a_transaction(store, other):

    @event.listens_for(other._database.writer, "connect")
    def wait_less_long(connection, _record):
        connection.execute("SET lock_timeout = '200ms'")
        connection.commit()

    job = store.create(new_job())
    with store._locked(job.id), pytest.raises(TransientError, match="LockNotAvailable") as caught:
        other.request_cancel(job.id)
    assert caught.value.reason == "STORE_UNAVAILABLE"
    with store._database.writer.begin() as connection:
        limits = [
            connection.scalar(text(f"SHOW {name}")) for name in ("lock_timeout", "idle_in_transaction_session_timeout")
        ]
    assert limits == ["10s", "10s"]


def test_a_restarted_server_is_found_again_by_every_kind_of_connection(postgres, store):
    job = store.create(new_job())
    token = store.await_change(None, 0)
    postgres.stop()
    calls = (lambda: store.get(job.id), lambda: store.create(new_job()), lambda: store.await_change(token, 0))
    try:
        for call in calls:
            with pytest.raises(TransientError) as caught:
                call()
            assert caught.value.reason == "STORE_UNAVAILABLE"
    finally:
        postgres.start()
    assert store.get(job.id) == job
    assert store.await_change(token, 0) == token
    store.create(new_job())
    assert store.await_change(token, 5) != token


def test_a_server_that_does_not_answer_is_a_transient_error_for_migrations_too():
    store = open_job_store("postgresql://nobody@127.0.0.1:9/none")
    for call in (store.migrate, store.position, lambda: store.await_change(None, 0)):
        with pytest.raises(TransientError, match="the job store does not answer"):
            call()
    store.close()


def test_labels_are_looked_up_job_by_job_and_no_query_is_compiled_or_shared(store):
    """Joining all jobs with all labels takes a hundred times as long as a page, as do a JIT and starting workers."""
    asked = []
    with store._database.reader.connect() as connection:
        for setting in ("jit", "max_parallel_workers_per_gather"):
            assert connection.scalar(text(f"SHOW {setting}")) in ("off", "0")

        @event.listens_for(connection, "before_cursor_execute")
        def remember(_connection, _cursor, statement, parameters, *_):
            asked.append((statement, parameters))

        wanted = Filter(labels={"team": "a"}, states=(JobState.FAILED,))
        page(connection, store._database, wanted, NEWEST_FIRST, limit=5, after=None, few=-1)
        [(query, parameters)] = [each for each in asked if "EXISTS" in each[0]]
        for _ in range(12):  # the driver prepares statements, and the server then makes a plan for any values
            page(connection, store._database, wanted, NEWEST_FIRST, limit=5, after=None, few=-1)
        plans = "SELECT custom_plans > 0, generic_plans FROM pg_prepared_statements WHERE statement LIKE '%EXISTS%'"
        assert connection.execute(text(plans)).all() == [(True, 0)]
        plan = connection.exec_driver_sql(f"EXPLAIN {query}", parameters).scalars().all()
    assert any("SubPlan" in line for line in plan)
    assert not any("Join" in line or "Nested Loop" in line for line in plan)
