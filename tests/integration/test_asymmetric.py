"""Layers that are pruned towards the dense model's output: closer to it, and the same every time."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from secateur_service.pipeline.observer import RecordingObserver
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

SOME = ["llama", "gemma3_text", "mixtral", "falcon", "opt", "cohere"]
EVERYTHING = {"vocabulary": {"extra_tokens": 0.02, "prior": "ranks"}, **WIDTH, **HEADS, **DEPTH}


def pruned_by(model, corpora, *, shrink=None, mix=(("uk", 0.7), ("de", 0.3)), samples=32, **pruning):
    data = data_of(model, corpora, pruning={"sparsity": 0.6, **pruning}, mix=mix, **(shrink or WIDTH))
    data["calibration"]["samples"] = samples
    if shrink is None:
        del data["shrink"]
    return data


@pytest.mark.parametrize(
    ("architecture", "order"), [*((name, "true_sequential") for name in SOME), ("llama", "block"), ("mixtral", "block")]
)
def test_every_kind_of_block_can_be_pruned_towards_the_dense_one(tmp_path, corpora, architecture, order):
    assert architecture in CONFIGS
    model = save_scene(tmp_path / "model", architecture=architecture)
    report = run(pruned_by(model, corpora, order=order, asymmetric=True, samples=8), tmp_path / "out").report
    smaller, tokenizer = loaded(tmp_path / "out" / "checkpoint")
    samples = held_out(model, *corpora, LANGUAGES)
    for entry in report.evaluation:
        after, _, _ = bits_per_byte(smaller, tokenizer, samples[entry.language])
        assert entry.pruned_bits_per_byte == pytest.approx(after, rel=1e-5)
    assert report.sparsity.zeros == pytest.approx(0.6 * report.sparsity.weights, rel=0.02)


@torch.no_grad()
@pytest.mark.parametrize("order", ["true_sequential", "block"])
@pytest.mark.parametrize("shrink", [None, {"blocks": {"remove": 1}}], ids=["a mask", "without a block"])
def test_hidden_states_end_nearer_to_the_dense_model(trained, corpora, tmp_path, order, shrink):
    """On text that the job did not see."""
    for asymmetric in (True, False):
        data = pruned_by(trained, corpora, shrink=shrink, order=order, asymmetric=asymmetric)
        run(data, tmp_path / str(asymmetric))
    dense, towards, own = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (trained, tmp_path / "True" / "checkpoint", tmp_path / "False" / "checkpoint")
    )
    for language in ("uk", "de"):
        text = held_out(trained, *corpora, [language])[language].tokens
        goal, one, other = (each.base_model(text).last_hidden_state for each in (dense, towards, own))
        assert (one - goal).square().mean() < (other - goal).square().mean()


def test_the_first_layers_have_nothing_to_make_up_for(model, corpora, tmp_path):
    """Their inputs are the dense model's; an override `dense` leaves a layer as it is wherever it stands."""
    dense = {"layers": "model.layers.2.mlp.down_proj.weight", "dense": True}
    for asymmetric in (True, False):
        run(pruned_by(model, corpora, asymmetric=asymmetric, overrides=[dense]), tmp_path / str(asymmetric))
    towards, own = (tensors_of(tmp_path / name) for name in ("True", "False"))
    for name in ("q", "k", "v"):
        weight = f"model.layers.0.self_attn.{name}_proj.weight"
        assert torch.equal(towards[weight], own[weight])
    for name in ("self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        weight = f"model.layers.0.{name}.weight"
        assert not torch.equal(towards[weight], own[weight])
    original = load_file(next(model.glob("*.safetensors")))
    assert torch.equal(towards[dense["layers"]], original[dense["layers"]])


@pytest.mark.parametrize(
    ("shrink", "dtype", "order"),
    [
        (None, torch.float32, "true_sequential"),
        (None, torch.bfloat16, "block"),
        (EVERYTHING, torch.bfloat16, "true_sequential"),
        (EVERYTHING, torch.float32, "block"),
    ],
    ids=["a mask", "a mask in bfloat16, block", "everything in bfloat16", "everything, block"],
)
def test_an_interrupted_job_resumes_with_the_same_bytes(corpora, tmp_path, shrink, dtype, order):
    model = save_scene(tmp_path / "model", dtype=dtype)
    data = pruned_by(model, corpora, shrink=shrink, asymmetric=True, order=order, samples=8)
    assert_resumes_with_the_same_bytes(data, tmp_path)


def test_it_goes_with_minimax_and_with_training(trained, corpora, tmp_path):
    data = pruned_by(trained, corpora, asymmetric=True)
    data["calibration"]["policy"] = "minimax"
    data["reconstruction"] = {"epochs": 1}
    report = run(data, tmp_path).report
    assert all(layer.weights for block in report.blocks for layer in block.layers)
    assert all(block.reconstruction for block in report.blocks)


@pytest.mark.parametrize("order", ["true_sequential", "block"])
@pytest.mark.parametrize("shrink", [None, EVERYTHING], ids=["a mask", "everything"])
def test_progress_reaches_its_end(model, corpora, tmp_path, shrink, order):
    observer = RecordingObserver()
    run(pruned_by(model, corpora, shrink=shrink, asymmetric=True, order=order), tmp_path, observer)
    fractions = [progress.fraction for progress in observer.history]
    assert fractions == sorted(fractions)
    assert fractions[-2] > 0.97


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"order": "dense"}, "in order dense no layer sees"),
        ({"method": "wanda"}, "wanda with update none solves for no values"),
        ({"method": "magnitude"}, "magnitude with update none solves for no values"),
        ({"method": "sparsegpt", "update": "none"}, "sparsegpt with update none solves for no values"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field(model, corpora, change, told):
    assert told in refusals(pruned_by(model, corpora, asymmetric=True, **change))["pruning.asymmetric"]


@pytest.mark.parametrize(
    ("change", "default"),
    [
        ({}, True),
        ({"order": "block"}, True),
        ({"order": "dense"}, False),
        ({"method": "wanda"}, False),
        ({"method": "wanda", "update": "cg"}, True),
        ({"method": "alps"}, True),
        ({"asymmetric": False}, False),
    ],
)
def test_it_is_the_default_wherever_values_are_solved_for(model, corpora, change, default):
    assert admitted(pruned_by(model, corpora, **change)).resolved.pruning.asymmetric is default


def test_it_is_not_where_blocks_are_trained(model, corpora):
    data = {**pruned_by(model, corpora), "reconstruction": {}}
    assert not admitted(data).resolved.pruning.asymmetric
    data["pruning"]["asymmetric"] = True
    assert admitted(data).resolved.pruning.asymmetric


def test_an_estimate_counts_both_ways(model, corpora):
    more, less = (admitted(pruned_by(model, corpora, asymmetric=each)).estimate for each in (True, False))
    assert more.flops > 1.2 * less.flops
    assert more.peak_host_bytes > less.peak_host_bytes
