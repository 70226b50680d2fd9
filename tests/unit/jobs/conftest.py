import pytest

from secateur_service.jobs.store import open_job_store


@pytest.fixture
def store(database_url):
    store = open_job_store(database_url)
    store.migrate()
    yield store
    store.close()
