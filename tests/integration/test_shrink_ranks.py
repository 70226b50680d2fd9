"""Several processes make a model smaller together: whatever their number, the result is the same to the byte."""

import hashlib

import pytest

from secateur_service.errors import CancelledError
from secateur_service.pipeline import team
from secateur_service.pipeline.observer import RecordingObserver
from support.shrinking import AXES, HEADS, WIDTH, Stops, data_of, run
from support.vocabularies import save_scene
from support.worker_forks import helper_stand_in

ONE, TWO = (("uk", 1.0),), (("uk", 0.5), ("en", 0.5))
NARROW = {"feed_forward": {"channels": 32}}
BUDGET = {"budget": {"parameters": 0.85, "axes": ["feed_forward"]}}


@pytest.fixture(autouse=True)
def forked_helpers(monkeypatch):
    monkeypatch.setattr(team, "HELP_COMMAND", helper_stand_in())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_scene(tmp_path_factory.mktemp("model"), hidden_size=256, intermediate_size=512, num_hidden_layers=2)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return save_scene(tmp_path_factory.mktemp("mixture"), architecture="qwen3_moe")


def divisible(model, corpora, mix=TWO, **shrink):
    """A job whose text has several shards: of one language enough for each of two processes to add some up."""
    data = data_of(model, corpora, pruning={"method": "wanda", "sparsity": 0.5}, mix=mix, **shrink)
    data["calibration"] |= {"samples": 32, "sequence_length": 128}
    data["evaluation"]["language_neurons"] = True
    return data


def digests(folder):
    """The SHA-256 of everything that is published but for what tells the time."""
    paths = [*(folder / "checkpoint").iterdir(), folder / "report" / "report.json", folder / "plan.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def assert_divided(observer, count):
    """Each process has read its share of the model."""
    (fields,) = [fields for _, line, fields in observer.lines if line == "several processes have run the pass"]
    read = fields["bytes_read"]
    assert len(read) == count
    assert max(read) <= 1.1 / count * sum(read)


@pytest.mark.parametrize(
    ("mix", "shrink"), [(ONE, WIDTH), (TWO, AXES[-1]), (ONE, BUDGET)], ids=["width", "all", "budget"]
)
def test_the_result_is_that_of_one_process(model, corpora, tmp_path, mix, shrink):
    data, observer = divisible(model, corpora, mix, **shrink), RecordingObserver()
    run(data, tmp_path / "alone")
    run(data, tmp_path / "together", observer, processes=2)
    assert_divided(observer, 2)
    assert digests(tmp_path / "together") == digests(tmp_path / "alone")


@pytest.mark.parametrize("kind", ["model", "mixture"])
def test_a_process_may_have_no_text(corpora, tmp_path, request, kind):
    data, observer = divisible(request.getfixturevalue(kind), corpora, **NARROW, **HEADS), RecordingObserver()
    data["calibration"]["samples"] = 4
    data["evaluation"]["tokens_per_language"] = 128
    run(data, tmp_path / "alone")
    run(data, tmp_path / "together", observer, processes=4)
    assert_divided(observer, 4)
    assert digests(tmp_path / "together") == digests(tmp_path / "alone")


def test_a_stopped_job_goes_on_with_another_number_of_processes(model, corpora, tmp_path):
    data = divisible(model, corpora, **AXES[-1])
    run(data, tmp_path / "alone")
    with pytest.raises(CancelledError):
        run(data, tmp_path / "twice", Stops(), processes=2)
    assert run(data, tmp_path / "twice").resumed_blocks >= 1
    assert digests(tmp_path / "twice") == digests(tmp_path / "alone")
