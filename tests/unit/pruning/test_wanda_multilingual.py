"""Wanda that favours inputs which languages use differently."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.pruning.methods import Moments, Recipe
from secateur_service.pruning.patterns import Unstructured
from secateur_service.pruning.scores import wanda, wanda_multilingual
from secateur_service.pruning.solver import solve
from secateur_service.pruning.statistics import InputStatistics

LANGUAGES = ("ar", "de", "uk")
SPREADS = st.floats(0, 10)
SQUARES = st.lists(st.floats(0, 1e3), min_size=4, max_size=4).map(lambda row: torch.tensor(row, dtype=torch.float64))
MIXES = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(
    lambda shares: {name: share / sum(shares) for name, share in zip(LANGUAGES, shares, strict=True)}
)
WEIGHT = torch.tensor([[1.0, -2.0, 3.0, -4.0], [0.5, 0.25, 0.0, 8.0]])


def mixed(squares, weights):
    return sum(weights[name] * squares[name] for name in weights)


def close(one, other):
    return torch.allclose(one, other, rtol=1e-5, atol=1e-5)


@given(SQUARES, SPREADS)
def test_for_one_language_it_is_wanda(squares, spread):
    assert torch.equal(wanda_multilingual(WEIGHT, {"de": squares}, {"de": 1.0}, spread), wanda(WEIGHT, squares))


@given(st.tuples(SQUARES, SQUARES, SQUARES), MIXES)
def test_without_a_spread_it_is_wanda_of_the_mix(rows, weights):
    squares = dict(zip(LANGUAGES, rows, strict=True))
    assert close(wanda_multilingual(WEIGHT, squares, weights, 0.0), wanda(WEIGHT, mixed(squares, weights)))


@given(SQUARES, MIXES, SPREADS)
def test_for_languages_that_use_all_inputs_alike_it_is_wanda(squares, weights, spread):
    alike = dict.fromkeys(LANGUAGES, squares)
    assert close(wanda_multilingual(WEIGHT, alike, weights, spread), wanda(WEIGHT, squares))


@given(st.tuples(SQUARES, SQUARES, SQUARES), MIXES, SPREADS)
def test_no_weight_counts_less_than_for_wanda(rows, weights, spread):
    squares = dict(zip(LANGUAGES, rows, strict=True))
    plain = wanda_multilingual(WEIGHT, squares, weights, 0.0)
    assert bool((wanda_multilingual(WEIGHT, squares, weights, spread) >= plain).all())


def test_the_spread_is_the_weighted_standard_deviation_of_the_languages_root_mean_squares():
    squares = {"de": torch.tensor([4.0, 9.0]), "uk": torch.tensor([16.0, 9.0])}
    scores = wanda_multilingual(torch.ones(1, 2), squares, {"de": 0.75, "uk": 0.25}, 2.0)
    # Root mean squares 2 and 4 with mean 2.5: a variance of 0.75·0.25 + 0.25·2.25.
    assert scores.tolist() == [pytest.approx([7**0.5 + 2 * 0.75**0.5, 3.0])]


def test_an_input_that_one_language_needs_is_kept_where_wanda_prunes_it():
    statistics = InputStatistics(
        2, {"de": 0.5, "uk": 0.5}, {"de": 1, "uk": 1}, torch.device("cpu"), moments=Moments.DIAGONAL
    )
    statistics.update(torch.tensor([[3.0, 0.0]]), "de")
    statistics.update(torch.tensor([[3.0, 4.0]]), "uk")
    weight = torch.ones(1, 2)
    (plain,) = solve(Recipe.of("wanda"), [weight], statistics, Unstructured(0.5))
    (kept,) = solve(Recipe.of("wanda_multilingual"), [weight], statistics, Unstructured(0.5))
    assert plain.weight.tolist() == [[1.0, 0.0]]
    assert kept.weight.tolist() == [[0.0, 1.0]]
