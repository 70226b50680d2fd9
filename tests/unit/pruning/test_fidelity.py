"""The layers' signal-to-noise ratios against the definition, in float64 over every input that a layer saw."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur_service.pruning.budget import SAMPLE_TOKENS, judges_by_moments, sample_tokens
from secateur_service.pruning.fidelity import InputSample, relative_error, snr_db
from secateur_service.pruning.methods import Recipe
from secateur_service.pruning.patterns import NofM, Unstructured
from secateur_service.pruning.solver import solve
from secateur_service.pruning.statistics import InputStatistics

CPU = torch.device("cpu")


def by_definition(inputs, dense, pruned):
    inputs, dense, pruned = (tensor.double() for tensor in (inputs, dense, pruned))
    signal, noise = (inputs @ dense.T).square().sum(), (inputs @ (dense - pruned).T).square().sum()
    return float(10 * torch.log10(signal / noise))


def layer_of(seed, tokens, width, height, outliers):
    """Inputs like a trained layer's: correlated features of very unequal size, tokens of unequal size, outliers."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) * torch.randn(width, generator=generator).exp()
    inputs = torch.randn(tokens, width, generator=generator) @ mixing / width**0.5
    inputs *= (0.5 * torch.randn(tokens, 1, generator=generator)).exp()
    inputs[:, :outliers] *= 20
    return inputs, torch.randn(height, width, generator=generator)


layers = given(
    seed=st.integers(0, 10**6),
    tokens=st.sampled_from([300, 2048, 5000, 9000]),
    width=st.sampled_from([96, 200]),  # of a few inputs and outputs, 2,048 tokens tell half a decibel less
    height=st.sampled_from([130, 1500]),
    outliers=st.integers(0, 2),
    recipe=st.sampled_from([("wanda", None), ("sparsegpt", "cg"), ("magnitude", None)]),
    target=st.sampled_from([Unstructured(0.5), Unstructured(0.8, "layer"), NofM(2, 4)]),
)


@settings(max_examples=15, derandomize=True)  # a sample may always be an unlucky one
@layers
def test_a_ratio_is_that_of_all_inputs_within_a_fifth_of_a_decibel(
    seed, tokens, width, height, outliers, recipe, target
):
    inputs, dense = layer_of(seed, tokens, width, height, outliers)
    recipe = Recipe.of(*recipe)
    statistics = InputStatistics(width, {"de": 1.0}, {"de": tokens}, CPU, moments=Recipe.of("alps").moments)
    sample = InputSample({"de": tokens}, width, [height])
    for part in inputs.split(1000):
        statistics.update(part, "de")
        sample.update(part, "de")
    pruned = solve(recipe, [dense], statistics, target)[0].weight
    expected = by_definition(inputs, dense, pruned)
    assert sample.snr_db(dense, pruned)["de"] == pytest.approx(expected, abs=0.2)
    assert snr_db(dense, pruned, statistics.gram_of("de")) == pytest.approx(expected, abs=0.01)
    assert sample.tokens == {"de": min(tokens, SAMPLE_TOKENS)}


@settings(max_examples=15)
@given(
    cuts=st.lists(st.integers(0, 6000), max_size=6),
    seen=st.sampled_from([3, 500, 2048, 2049, 5999]),
    experts=st.sampled_from([0, 4, 128]),
)
def test_the_sample_of_an_expert_does_not_depend_on_how_its_tokens_arrive(cuts, seen, experts):
    inputs = torch.arange(seen, dtype=torch.float32)[:, None].repeat(1, 3)
    samples = []
    for bounds in ([0, seen], sorted([0, seen, *(cut for cut in cuts if cut < seen)])):
        sample = InputSample({"de": 6000}, 3, [2], is_expert=True, open_experts=experts)
        for start, stop in itertools.pairwise(bounds):
            sample.update(inputs[start:stop], "de")
        dense, pruned = torch.ones(2, 3), torch.tensor([[1.0, 0, 1], [0, 1, 1]])
        samples.append((sample.tokens, sample.snr_db(dense, pruned)))
    assert samples[0] == samples[1]
    assert samples[0][0] == {"de": min(seen, sample_tokens(experts))}


def test_the_samples_of_many_experts_are_together_no_larger_than_a_bound():
    for experts in range(1, 129):
        assert experts * sample_tokens(experts) <= 16 * SAMPLE_TOKENS
    assert sample_tokens(0) == sample_tokens(8) == SAMPLE_TOKENS
    assert sample_tokens(10_000) == sample_tokens(128)


def test_both_ways_to_judge_a_sample_give_the_same():
    for width, heights in ((16, [400]), (400, [16])):
        inputs, dense = layer_of(0, 700, width, heights[0], 0)
        sample = InputSample({"de": 700}, width, heights)
        sample.update(inputs, "de")
        pruned = dense * (dense.abs() > 0.6)
        assert sample.snr_db(dense, pruned)["de"] == pytest.approx(by_definition(inputs, dense, pruned), abs=1e-3)
    assert judges_by_moments(16, [400], 700)
    assert not judges_by_moments(400, [16], 700)


def test_the_sample_is_drawn_from_all_over_the_text():
    sample = InputSample({"de": 100_000}, 1, [1])
    places = torch.arange(100_000, dtype=torch.float32).reshape(100, 1000, 1)
    sample.update(places, "de")
    # With W = 1 and Ŵ = 0 the ratio is 0 dB; with what is lost marked by place, the sample shows where it lies.
    assert sample.snr_db(torch.ones(1, 1), torch.zeros(1, 1)) == {"de": pytest.approx(0)}
    chosen = sample._parts["de"][0][0].flatten()
    assert len(chosen) == SAMPLE_TOKENS
    assert abs(chosen.mean() - 50_000) < 3_000
    assert ((chosen % 1000) == 0).sum() < 15, "the first token of a sequence is not drawn more often than others"


def test_a_layer_that_lost_nothing_has_no_ratio_nor_has_a_language_that_was_not_seen():
    sample = InputSample({"de": 4, "uk": 4}, 3, [2])
    sample.update(torch.ones(1, 4, 3), "de")
    sample.update(torch.ones(0, 3), "uk")
    weight = torch.ones(2, 3)
    assert sample.snr_db(weight, weight) == {}
    assert sample.snr_db(weight, weight * 0.5).keys() == {"de"}
    assert snr_db(weight, weight, torch.eye(3)) is None
    assert snr_db(weight, weight * 0.5, torch.zeros(3, 3)) is None


def test_the_relative_error_is_that_of_the_products():
    torch.manual_seed(0)
    inputs = torch.randn(50, 12)
    dense = [torch.randn(5, 12), torch.randn(3, 12)]
    pruned = [weight * (torch.rand_like(weight) > 0.5) for weight in dense]
    signal = sum((inputs @ weight.T).square().sum() for weight in dense)
    noise = sum((inputs @ (weight - less).T).square().sum() for weight, less in zip(dense, pruned, strict=True))
    assert relative_error(dense, pruned, inputs.T @ inputs) == pytest.approx(float(noise / signal), rel=1e-5)
    assert relative_error([torch.zeros(2, 12)], [torch.zeros(2, 12)], torch.eye(12)) == 0
    assert not math.isnan(relative_error(dense, pruned, torch.zeros(12, 12)))
