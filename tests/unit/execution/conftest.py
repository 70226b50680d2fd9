import pytest

from secateur_service.jobs.store import open_job_store
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


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()
