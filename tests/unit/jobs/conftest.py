import pytest

from secateur_service.jobs.store import open_job_store


@pytest.fixture
def store(tmp_path):
    store = open_job_store(f"sqlite:///{tmp_path}/jobs.sqlite3")
    store.migrate()
    yield store
    store.close()
