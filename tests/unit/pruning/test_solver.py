"""What all solvers have in common: what they read."""

import pytest
import torch

from secateur_service.pruning.conjugate_gradient import errors
from secateur_service.pruning.methods import Moments, Recipe
from secateur_service.pruning.patterns import Unstructured
from secateur_service.pruning.solver import solve, with_ridge
from secateur_service.pruning.statistics import InputStatistics

WIDTH = 96
TARGET = Unstructured(0.5, "layer")


def inputs(tokens, seed):
    mixing = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)) / WIDTH**0.5
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed)) @ mixing


def statistics_of(*texts):
    tokens = {str(number): len(text) for number, text in enumerate(texts)}
    mix = dict.fromkeys(tokens, 1 / len(tokens))
    found = InputStatistics(WIDTH, mix, tokens, torch.device("cpu"), moments=Moments.FULL)
    for number, text in enumerate(texts):
        found.update(text, str(number))
    return found


@pytest.mark.parametrize(
    "recipe", [Recipe.of("sparsegpt", "cg"), Recipe.of("sparsegpt", "obs"), Recipe.of("alps")], ids=str
)
def test_what_is_fitted_to_fewer_tokens_than_inputs_loses_less_on_other_text(recipe, monkeypatch):
    weight = torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(1))
    other = inputs(8192, 2)
    moments = other.T @ other
    lost = {}
    for ridge in (1.0, 0.0):
        monkeypatch.setattr("secateur_service.pruning.solver.RIDGE", ridge)
        (layer,) = solve(recipe, [weight], statistics_of(inputs(40, 3), inputs(32, 4)), TARGET)
        lost[ridge] = float(errors(weight, layer.weight, moments).sum())
    assert lost[1.0] < 0.95 * lost[0.0]


def test_the_ridge_is_a_share_of_each_second_moment_that_falls_with_the_square_of_the_tokens():
    few, more = statistics_of(inputs(WIDTH, 0)), statistics_of(inputs(WIDTH, 0), inputs(3 * WIDTH, 1))
    for statistics, ridge in ((few, 1.0), (more, 1 / 16)):
        gram = statistics.gram
        assert torch.equal(with_ridge(statistics), gram + ridge * torch.diag(gram.diagonal()))


def test_with_much_text_solvers_read_the_moments_as_they_are():
    statistics = statistics_of(inputs(100 * WIDTH, 0))
    assert with_ridge(statistics) is statistics.gram
