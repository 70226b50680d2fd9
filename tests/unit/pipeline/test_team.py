"""What several processes cannot run together, and how one of them that hangs is found."""

import os
import signal
import subprocess
import time

import pytest
import torch

from secateur_service.errors import TransientError
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import TensorReader
from secateur_service.pipeline.team import SILENT_SECONDS, Helper, Team, alive_file, obstacle
from secateur_service.sizing import dividing
from support.models import save_model


@pytest.fixture
def model(tmp_path):
    folder = save_model(tmp_path / "model", "mixtral", num_hidden_layers=1)
    return StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)


def test_a_model_that_is_fetched_a_few_shards_at_a_time_is_not_divided(model):
    assert obstacle(model) is None
    model.reader = TensorReader(lambda path: path.open("rb"))
    assert obstacle(model) == "the model is fetched a few shards at a time"


def test_an_accelerator_has_a_job_to_itself():
    assert dividing.obstacle(on_device=True) == "several processes compute on CPUs only"


def test_a_stopped_helper_hangs_once_it_was_waited_for_and_silent_for_as_long_as_is_said(tmp_path):
    process = subprocess.Popen(["sleep", "1000"], stdout=subprocess.PIPE)
    helper = Helper(1, 2, tmp_path, process)
    try:
        alive = alive_file(tmp_path, 1)
        alive.touch()
        os.kill(helper.pid, signal.SIGSTOP)
        team = Team(2, lambda: None)
        team.helpers = [helper]
        long = SILENT_SECONDS + 1
        team.look(long)  # it was well a moment ago
        os.utime(alive, (time.time() - long,) * 2)
        team.look(0.0)  # nobody waits for it
        with pytest.raises(TransientError, match=r"process 1 of 2 .* no sign of life for 600 s") as hung:
            team.look(long)
        assert hung.value.reason == "RANK_LOST"
    finally:
        helper.end()
    assert process.returncode == -signal.SIGKILL
