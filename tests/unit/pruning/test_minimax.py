import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur_service.pruning.fidelity import relative_error
from secateur_service.pruning.methods import Moments, Recipe
from secateur_service.pruning.minimax import solve_minimax
from secateur_service.pruning.patterns import NofM, Unstructured
from secateur_service.pruning.solver import solve
from secateur_service.pruning.statistics import InputStatistics

CPU = torch.device("cpu")


def two_languages(seed, weights):
    """Languages that live in different directions of the input, one of them much louder."""
    generator = torch.Generator().manual_seed(seed)
    tokens = {"de": 96, "uk": 96}
    statistics = InputStatistics(16, weights, tokens, CPU, moments=Moments.BY_LANGUAGE)
    for language, loudness in (("de", 1.0), ("uk", 3.0)):
        mixing = torch.randn(16, 16, generator=generator)
        statistics.update(loudness * torch.randn(4, 24, 16, generator=generator) @ mixing, language)
    return [torch.randn(rows, 16, generator=generator) for rows in (6, 3)], statistics


def worst(weights, layers, statistics):
    pruned = [layer.weight for layer in layers]
    return max(relative_error(weights, pruned, statistics.language_gram(language)) for language in ("de", "uk"))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    method=st.sampled_from(["wanda", "ria", "sparsegpt", "alps"]),
    target=st.sampled_from([Unstructured(0.5), Unstructured(0.6, "layer"), NofM(2, 4)]),
    share=st.sampled_from([0.5, 0.9]),
)
def test_the_worst_language_loses_no_more_than_with_the_weights_that_were_given(seed, method, target, share):
    given_weights = {"de": share, "uk": 1 - share}
    weights, statistics = two_languages(seed, given_weights)
    layers, mix = solve_minimax(Recipe.of(method), weights, statistics, target)
    assert statistics.mix == given_weights
    plain = solve(Recipe.of(method), weights, statistics, target)
    assert worst(weights, layers, statistics) <= worst(weights, plain, statistics) * (1 + 1e-6)
    assert sum(mix.values()) == pytest.approx(1)
    # The weights that were found are those that give the layers.
    statistics.reweight(mix)
    again = solve(Recipe.of(method), weights, statistics, target)
    assert all(torch.equal(one.weight, other.weight) for one, other in zip(layers, again, strict=True))


def test_weight_moves_to_the_language_that_loses_more():
    gains = []
    for seed in range(10):
        weights, statistics = two_languages(seed, {"de": 0.5, "uk": 0.5})
        before = solve(Recipe.of("wanda"), weights, statistics, Unstructured(0.6))
        after, _ = solve_minimax(Recipe.of("wanda"), weights, statistics, Unstructured(0.6))
        gains.append(worst(weights, after, statistics) / worst(weights, before, statistics))
    assert min(gains) < 0.99
    assert max(gains) <= 1


def test_a_language_without_weight_gains_none():
    weights, statistics = two_languages(0, {"de": 1.0, "uk": 0.0})
    _, mix = solve_minimax(Recipe.of("wanda"), weights, statistics, Unstructured(0.5))
    assert mix == {"de": 1.0, "uk": 0.0}
