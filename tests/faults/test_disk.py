"""A disk that is full, on a small file system of its own."""

import pytest
import torch

from faults.surroundings import fill, small_disk
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from support.models import save_corpora, save_model
from support.site import ended, has_block
from support.waiting import until


@pytest.fixture
def disk(tmp_path):
    """A folder on a file system of 16 MB."""
    folder = tmp_path / "disk"
    with small_disk(folder, 16 << 20) as is_mounted:
        if not is_mounted:
            pytest.skip("this user may not mount a file system")
        yield folder


def test_a_disk_that_fills_up_costs_no_finished_block_and_no_partial_file(make_site, disk, tmp_path):
    database = {"database_url": f"sqlite:///{tmp_path}/jobs.sqlite3"}
    files = tmp_path / "files"
    save_model(files / "model", "llama", dtype=torch.bfloat16, num_hidden_layers=8)
    save_corpora(files)
    site = make_site(disk / "data", files, destinations=[(tmp_path / "artifacts").as_uri()], **database)
    undisturbed = site.submit()
    until(ended(site, undisturbed), site.failing())
    job_id = site.submit()
    dispatcher = site.failing("block.recorded=step")
    until(has_block(site, job_id), dispatcher)

    def filled():  # again and again: blocks that move on make room
        fill(disk)
        site.let_step()
        return site.failures(job_id)

    until(filled, dispatcher)
    assert site.failures(job_id) == ["DISK_FULL"]
    assert not list((site.settings.data_dir / "work" / job_id).rglob("*.partial"))
    finished = len(site.store.blocks(job_id))
    fill(disk).unlink()
    job = until(ended(site, job_id), dispatcher)
    assert job.state is JobState.SUCCEEDED
    assert [body["index"] for body in site.events(job_id, EventKind.BLOCK)] == list(range(site.blocks))
    assert 0 < finished < site.blocks
    assert site.published(job_id) == site.published(undisturbed)


def test_an_artifact_folder_that_fills_up_is_no_half_result(make_site, disk):
    site = make_site(destinations=[(disk / "artifacts").as_uri()])
    job_id = site.submit(max_attempts=1)
    fill(disk)
    job = until(ended(site, job_id), site.failing())
    assert (job.state, job.failure.reason) == (JobState.FAILED, "OBJECT_STORE_FULL")
    assert not list((disk / "artifacts").rglob("manifest*"))
    assert not list((disk / "artifacts").rglob(".partial*"))
