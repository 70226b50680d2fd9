"""Workers with the real pipeline and little memory."""

import pytest
import torch

from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from support.models import save_corpora, save_model
from support.site import ended
from support.waiting import until

# Hidden states of 40 MB for each copy of each language, in a model of hardly any weights.
WIDE = {"hidden_size": 1024, "intermediate_size": 64, "num_hidden_layers": 2}
MUCH_TEXT = {"languages": ["de", "en", "uk"], "tokens_per_language": 10_240}


@pytest.fixture
def site(tmp_path, make_site):
    save_model(tmp_path / "files" / "model", "llama", dtype=torch.bfloat16, **WIDE)
    save_corpora(tmp_path / "files")
    return make_site(files=tmp_path / "files")


def test_a_job_that_runs_out_of_memory_is_tried_once_more_with_less_and_ends_with_the_same_bytes(site):
    undisturbed = site.submit(**MUCH_TEXT)
    until(ended(site, undisturbed), site.failing())
    job_id = site.submit(**MUCH_TEXT)
    job = until(ended(site, job_id), site.failing(*["job.sampled=little-memory"] * 3))
    [failure] = [body["failure"] for body in site.events(job_id, EventKind.STATE) if body.get("failure")]
    assert failure["reason"] == "OUT_OF_MEMORY"
    assert int(failure["details"]["peak_host_bytes"]) > 10**8
    assert (job.state, job.attempt, sorted(job.shortages)) == (JobState.SUCCEEDED, 2, ["host"])
    assert site.published(job_id) == site.published(undisturbed)
