"""Several processes run one pass: whatever their number, they write the same bytes, and none is left behind."""

import os
import signal
from pathlib import Path

import pytest

from secateur_service.errors import CancelledError, TransientError
from secateur_service.pipeline import team as module
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.team import Team
from secateur_service.pruning.patterns import NofM, Unstructured
from secateur_service.spec import ReconstructionSpec
from support.forking import ForkedProcess
from support.models import save_model
from support.passes import MIX, prune, samples_of, start_helper
from support.waiting import until
from support.worker_forks import helper_stand_in

TRAINED = ReconstructionSpec(epochs=1)
RECIPES = {
    "wanda": ("wanda", Unstructured(0.5), {"order": "true_sequential", "language_neurons": True}),
    "ria and cg": ("ria", Unstructured(0.5, "layer"), {"update": "cg"}),
    "sparsegpt and cg": ("sparsegpt", Unstructured(0.5, "layer"), {"order": "true_sequential", "asymmetric": True}),
    "alps": ("alps", Unstructured(0.6, "layer"), {"order": "true_sequential", "asymmetric": True}),
    "2:4": ("sparsegpt", NofM(2, 4), {"update": "obs", "order": "dense"}),
    "minimax": ("wanda", Unstructured(0.5), {"update": "cg", "minimax": True}),
    "trained": ("wanda", Unstructured(0.6), {"order": "true_sequential", "reconstruction": TRAINED}),
    "mixture": ("sparsegpt", Unstructured(0.5, "layer"), {"update": "cg"}),
}


class Stops(RecordingObserver):
    """Does something, such as to stop the pass, when the first block is finished."""

    def __init__(self, stop):
        super().__init__()
        self.stop = stop

    def check(self):
        if self.blocks:
            self.stop()


def cancel():
    raise CancelledError("cancelled")


@pytest.fixture(autouse=True)
def forked_helpers(request, monkeypatch):
    """Starts helpers as a job does only where that is looked at."""
    if request.node.get_closest_marker("started") is None:
        monkeypatch.setattr(module, "HELP_COMMAND", helper_stand_in())


@pytest.fixture(scope="module")
def passes(tmp_path_factory):
    """Runs a pass of a recipe into a folder: its layers have several slices, its text several shards."""
    folder = tmp_path_factory.mktemp("ranks")
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    dense = save_model(folder / "dense", hidden_size=256, intermediate_size=384, **heads)
    mixture = save_model(folder / "mixture", "mixtral", intermediate_size=256, **heads)
    samples = samples_of(MIX, sequences=8, length=256), samples_of(["de", "uk"], sequences=8, length=256)

    def run(recipe, shards, **options):
        method, target, how = RECIPES[recipe]
        shards.mkdir(exist_ok=True)
        model = mixture if recipe == "mixture" else dense
        return prune(model, samples, MIX, method, target, shards, **how, **options)

    return run


@pytest.fixture(scope="module")
def alone(passes, tmp_path_factory):
    """What one process makes of each recipe."""
    folder = tmp_path_factory.mktemp("alone")
    return {recipe: told(passes(recipe, folder / recipe)) for recipe in RECIPES}


def told(result):
    """Everything that a pass says, but for the time that it took."""
    blocks = [(block.shard, block.sha256, block.tensors, block.layers, block.snr_db) for block in result.blocks]
    trained = [block.reconstruction for block in result.blocks]
    return blocks, trained, result.dense, result.pruned, result.likeness, result.neurons


def is_running(pid):
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(("count", "recipes"), [(2, RECIPES), (4, ("wanda", "sparsegpt and cg"))])
def test_the_bytes_are_the_same_for_any_number_of_processes(passes, alone, tmp_path, count, recipes):
    with pytest.raises(CancelledError):
        passes("wanda", tmp_path / "wanda", observer=Stops(cancel))
    with Team(count, lambda: None) as team:
        for recipe in recipes:
            result = passes(recipe, tmp_path / recipe, team=team)
            assert told(result) == alone[recipe], recipe
            assert result.resumed_blocks == (recipe == "wanda")
            read = [used.bytes_read for used in team.used]
            assert max(read) <= 1.1 / count * sum(read), recipe
    assert not any(is_running(helper.pid) for helper in team.helpers)


def test_a_lost_process_ends_the_attempt_with_its_reason_and_the_next_goes_on_from_the_finished_blocks(
    passes, alone, tmp_path
):
    def run(team):
        observer = Stops(lambda: os.kill(team.helpers[0].pid, signal.SIGKILL))
        passes("ria and cg", tmp_path, team=team, observer=observer)

    with pytest.raises(TransientError, match="process 1 of 2 of the job ended with signal SIGKILL") as lost:
        with_team(run)
    assert lost.value.reason == "RANK_LOST"
    result = passes("ria and cg", tmp_path)
    assert told(result) == alone["ria and cg"]
    assert result.resumed_blocks == 1


@pytest.mark.started
def test_a_process_that_hangs_ends_the_attempt_and_is_killed(passes, tmp_path):
    team = Team(2, lambda: None, silent_seconds=2)
    observer = Stops(lambda: os.kill(team.helpers[0].pid, signal.SIGSTOP))
    with pytest.raises(TransientError, match="process 1 of 2 of the job hangs: no sign of life for 2 s") as hung, team:
        passes("wanda", tmp_path, team=team, observer=observer)
    assert hung.value.reason == "RANK_LOST"
    assert not is_running(team.helpers[0].pid)


@pytest.mark.started
def test_a_stopped_job_leaves_no_process_behind(passes, tmp_path):
    helpers = []

    def run(team):
        helpers.extend(team.helpers)
        passes("wanda", tmp_path, team=team, observer=Stops(cancel))

    with pytest.raises(CancelledError):
        with_team(run)
    assert not any(is_running(helper.pid) for helper in helpers)


SLOW = """
import os, pathlib, sys, time

if "help-job" in sys.orig_argv:
    pathlib.Path(__file__).with_name("starting").write_text(str(os.getpid()))
    time.sleep(10**6)
"""


def test_a_helper_that_only_starts_ends_with_a_killed_worker(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SLOW)  # its libraries take for ever to load
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    worker = ForkedProcess(start_helper, tmp_path, environment=environment)
    helper = int(until((tmp_path / "starting").exists) and until((tmp_path / "starting").read_text))
    assert is_running(helper)
    worker.kill()
    until(lambda: not is_running(helper))


def with_team(run):
    with Team(2, lambda: None) as team:
        run(team)


def test_what_a_helper_meets_is_raised_as_it_is_and_says_where(passes, tmp_path, capfd):
    (tmp_path / "block-00001.partial").mkdir()  # the second process writes the second block
    with pytest.raises(IsADirectoryError) as raised:
        with_team(lambda team: passes("wanda", tmp_path, team=team))
    assert "write_shard" in "".join(raised.value.__notes__) or "partial.open" in "".join(raised.value.__notes__)
    assert "Traceback" not in capfd.readouterr().err
