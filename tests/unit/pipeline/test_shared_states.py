"""What blocks of a dense model made of evaluation text, kept for later passes: the same figures without the work."""

import os
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.attempt import Machine
from secateur_service.pipeline.ledger import FileLedger
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.pass_config import PassConfig
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.shared_states import SharedStates
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.streaming_pass import run_pass
from secateur_service.pruning.methods import Recipe
from secateur_service.pruning.patterns import Unstructured
from secateur_service.tasks.requests import Request
from support.models import save_model
from support.passes import samples_of

REQUESTS = [Request((3, *range(10, 30), last), 1) for last in (5, 6)] + [Request((3, *range(10, 30), 7, 8), 2)]
LIMIT = 1 << 24
BLOCKS = 3


class CountingModel(StreamedModel):
    """Counts how often blocks run."""

    def __init__(self, folder):
        super().__init__(open_checkpoint(folder), torch.device("cpu"), torch.float32)
        self.runs = Counter()

    def run_block(self, block, index, states):
        self.runs[index] += 1
        return super().run_block(block, index, states)


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "model")


def evaluate(model, tmp_path, name, *, states=None, limit=LIMIT, sparsity=0.5, in_files=False, neurons=True):
    """A pass that needs no calibration text: its result, how often blocks ran, and what was found."""
    streamed = CountingModel(model)
    streamed.states_folder = tmp_path if in_files else None
    (tmp_path / name).mkdir()
    machine = Machine(tmp_path / name, states_dir=states, states_bytes=limit)
    shared = SharedStates.of(machine, streamed)
    samples = samples_of(["de", "uk"], 4, 64)
    config = PassConfig(
        recipe=Recipe.of("magnitude"),
        targets={info.name: Unstructured(sparsity) for info in streamed.checkpoint.linear_weights()},
        order="block",
        mix={"de": 0.5, "uk": 0.5},
        calibration=samples,
        evaluation=samples,
        shards=Shards(tmp_path / name),
        requests=REQUESTS,
        shared=shared,
        language_neurons=neurons,
    )
    observer = RecordingObserver()
    result = run_pass(streamed, config, FileLedger(tmp_path / name / "ledger.json"), observer, Stopwatch())
    assert observer.history[-1].fraction == pytest.approx(1, abs=0.01)
    return result, sum(streamed.runs.values()), shared.counts if shared else None


def figures(result):
    return (
        {name: (losses.nats, losses.tokens) for name, losses in result.dense.items()},
        {name: (losses.nats, losses.tokens) for name, losses in result.pruned.items()},
        {name: (likeness.nats, likeness.agreed) for name, likeness in result.likeness.items()},
        result.dense_answers,
        result.pruned_answers,
        result.neurons,
        [(record.sha256, record.snr_db) for record in result.blocks],
    )


def test_the_dense_model_is_evaluated_once_for_all_passes(model, tmp_path):
    plain, runs, counts = evaluate(model, tmp_path, "plain")
    assert counts is None
    first, runs_first, counts = evaluate(model, tmp_path, "first", states=tmp_path / "states")
    assert counts == {"computed": BLOCKS, "found": 0}
    assert runs_first == runs
    second, runs_second, counts = evaluate(model, tmp_path, "second", states=tmp_path / "states", in_files=True)
    assert counts == {"computed": 0, "found": BLOCKS}
    assert runs_second == runs / 2
    assert figures(plain) == figures(first) == figures(second)
    other, _, counts = evaluate(model, tmp_path, "other", states=tmp_path / "states", sparsity=0.7)
    assert counts == {"computed": 0, "found": BLOCKS}
    assert figures(other)[0] == figures(plain)[0]
    assert figures(other)[1] != figures(plain)[1]


def test_passes_that_count_neurons_take_over_nothing_from_those_that_do_not(model, tmp_path):
    plain, _, _ = evaluate(model, tmp_path, "plain", states=tmp_path / "states", neurons=False)
    assert plain.neurons is None
    counted, _, counts = evaluate(model, tmp_path, "counted", states=tmp_path / "states")
    assert counts == {"computed": BLOCKS, "found": 0}
    assert counted.dense == plain.dense
    _, _, counts = evaluate(model, tmp_path, "again", states=tmp_path / "states", neurons=False)
    assert counts == {"computed": 0, "found": BLOCKS}


def test_another_model_takes_over_nothing_from_the_first_block_that_differs(model, tmp_path):
    evaluate(model, tmp_path, "first", states=tmp_path / "states")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] += 1
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    plain, _, _ = evaluate(model, tmp_path, "plain")
    found, _, counts = evaluate(model, tmp_path, "second", states=tmp_path / "states")
    assert counts == {"computed": 2, "found": 1}
    assert figures(found) == figures(plain)


def test_states_that_were_damaged_are_computed_again(model, tmp_path):
    first, _, _ = evaluate(model, tmp_path, "first", states=tmp_path / "states")
    damaged, cut, _ = sorted((tmp_path / "states").iterdir())
    content = bytearray(damaged.read_bytes())
    content[100] ^= 1
    damaged.write_bytes(content)
    os.truncate(cut, 1000)
    found, _, counts = evaluate(model, tmp_path, "second", states=tmp_path / "states")
    assert counts == {"computed": 2, "found": 1}
    assert figures(found) == figures(first)
    _, _, counts = evaluate(model, tmp_path, "third", states=tmp_path / "states")
    assert counts == {"computed": 0, "found": BLOCKS}  # what was damaged has been replaced


def test_what_was_not_used_for_longest_makes_room(model, tmp_path):
    states = tmp_path / "states"
    evaluate(model, tmp_path, "first", states=states)
    own = {path.name for path in states.iterdir()}
    size = sum(path.stat().st_size for path in states.iterdir())
    (states / "old").write_bytes(bytes(1000))
    (states / "older.partial7").write_bytes(bytes(1000))  # of a worker that was killed
    os.utime(states / "old", (1000, 1000))
    os.utime(states / "older.partial7", (1000, 1000))
    evaluate(save_model(tmp_path / "other", seed=1), tmp_path, "second", states=states, limit=size + 500)
    left = {path.name for path in states.iterdir()}
    assert not left & {"old", "older.partial7"}
    assert len(left - own) == BLOCKS
    assert sum(path.stat().st_size for path in states.iterdir()) <= size + 500


def test_where_a_text_does_not_fit_or_nothing_can_be_written_a_pass_goes_on(model, tmp_path):
    plain, _, _ = evaluate(model, tmp_path, "plain")
    _, _, counts = evaluate(model, tmp_path, "small", states=tmp_path / "states", limit=1000)
    assert counts == {"computed": BLOCKS, "found": 0}
    assert not list((tmp_path / "states").iterdir())
    (tmp_path / "file").touch()
    found, _, counts = evaluate(model, tmp_path, "no folder", states=tmp_path / "file")
    assert counts == {"computed": BLOCKS, "found": 0}
    assert figures(found) == figures(plain)
