import pytest

from secateur_service.jobs.store import open_job_store
from support.clock import Clock
from support.jobs import new_job


@pytest.fixture
def store(tmp_path):
    store = open_job_store(f"sqlite:///{tmp_path}/jobs.sqlite3")
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def job(store):
    store.create(new_job())
    return store.claim(owner="test", lease_seconds=60)


@pytest.fixture
def clock():
    return Clock()
