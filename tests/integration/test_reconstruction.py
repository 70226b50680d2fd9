"""Blocks that are trained to do what the dense model does: never worse, with their zeros, and the same every time."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.sampling import draw_samples
from secateur_service.errors import CancelledError
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.reconstruction import Reconstructor
from support.models import CONFIGS
from support.reloading import bits_per_byte, held_out, loaded
from support.shrinking import (
    DEPTH,
    HEADS,
    LANGUAGES,
    WIDTH,
    admitted,
    assert_resumes_with_the_same_bytes,
    data_of,
    refusals,
    run,
    tensors_of,
)
from support.vocabularies import save_scene

SPARSE = {"method": "wanda", "sparsity": 0.6}
SOME = ["llama", "gemma3_text", "qwen3_moe", "mixtral", "falcon", "opt", "cohere", "bloom"]


def trained_by(model, corpora, *, shrink=None, pruning=SPARSE, mix=(("uk", 0.7), ("de", 0.3)), **options):
    data = data_of(model, corpora, pruning=pruning, mix=mix, **(shrink or WIDTH))
    data["calibration"]["samples"] = 32
    if shrink is None:
        del data["shrink"]
    return {**data, "reconstruction": {"epochs": 2, **options}}


def without(data):
    return {name: part for name, part in data.items() if name != "reconstruction"}


def assert_never_worse(report, mix):
    for block in report.blocks:
        before, after = (
            sum(weight * errors[language] for language, weight in mix)
            for errors in (block.reconstruction.before, block.reconstruction.after)
        )
        assert after < before if block.reconstruction.epoch else after == before


@pytest.mark.parametrize("architecture", SOME)
def test_every_kind_of_block_can_be_trained(tmp_path, corpora, architecture):
    assert architecture in CONFIGS
    model = save_scene(tmp_path / "model", architecture=architecture)
    data = trained_by(model, corpora)
    report = run(data, tmp_path / "out").report
    assert_never_worse(report, (("uk", 0.7), ("de", 0.3)))
    assert any(block.reconstruction.epoch for block in report.blocks)
    smaller, tokenizer = loaded(tmp_path / "out" / "checkpoint")
    samples = held_out(model, *corpora, LANGUAGES)
    for entry in report.evaluation:
        after, _, _ = bits_per_byte(smaller, tokenizer, samples[entry.language])
        assert entry.pruned_bits_per_byte == pytest.approx(after, rel=1e-5)
    tensors = tensors_of(tmp_path / "out")
    for block in report.blocks:
        for layer in block.layers:
            assert layer.zeros == int((tensors[layer.name] == 0).sum())
            assert layer.sparsity == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize(
    "pruning", [SPARSE, {"method": "sparsegpt", "pattern": "2:4", "asymmetric": False}], ids=["wanda", "2:4"]
)
@pytest.mark.parametrize("order", ["block", "true_sequential"])
def test_zeros_stay_zeros_and_everything_else_of_a_layer_is_trained(model, corpora, tmp_path, pruning, order):
    data = trained_by(model, corpora, pruning={**pruning, "order": order})
    run(data, tmp_path / "trained")
    run(without(data), tmp_path / "solved")
    trained, solved = (tensors_of(tmp_path / name) for name in ("trained", "solved"))
    dense = load_file(next(model.glob("*.safetensors")))
    first = [name for name in trained if ".layers.0." in name and trained[name].ndim == 2]
    assert len(first) == 7
    for name in first:
        assert torch.equal(trained[name] == 0, solved[name] == 0)
        kept = trained[name] != 0
        assert (trained[name][kept] != solved[name][kept]).float().mean() > 0.9
    for name, tensor in trained.items():
        if pruning.get("pattern") and ".layers." in name and tensor.ndim == 2:
            assert ((tensor.reshape(len(tensor), -1, 4) != 0).sum(-1) <= 2).all()
        if "norm" in name or "embed" in name:
            assert torch.equal(tensor, dense[name])


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "opt"])
def test_norms_are_trained_too_if_that_is_asked_for(tmp_path, corpora, architecture):
    model = save_scene(tmp_path / "model", architecture=architecture)
    report = run(trained_by(model, corpora, norms=True), tmp_path / "out").report
    assert_never_worse(report, (("uk", 0.7), ("de", 0.3)))
    dense, trained = load_file(next(model.glob("*.safetensors"))), tensors_of(tmp_path / "out")
    of_block = [name for name in trained if ".layers.0." in name and "norm" in name and name.endswith("weight")]
    assert len(of_block) == {"llama": 2, "gemma3_text": 6, "opt": 2}[architecture]
    assert report.blocks[0].reconstruction.epoch
    for name, tensor in trained.items():
        if name in of_block:
            assert not torch.equal(tensor, dense[name]), name
        elif "norm" in name and ".layers." not in name:
            assert torch.equal(tensor, dense[name]), name
    smaller, tokenizer = loaded(tmp_path / "out" / "checkpoint")
    samples = held_out(model, *corpora, LANGUAGES)
    for entry in report.evaluation:
        after, _, _ = bits_per_byte(smaller, tokenizer, samples[entry.language])
        assert entry.pruned_bits_per_byte == pytest.approx(after, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_error_is_that_of_the_hidden_states_of_the_sequences_that_are_held_out(corpora, tmp_path, dtype):
    """With the weights that are written, rounded to their type."""
    model = save_scene(tmp_path / "model", dtype=dtype)
    data = trained_by(model, corpora)
    report = run(data, tmp_path / "out").report
    dense, pruned = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (model, tmp_path / "out" / "checkpoint")
    )
    calibration, _ = draw_samples(
        AutoTokenizer.from_pretrained(model),
        calibration=FolderCorpus(corpora[0]),
        evaluation=FolderCorpus(corpora[1]),
        languages=["uk", "de"],
        evaluation_languages=LANGUAGES,
        sequences=16,
        evaluation_tokens=512,
        sequence_length=64,
        seed=0,
        check=lambda: None,
    )
    states = {
        language: [each(sample.tokens, output_hidden_states=True).hidden_states for each in (dense, pruned)]
        for language, sample in calibration.items()
    }
    for number, block in enumerate(report.blocks[:-1]):  # the last ones are normalised already
        even = {
            language: [
                each[number + 1].double() / each[number + 1].double().norm(dim=-1, keepdim=True) for each in both
            ]
            for language, both in states.items()
        }
        deviation = torch.cat([goal for goal, _ in even.values()]).flatten(0, 1).std(0, correction=0)
        for language, (goal, found) in even.items():
            assert len(goal) == 16
            wrong, whole = (found - goal)[[7, 15]] / deviation, goal / deviation
            expected = wrong.square().mean() / whole.square().mean()
            assert block.reconstruction.epoch > 0
            assert block.reconstruction.after[language] == pytest.approx(float(expected), rel=1e-4)


def test_no_token_or_channel_decides_by_its_size(tmp_path, corpora):
    """A channel, and a token, with huge hidden states."""


def test_steps_that_lead_nowhere_leave_what_the_solver_found(model, corpora, tmp_path):
    data = trained_by(model, corpora, learning_rate=1.0, epochs=1)
    report = run(data, tmp_path / "trained").report
    run(without(data), tmp_path / "solved")
    assert [block.reconstruction.epoch for block in report.blocks] == [0, 0, 0]
    assert "NOTHING_TRAINED" in {verdict.kind for verdict in report.verdicts}
    one, other = (tensors_of(tmp_path / name) for name in ("trained", "solved"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_training_pays_in_every_language_on_text_that_the_job_did_not_see(trained, corpora, tmp_path):
    for name, change in {"mask": {}, "narrow": {"shrink": {"feed_forward": {"channels": 8}}, "pruning": None}}.items():
        data = trained_by(trained, corpora, epochs=4, **change)
        after, before = (run(each, tmp_path / name / str(at)).report for at, each in enumerate((data, without(data))))
        for one, other in zip(after.evaluation, before.evaluation, strict=True):
            if one.language in ("uk", "de"):
                assert one.pruned_bits_per_byte < other.pruned_bits_per_byte
        page = (tmp_path / name / "0" / "report" / "report.html").read_text(encoding="utf-8")
        assert "What training the blocks brought" in page
        assert "blocks improved by training" in page


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_a_block_is_trained_to_stand_for_the_removed_ones_after_it(corpora, tmp_path, architecture):
    """Of which one is the last: what it did is lost unless the one before it does it."""
    model = save_scene(tmp_path / "model", architecture=architecture)
    run(data_of(model, corpora, blocks={"remove": 2}), tmp_path / "given")
    plan = json.loads((tmp_path / "given" / "plan.json").read_bytes())
    plan["removed_blocks"] = [{"block": 1, "growth": {}}, {"block": 2, "growth": {}}]
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.json").write_text(json.dumps(plan))
    data = trained_by(model, corpora, shrink={"plan": (tmp_path / "plan").as_uri()}, pruning=None, epochs=4)
    run(data, tmp_path / "trained")
    run(without(data), tmp_path / "solved")
    dense, trained, solved = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (model, tmp_path / "trained" / "checkpoint", tmp_path / "solved" / "checkpoint")
    )
    text = held_out(model, *corpora, ["uk"])["uk"].tokens
    with torch.no_grad():
        goal, one, other = (each.base_model(text).last_hidden_state for each in (dense, trained, solved))
    assert (one - goal).square().mean() < (other - goal).square().mean()


def test_minimax_lowers_the_largest_error_of_a_language(trained, corpora, tmp_path):
    mix = (("uk", 0.95), ("de", 0.05))
    reports = {}
    for policy in ("weights", "minimax"):
        data = trained_by(trained, corpora, pruning={"method": "sparsegpt", "sparsity": 0.6}, mix=mix, epochs=6)
        data["calibration"]["policy"] = policy
        reports[policy] = run(data, tmp_path / policy).report
    worst = {
        policy: [max(block.reconstruction.after.values()) for block in report.blocks]
        for policy, report in reports.items()
    }
    for block in reports["minimax"].blocks:
        assert max(block.reconstruction.after.values()) <= max(block.reconstruction.before.values())
    assert worst["minimax"][-1] < worst["weights"][-1]


EVERYTHING = {"vocabulary": {"extra_tokens": 0.02, "prior": "ranks"}, **WIDTH, **HEADS, **DEPTH}


@pytest.mark.parametrize("shrink", [None, EVERYTHING], ids=["a mask", "everything"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_interrupted_job_resumes_with_the_same_bytes(corpora, tmp_path, shrink, dtype):
    model = save_scene(tmp_path / "model", dtype=dtype)
    data = trained_by(model, corpora, shrink=shrink, norms=True)
    whole = assert_resumes_with_the_same_bytes(data, tmp_path)
    assert_never_worse(whole.report, (("uk", 0.7), ("de", 0.3)))


def test_a_job_is_cancelled_within_an_epoch(model, corpora, tmp_path, monkeypatch):
    steps = []

    class Impatient(RecordingObserver):
        def check(self):
            if len(steps) == 3:
                raise CancelledError("enough")

    step = Reconstructor._step
    monkeypatch.setattr(Reconstructor, "_step", lambda *args: (step(*args), steps.append(1)))
    with pytest.raises(CancelledError):
        run(trained_by(model, corpora), tmp_path, Impatient())
    assert len(steps) == 3


@pytest.mark.parametrize("shrink", [None, WIDTH], ids=["a mask", "width"])
def test_progress_reaches_its_end(model, corpora, tmp_path, shrink):
    observer = RecordingObserver()
    run(trained_by(model, corpora, shrink=shrink), tmp_path, observer)
    fractions = [progress.fraction for progress in observer.history]
    assert fractions == sorted(fractions)
    assert fractions[-2] > 0.97


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"pruning": {**SPARSE, "order": "dense"}}, "reconstruction", "in order dense"),
        ({"shrink": {"vocabulary": {"rows": 512}}, "pruning": None}, "reconstruction", "the blocks stay as they are"),
        (
            {"shrink": {"budget": {"parameters": 0.9, "axes": ["vocabulary"]}}, "pruning": None},
            "reconstruction",
            "as they",
        ),
        ({"epochs": 0}, "reconstruction.epochs", "greater than or equal to 1"),
        ({"learning_rate": 0}, "reconstruction.learning_rate", "greater than 0"),
        ({"batch": 0}, "reconstruction.batch", "greater than or equal to 1"),
        ({"steps": 3}, "reconstruction.steps", "known are epochs"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field(model, corpora, change, field, told):
    assert told in refusals(trained_by(model, corpora, **change))[field]


def test_too_few_sequences_to_judge_by_are_refused(model, corpora):
    data = trained_by(model, corpora)
    data["calibration"]["samples"] = 14
    assert "reconstruction needs 16 in all" in refusals(data)["calibration.samples"]


def test_an_estimate_counts_the_training(model, corpora):
    data = trained_by(model, corpora, epochs=8)
    more, less = (admitted(each).estimate for each in (data, without(data)))
    assert more.flops > 3 * less.flops
    assert more.peak_host_bytes >= less.peak_host_bytes
    all_at_once, more_than_there_are = (
        admitted(trained_by(model, corpora, batch=batch)).estimate for batch in (32, 4096)
    )
    assert all_at_once.peak_host_bytes == more_than_there_are.peak_host_bytes
