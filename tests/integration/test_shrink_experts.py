"""Experts of a mixture, narrowed each by the tokens that are routed to it."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.sampling import draw_samples
from secateur_service.pruning.budget import MIN_EXPERT_TOKENS
from secateur_service.pruning.structured.width import choose_channels, resolve
from support.reloading import loaded
from support.shrinking import HEADS, assert_resumes_with_the_same_bytes, assert_same_tensors, data_of, refusals, run
from support.vocabularies import save_scene

WIDTH = {"feed_forward": {"channels": 32}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_scene(tmp_path_factory.mktemp("model"), architecture="qwen3_moe")


@pytest.fixture(scope="module")
def narrowed(model, corpora, tmp_path_factory):
    folder = tmp_path_factory.mktemp("narrowed")
    run(data_of(model, corpora, **WIDTH), folder)
    return folder


def calibration_of(model, corpora):
    calibration, evaluation = corpora
    samples, _ = draw_samples(
        AutoTokenizer.from_pretrained(model),
        calibration=FolderCorpus(calibration),
        evaluation=FolderCorpus(evaluation),
        languages=["uk"],
        evaluation_languages=[],
        sequences=4,
        evaluation_tokens=512,
        sequence_length=64,
        seed=0,
        check=lambda: None,
    )
    return samples["uk"].tokens


@torch.no_grad()
def routed(dense, text):
    """The inputs of the first block's experts, and which of them each token is routed to."""
    seen = []
    hook = dense.model.layers[0].mlp.experts.register_forward_pre_hook(lambda _, args: seen.extend(args[:2]))
    dense(text)
    hook.remove()
    return seen


@torch.no_grad()
def test_every_expert_keeps_what_the_tokens_that_are_routed_to_it_need(model, corpora, narrowed):
    """The first block against second moments of the inputs that transformers sees there."""
    dense, smaller = loaded(model)[0], loaded(narrowed / "checkpoint")[0]
    experts = dense.model.layers[0].mlp.experts
    inputs, chosen = routed(dense, calibration_of(model, corpora))
    (entry,) = (one for one in plan_of(narrowed)["feed_forward"] if one["block"] == 0)
    kept = [channel for first, last in entry["kept"] for channel in range(first, last + 1)]
    for number in range(experts.num_experts):
        tokens = (chosen == number).any(-1)
        assert int(tokens.sum()) >= MIN_EXPERT_TOKENS
        gate, up = (inputs[tokens] @ experts.gate_up_proj[number].T).chunk(2, -1)
        read = (torch.nn.functional.silu(gate) * up).double()
        gram, weight = read.T @ read / 256, experts.down_proj[number]
        expected = choose_channels(weight, gram, 32)
        assert [channel - 48 * number for channel in kept if channel // 48 == number] == expected.tolist()
        found = smaller.model.layers[0].mlp.experts.down_proj[number]
        assert torch.allclose(found.double(), resolve(weight, gram, expected), atol=1e-5)


def plan_of(folder):
    return json.loads((folder / "plan.json").read_bytes())


@pytest.mark.parametrize("shrink", [WIDTH, {**WIDTH, **HEADS, "blocks": {"remove": 1}}], ids="-".join)
def test_an_interrupted_job_resumes_with_the_same_bytes(model, corpora, tmp_path, shrink):
    data = data_of(model, corpora, **shrink)
    assert_resumes_with_the_same_bytes(data, tmp_path)


def test_the_plan_of_another_job_keeps_the_same_channels_of_every_expert(model, corpora, narrowed, tmp_path):
    run(data_of(model, corpora, plan=narrowed.as_uri()), tmp_path)
    assert plan_of(tmp_path) == plan_of(narrowed)
    assert_same_tensors(tmp_path, narrowed)


def test_a_plan_that_keeps_more_of_one_expert_than_of_another_is_refused(model, corpora, narrowed, tmp_path):
    plan = plan_of(narrowed)
    plan["feed_forward"][0]["kept"] = [[0, 47], [64, 111], [144, 175]]  # 48, 32, 16 and 32 of 48
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    told = refusals(data_of(model, corpora, plan=tmp_path.as_uri()))["shrink.plan"]
    assert "as wide in every block, and in every expert" in told


def test_an_expert_that_no_token_is_routed_to_keeps_its_largest_columns(corpora, tmp_path):
    model = save_scene(tmp_path / "model", architecture="mixtral", num_local_experts=8, num_experts_per_tok=1)
    weights = loaded(model)[0]
    gate = weights.model.layers[0].mlp.gate.weight
    with torch.no_grad():
        gate.zero_()  # the same expert wins every tie
    weights.save_pretrained(model)
    run(data_of(model, corpora, **WIDTH), tmp_path / "out")
    dense, smaller = loaded(model)[0], loaded(tmp_path / "out" / "checkpoint")[0]
    (entry,) = (one for one in plan_of(tmp_path / "out")["feed_forward"] if one["block"] == 0)
    kept = [channel for first, last in entry["kept"] for channel in range(first, last + 1)]
    before, after = (each.model.layers[0].mlp.experts.down_proj for each in (dense, smaller))
    _, chosen = routed(dense, calibration_of(model, corpora))
    (used,) = chosen.unique().tolist()
    for number in {*range(8)} - {used}:
        expected = before[number].norm(dim=0).argsort()[-32:].sort().values
        assert [channel - 96 * number for channel in kept if channel // 96 == number] == expected.tolist()
        assert torch.equal(after[number], before[number][:, expected])


def test_a_width_that_transformers_cannot_multiply_is_refused(model, corpora):
    told = refusals(data_of(model, corpora, feed_forward={"channels": 36}))
    assert "36 of 48 channels would be kept of each expert" in told["shrink.feed_forward.channels"]
    told = refusals(data_of(model, corpora, feed_forward={"share": 0.25, "multiple_of": 6}))
    assert "a multiple of 8" in told["shrink.feed_forward.multiple_of"]


def test_the_report_and_the_card_tell_the_width_of_an_expert(narrowed):
    report = json.loads((narrowed / "report" / "report.json").read_bytes())
    widths = [
        block["feed_forward"] and (block["feed_forward"]["kept"], block["feed_forward"]["before"])
        for block in report["blocks"]
    ]
    assert widths == [(32, 48), None, (32, 48)]
    assert "32 of 48" in (narrowed / "checkpoint" / "README.md").read_text(encoding="utf-8")


def test_a_budget_leaves_the_channels_of_experts_alone(model, corpora):
    told = refusals(data_of(model, corpora, budget={"parameters": 0.8, "axes": ["feed_forward"]}))
    assert "feed_forward of this qwen3_moe model cannot be removed" in told["shrink.budget.axes[0]"]
