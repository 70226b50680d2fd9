import pytest
import structlog

from secateur_service.artifacts import open_store
from secateur_service.control.janitor import Janitor
from secateur_service.errors import NotFoundError
from secateur_service.executors.locks import hold_until_exit
from secateur_service.executors.workdir import LocalFolders
from secateur_service.jobs.job import Failure
from secateur_service.jobs.store import open_job_store
from secateur_service.settings import Settings
from servers import S3Access
from support.clock import let_pass
from support.jobs import new_job
from support.waiting import HANG_SECONDS, until

PERMANENT = Failure(reason="BAD_MODEL", message="the model is bad", retryable=False)
SHARD = "checkpoint/model-block-00000-aaaaaaaaaaaaaaaa.safetensors"


class House:
    """A store with jobs, their artifacts and their work directories."""

    def __init__(self, folder):
        self.settings = Settings(data_dir=folder / "data")
        self.work = self.settings.data_dir / "work"
        self.destination = (folder / "artifacts").as_uri()
        self.objects = open_store(self.destination, S3Access())
        self.store = open_job_store(self.settings.database_url)
        self.store.migrate()

    def janitor(self, *, leftovers_seconds=0.0, jobs_seconds=0.0, **options):
        return Janitor(
            self.store,
            self.store.retention,
            LocalFolders(self.settings.data_dir),
            lambda job: open_store(job.destination, S3Access()),
            agents=self.store.agents,
            leftovers_seconds=leftovers_seconds,
            jobs_seconds=jobs_seconds,
            **{"pause_seconds": 60.0, **options},
        )

    def job(self, destination=None, *, end=True):
        """A job that failed after its first block, or is still at it."""
        job_id = self.store.create(new_job(destination=destination or self.destination)).id
        self.store.claim(owner="test", lease_seconds=60)
        (self.work / job_id / "checkpoint").mkdir(parents=True)
        (self.work / job_id / "attempt-1.log").write_text("said")
        self.objects.put_bytes(f"{job_id}/{SHARD}", b"weights", "application/octet-stream")
        if end:
            self.store.release(job_id, 1, PERMANENT)
            let_pass(self.store, 1)
        return job_id

    def left(self, job_id):
        work = [path.name for path in (self.work / job_id).glob("*")]
        return sorted(self.objects.list_keys(f"{job_id}/")), sorted(work)


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path)
    yield house
    house.store.close()


def test_a_round_removes_what_ended_jobs_left_and_touches_no_other(house):
    ended, running = house.job(), house.job(end=False)
    before = house.left(running)
    removed = house.janitor().clean()
    assert (removed.leftovers, removed.jobs) == (1, 0)
    assert house.left(ended) == ([], ["attempt-1.log"])
    assert house.left(running) == before
    assert house.janitor().clean().leftovers == 0
    assert house.store.get(ended).failure == PERMANENT


def test_nothing_goes_before_its_time(house):
    job_id = house.job()
    removed = house.janitor(leftovers_seconds=60, jobs_seconds=60).clean()
    assert (removed.leftovers, removed.jobs) == (0, 0)
    assert house.left(job_id)[0] == [f"{job_id}/{SHARD}"]


def test_a_job_is_forgotten_with_its_logs_after_its_time(house):
    job_id, running = house.job(), house.job(end=False)
    assert house.janitor(jobs_seconds=0.01).clean().jobs == 1
    with pytest.raises(NotFoundError):
        house.store.get(job_id)
    assert house.left(job_id) == ([], [])
    assert not (house.work / job_id).exists()
    assert house.left(running)[1] == ["attempt-1.log", "checkpoint"]


def test_a_work_directory_that_somebody_holds_stays(house):
    job_id = house.job()
    house.store.retention.mark_swept(job_id)
    house.store.retention.forget(0)
    hold_until_exit(house.work / job_id, wait_seconds=0, reason="IN_USE")
    house.janitor().clean()
    assert house.left(job_id)[1] == ["attempt-1.log", "checkpoint"]


def test_a_store_that_cannot_be_reached_is_logged_and_keeps_no_other_job_from_being_cleaned(house):
    lost = house.job(destination="s3://models/lost")  # S3 is not configured
    ended = house.job()
    with structlog.testing.capture_logs() as logs:
        assert house.janitor(jobs_seconds=60).clean().leftovers == 1
    assert house.left(ended)[0] == []
    [warning] = [entry for entry in logs if entry["log_level"] == "warning"]
    assert (warning["job"], warning["reason"]) == (lost, "S3_NOT_CONFIGURED")
    assert house.store.retention.unswept(succeeded_seconds=0, other_seconds=0) == [lost]


def test_a_job_whose_store_is_gone_for_good_is_forgotten_in_the_end(house):
    lost = house.job(destination="s3://models/lost")
    assert house.janitor(jobs_seconds=0.01).clean().jobs == 1
    with pytest.raises(NotFoundError):
        house.store.get(lost)


def test_rounds_go_on_until_it_is_stopped_and_are_told_of(house):
    rounds = []
    janitor = house.janitor(pause_seconds=0.01, on_round=rounds.append)
    janitor.start()
    until(lambda: len(rounds) > 1)
    job_id = house.job()
    until(lambda: not house.left(job_id)[0])
    janitor.stop()
    janitor._rounds._thread.join(HANG_SECONDS)
    assert not janitor._rounds._thread.is_alive()
    assert sum(removed.leftovers for removed in rounds) == 1
