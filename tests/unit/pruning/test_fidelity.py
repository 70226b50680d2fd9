import math

import pytest
import torch

from secateur_service.pruning.fidelity import SAMPLE_TOKENS, InputSample, relative_error


def test_the_sample_does_not_depend_on_how_tokens_arrive():
    torch.manual_seed(0)
    inputs = torch.randn(8, 64, 12)
    whole, parts = InputSample({"de": 512, "uk": 512}), InputSample({"de": 512, "uk": 512})
    whole.update(inputs, "de")
    for part in inputs.split(3):
        parts.update(part, "de")
    dense, pruned = torch.randn(5, 12), torch.randn(5, 12)
    assert whole.snr_db(dense, pruned) == parts.snr_db(dense, pruned)
    assert whole.snr_db(dense, pruned).keys() == {"de"}, "a language that was not seen has no ratio"


def test_the_sample_is_drawn_from_all_over_the_text():
    sample = InputSample({"de": 100_000})
    places = torch.arange(100_000, dtype=torch.float32).reshape(100, 1000, 1)
    sample.update(places, "de")
    # With W = 1 and Ŵ = 0 the ratio is 0 dB; with what is lost marked by place, the sample shows where it lies.
    assert sample.snr_db(torch.ones(1, 1), torch.zeros(1, 1)) == {"de": pytest.approx(0)}
    chosen = torch.cat(sample._parts["de"]).flatten()
    assert len(chosen) == SAMPLE_TOKENS
    assert abs(chosen.mean() - 50_000) < 10_000
    assert ((chosen % 1000) == 0).sum() < 5, "the first token of a sequence is not drawn more often than others"


def test_a_layer_that_lost_nothing_has_no_ratio():
    sample = InputSample({"de": 4})
    sample.update(torch.ones(1, 4, 3), "de")
    weight = torch.ones(2, 3)
    assert sample.snr_db(weight, weight) == {}


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
