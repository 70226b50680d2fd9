"""The service chooses what to remove: within the budget, by what it measured, and resumed without trying twice."""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from secateur_service.errors import CancelledError, PermanentError
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.plan import OutputPlan
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.units import heads_of, settings_of
from secateur_service.pipeline import divided, processes
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.survey import Survey
from secateur_service.pruning.structured.amounts import Amounts
from secateur_service.pruning.structured.width import choose_channels, resolve
from secateur_service.sizing.budget_search import TRIALS, sizes_of
from support.configurations import marked
from support.models import CONFIGS, save_model
from support.passes import samples_of
from support.shrinking import admitted, assert_reloads, data_of, refusals, run
from support.vocabularies import save_scene

BUDGET = {"budget": {"parameters": 0.6}}
# One of each kind: what can go of it, and how it is normalised; every axis alone is tested on all of them.
KINDS = [
    "llama",
    "gemma3_text",
    "cohere",
    "mixtral",
    "qwen3_moe",
    "phi3",
    "gpt_neox",
    "opt projected",
    "falcon",
    "bloom",
]


@pytest.mark.parametrize("architecture", KINDS)
def test_every_kind_of_architecture_fits_a_budget(tmp_path, corpora, architecture):
    assert architecture in CONFIGS
    model = save_scene(tmp_path / "model", architecture=architecture)
    data = data_of(model, corpora, budget={"parameters": 0.7})
    axes = admitted(data).resolved.shrink.budget.axes
    report = run(data, tmp_path / "out").report
    assert_reloads(model, corpora, tmp_path / "out", report)
    assert report.output.parameters <= 0.7 * report.model.parameters
    chosen = report.budget.tried[report.budget.chosen]
    assert chosen.parameters == report.output.parameters
    assert max(chosen.measured.values()) == min(max(plan.measured.values()) for plan in report.budget.tried)
    assert {"vocabulary", "blocks"} <= set(axes)
    plan = json.loads((tmp_path / "out" / "plan.json").read_bytes())
    assert plan["budget"] == report.budget.model_dump(mode="json")
    assert len(plan["removed_blocks"]) == chosen.removed


@pytest.mark.parametrize("architecture", marked(CONFIGS))
def test_the_parameters_of_every_plan_are_those_of_its_model(tmp_path, architecture):
    checkpoint = open_checkpoint(save_scene(tmp_path / "model", architecture=architecture))
    sizes, plan = sizes_of(checkpoint), OutputPlan.identity(checkpoint)
    assert sizes.parameters(sizes.dense, ()) == checkpoint.parameters
    rows = {
        name: {0: range(512)}
        for name in {checkpoint.embedding_name, checkpoint.head_name, "lm_head.bias"} & checkpoint.tensors.keys()
    }
    narrowed = {}
    amounts = Amounts(512, 1, sizes.dense.heads, sizes.dense.channels)
    if sizes.dense.channels:
        narrowed["feed_forward"] = 60
        amounts = Amounts(512, 1, sizes.dense.heads, 60)
    if sizes.dense.heads:
        narrowed["attention"] = 1
        amounts = Amounts(512, 1, 1, amounts.channels)
        assert settings_of(checkpoint, "attention", 1)["num_key_value_heads"] < heads_of(checkpoint).keys
    smaller = OutputPlan(checkpoint, checkpoint.config, (0, *plan.blocks[2:]), kept=rows, narrowed=narrowed).output()
    assert sizes.parameters(amounts, (1,)) == smaller.parameters


@pytest.mark.parametrize(
    ("architecture", "path", "projection"),
    [("llama", "model.layers.1", "mlp.down_proj"), ("gpt2", "transformer.h.1", "mlp.c_proj")],
)
def test_what_narrower_layers_lose_is_what_transformers_computes(tmp_path, architecture, path, projection):
    """‖X(W − Ŵ)ᵀ‖² / ‖h‖² from the inputs that hooks see."""
    folder = save_model(tmp_path / "model", architecture)
    checkpoint = open_checkpoint(folder)
    text = samples_of(("de", "uk"), 8, 32)
    model = StreamedModel(checkpoint, torch.device("cpu"), torch.float32)
    survey = Survey(model, {"de": 0.5, "uk": 0.5}, text, ("de", "uk"), Meter(RecordingObserver(), 2))
    found = survey.run(["feed_forward"])["feed_forward"]
    dense, seen = AutoModelForCausalLM.from_pretrained(folder).eval(), {}
    layer = dense.get_submodule(path)
    linear = layer.get_submodule(projection)
    linear.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0].flatten(0, 1).double()))
    layer.register_forward_hook(lambda _, _inputs, output: seen.update(h=output.flatten(0, 1).double()))
    inputs, states = {}, {}
    with torch.no_grad():
        for name, sample in text.items():
            dense(sample.tokens)
            inputs[name], states[name] = seen["x"], seen["h"]
    weight = linear.weight.detach().T if architecture == "gpt2" else linear.weight.detach()
    grams = {name: x.T @ x / len(x) for name, x in inputs.items()}
    mixed = sum(0.5 * gram for gram in grams.values()).float()
    for count in sorted(found[1])[:-1]:
        kept = choose_channels(weight, mixed, count)
        rest = weight.double().clone()
        rest[:, kept] -= resolve(weight, mixed, kept)
        for name, x in inputs.items():
            expected = float((x @ rest.T).square().sum() / states[name].square().sum())
            assert found[1][count][name] == pytest.approx(expected, rel=1e-3)
    assert found[1][weight.shape[1]] == {"de": 0.0, "uk": 0.0}


class StopsAfter(RecordingObserver):
    """Stops the job once so many plans were tried."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def check(self):
        if sum(line == "plan tried" for _, line, _ in self.lines) >= self.count:
            raise CancelledError("enough")


def test_an_interrupted_search_goes_on_where_it_was(model, corpora, tmp_path, monkeypatch):
    count = 2
    data = data_of(model, corpora, pruning={"sparsity": 0.5}, mix=(("uk", 0.5), ("en", 0.5)), **BUDGET)
    data["calibration"]["samples"] = 8
    whole = run(data, tmp_path / "whole")
    assert len(whole.report.budget.tried) > count
    with pytest.raises(CancelledError):
        run(data, tmp_path / "twice", StopsAfter(count))
    passes = []
    run_pass = processes.run_pass
    monkeypatch.setattr(processes, "run_pass", lambda *given: passes.append(given[1].writes) or run_pass(*given))
    monkeypatch.setattr(divided, "Survey", None)
    resumed = run(data, tmp_path / "twice")
    assert passes == [*[False] * (len(whole.report.budget.tried) - count), True]
    assert resumed.report.to_bytes() == whole.report.to_bytes()
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "checkpoint").iterdir()}
        for name in ("whole", "twice")
    ]
    assert files[0] == files[1]


def test_a_budget_is_kept_with_the_axes_that_are_allowed(model, corpora, tmp_path):
    data = data_of(model, corpora, budget={"parameters": 0.9, "axes": ["feed_forward"]})
    report = run(data, tmp_path).report
    assert report.output.parameters <= 0.9 * report.model.parameters
    assert report.vocabulary is None
    assert not report.removed_blocks
    assert all(block.attention is None for block in report.blocks)
    assert len(report.budget.tried) <= TRIALS


def test_the_patterns_of_the_pruning_divide_what_is_left(model, corpora, tmp_path):
    overrides = [{"layers": "*down_proj*", "pattern": "1:3"}]
    axes = ["feed_forward", "kv_heads"]
    data = data_of(
        model, corpora, pruning={"sparsity": 0.5, "overrides": overrides}, budget={"parameters": 0.9, "axes": axes}
    )
    report = run(data, tmp_path).report
    chosen = report.budget.tried[report.budget.chosen]
    assert all(plan.channels % 3 == 0 for plan in report.budget.tried)
    assert {layer.shape[1] for layer in report.blocks[0].layers if "down_proj" in layer.name} == {chosen.channels}


def test_a_language_without_weight_is_evaluated_and_not_heeded(model, corpora, tmp_path):
    data = data_of(model, corpora, mix=(("uk", 1.0), ("en", 0.0)), **BUDGET)
    data["calibration"]["samples"] = 8
    report = run(data, tmp_path).report
    assert report.output.parameters <= 0.6 * report.model.parameters
    assert report.budget.tried[0].measured.keys() == {"uk"}


def test_little_text_is_warned_of_and_too_little_refused(model, corpora, tmp_path):
    data = data_of(model, corpora, mix=(("uk", 0.5), ("en", 0.5)), **BUDGET)
    assert "needs 8 in all" in refusals(data)["calibration.samples"]
    data["calibration"]["samples"] = 8
    observer = RecordingObserver()
    run(data, tmp_path, observer)
    assert [level for level, line, _ in observer.lines if "told apart by few tokens" in line] == ["warning"]


def test_progress_reaches_its_end_and_counts_no_block_of_a_trial(model, corpora, tmp_path):
    observer = RecordingObserver()
    report = run(data_of(model, corpora, **BUDGET), tmp_path, observer).report
    tried = next(fields for _, line, fields in observer.lines if line == "plan tried")
    assert {key for key in tried if "growth" in key} == {"bits_per_byte_growth_uk"}
    fractions = [progress.fraction for progress in observer.history]
    assert fractions == sorted(fractions)
    assert fractions[-2] > 0.97
    assert len(set(fractions)) > 20
    assert max(progress.blocks_done for progress in observer.history) == report.output.blocks
    assert {progress.blocks_total for progress in observer.history} == {0, report.output.blocks}
    before = max(progress.fraction for progress in observer.history if not progress.blocks_total)
    assert 0.2 < before < 0.95, "the search is a part of the whole"


def test_a_budget_that_cannot_be_kept_says_what_can(model, corpora, tmp_path):
    limits = {"languages": [{"language": "uk", "growth": 0.0}]}
    data = {**data_of(model, corpora, budget={"parameters": 0.9, "axes": ["blocks"]}), "limits": limits}
    with pytest.raises(
        PermanentError, match=r"at least 1\.000 of .*; raise limits\.languages, .* or allow more"
    ) as caught:
        run(data, tmp_path / "limits")
    assert caught.value.reason == "BUDGET_TOO_SMALL"
    with pytest.raises(PermanentError, match=r"at least 0\.\d+ of") as caught:
        run(data_of(model, corpora, budget={"parameters": 0.5, "axes": ["vocabulary"]}), tmp_path / "small")
    least = float(re.search(r"at least (0\.\d+)", caught.value.message)[1])
    report = run(
        data_of(model, corpora, budget={"parameters": least, "axes": ["vocabulary"]}), tmp_path / "least"
    ).report
    assert report.output.parameters <= least * report.model.parameters


def test_a_budget_that_the_shapes_rule_out_is_refused_at_submission(model, corpora):
    told = refusals(data_of(model, corpora, budget={"parameters": 0.1, "axes": ["feed_forward"]}))
    told = told["shrink.budget.parameters"]
    least = float(re.search(r"leaves at least (0\.\d+)", told)[1])
    assert told.endswith("raise it, or allow more axes")
    assert admitted(data_of(model, corpora, budget={"parameters": least, "axes": ["feed_forward"]}))


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"budget": {}}, "shrink.budget.parameters", "is missing"),
        ({"budget": {"parameters": 1.0}}, "shrink.budget.parameters", "less than 1"),
        ({"budget": {"parameters": 0.0}}, "shrink.budget.parameters", "greater than 0"),
        ({"budget": {"parameters": 0.5, "axes": ["width"]}}, "shrink.budget.axes[0]", "vocabulary"),
        ({"budget": {"parameters": 0.5, "axes": ["blocks", "blocks"]}}, "shrink.budget.axes", "twice"),
        ({**BUDGET, "blocks": {"remove": 1}}, "shrink.blocks", "the service chooses"),
        ({**BUDGET, "feed_forward": {"share": 0.5}}, "shrink.feed_forward", "the service chooses"),
        ({**BUDGET, "vocabulary": {"rows": 512}}, "shrink.vocabulary.rows", "the service chooses"),
        ({**BUDGET, "plan": "file:///nowhere"}, "shrink.budget", "leave one out"),
        (
            {"budget": {"parameters": 0.5, "axes": ["blocks"]}, "vocabulary": {"prior": "ranks"}},
            "shrink.vocabulary",
            "leaves the vocabulary as it is",
        ),
    ],
)
def test_budgets_that_make_no_sense_are_refused(model, corpora, change, field, told):
    assert told in refusals(data_of(model, corpora, **change))[field]


def test_an_axis_that_the_model_does_not_have_is_refused(corpora, tmp_path):
    model = save_scene(tmp_path / "model", architecture="bloom")
    data = data_of(model, corpora, budget={"parameters": 0.9, "axes": ["feed_forward"]})
    assert "vocabulary, blocks can" in refusals(data)["shrink.budget.axes[0]"]


def test_a_dry_run_says_how_large_the_result_may_be_and_counts_the_search(model, corpora):
    estimate = admitted(data_of(model, corpora, **BUDGET)).estimate
    alone = admitted(data_of(model, corpora, feed_forward={"channels": 48})).estimate
    assert estimate.output_parameters == int(0.6 * estimate.parameters)
    assert estimate.flops > 2 * alone.flops
