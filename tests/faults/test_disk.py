"""A disk that is full, on a small file system of its own."""

import shutil
import subprocess

import pytest

from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from support.site import ended, has_block, until

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={16 * MIB}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Take all room but a little."""
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(folder).free - 8 * 1024))
    return ballast


def test_a_disk_that_fills_up_costs_no_finished_block_and_no_partial_file(make_site, small_disk, tmp_path):
    database = {"database_url": f"sqlite:///{tmp_path}/jobs.sqlite3"}
    site = make_site(folder=small_disk / "data", destinations=[(tmp_path / "artifacts").as_uri()], **database)
    undisturbed = site.submit()
    until(ended(site, undisturbed), site.failing())
    job_id = site.submit()
    dispatcher = site.failing("block.written=wait")
    until(has_block(site, job_id), dispatcher)
    ballast = fill(small_disk)
    until(lambda: site.failures(job_id), dispatcher)
    assert site.failures(job_id) == ["DISK_FULL"]
    assert not list((site.settings.data_dir / "work" / job_id).rglob("*.partial"))
    finished = len(site.store.blocks(job_id))
    ballast.unlink()
    job = until(ended(site, job_id), dispatcher)
    assert job.state is JobState.SUCCEEDED
    assert [body["index"] for body in site.events(job_id, EventKind.BLOCK)] == list(range(site.blocks))
    assert 0 < finished < site.blocks
    assert site.published(job_id) == site.published(undisturbed)


def test_an_artifact_folder_that_fills_up_is_no_half_result(make_site, small_disk):
    site = make_site(destinations=[(small_disk / "artifacts").as_uri()])
    job_id = site.submit(max_attempts=1)
    ballast = fill(small_disk)
    job = until(ended(site, job_id), site.failing())
    assert (job.state, job.failure.reason) == (JobState.FAILED, "OBJECT_STORE_FULL")
    assert not list((small_disk / "artifacts").rglob("manifest*"))
    assert not list((small_disk / "artifacts").rglob(".partial*"))
    ballast.unlink()
