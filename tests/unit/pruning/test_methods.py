"""Scores and updates together: every method against its definition, and every combination."""

import numpy as np
import pytest
import torch

from secateur_service.pruning import solver
from secateur_service.pruning.methods import METHODS, UPDATES, Moments, Recipe, label
from secateur_service.pruning.patterns import NofM, Unstructured, target_count
from secateur_service.pruning.statistics import InputStatistics

CPU = torch.device("cpu")


def correlated_inputs(tokens, width, seed):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) / width**0.5
    scale = torch.rand(width, generator=generator) * 3 + 0.1
    return (torch.randn(tokens, width, generator=generator) @ mixing + 0.3) * scale


def solve(method, update, weights, statistics, target):
    """By a named method, its weights competing as it has them by default."""
    if isinstance(target, Unstructured):
        target = Unstructured(target.sparsity, METHODS[method].group)
    return solver.solve(Recipe.of(method, update), weights, statistics, target)


def statistics_of(inputs, weights):
    """`inputs`: language → B×S×n."""
    width = next(iter(inputs.values())).shape[-1]
    tokens = {name: x.shape[0] * x.shape[1] for name, x in inputs.items()}
    statistics = InputStatistics(width, weights, tokens, CPU, moments=Moments.FULL)
    for name, x in inputs.items():
        statistics.update(x, name)
    return statistics


def test_sparsegpt_loses_less_than_the_same_share_pruned_by_wanda():
    x = correlated_inputs(2000, 96, seed=2)[None]
    statistics = statistics_of({"de": x}, {"de": 1.0})
    weight = torch.randn(32, 96, generator=torch.Generator().manual_seed(0))
    losses = {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        (layer,) = solve(method, METHODS[method].update, [weight], statistics, Unstructured(0.5))
        losses[method] = float(((layer.weight - weight) @ x[0].T).square().sum())
    assert losses["sparsegpt"] < 0.8 * losses["wanda"] < losses["magnitude"]


@pytest.mark.parametrize("rows", [[7], [5, 9, 4]])
def test_every_layer_of_a_shared_input_meets_its_count_exactly(rows):
    x = correlated_inputs(500, 200, seed=3)[None]
    statistics = statistics_of({"de": x}, {"de": 1.0})
    weights = [torch.randn(height, 200, generator=torch.Generator().manual_seed(height)) for height in rows]
    for weight, layer in zip(weights, solve("sparsegpt", "obs", weights, statistics, Unstructured(0.43)), strict=True):
        assert int(layer.pruned.sum()) == target_count(weight.numel(), 0.43)
        assert bool((layer.weight[layer.pruned] == 0).all())
    for weight, layer in zip(weights, solve("wanda", "none", weights, statistics, Unstructured(0.43)), strict=True):
        assert bool((layer.pruned.sum(1) == target_count(200, 0.43)).all())
        assert torch.equal(layer.weight, weight.masked_fill(layer.pruned, 0))


@pytest.mark.parametrize("weights", [{"de": 1.0}, {"de": 0.7, "uk": 0.3}, {"de": 0.0, "uk": 1.0}])
def test_wanda_equals_its_definition_in_float64(weights):
    inputs = {name: correlated_inputs(300, 40, seed).reshape(3, 100, 40) for seed, name in enumerate(weights)}
    statistics = statistics_of(inputs, weights)
    weight = torch.randn(16, 40, generator=torch.Generator().manual_seed(5))
    norms = sum(share * inputs[name].double().square().mean((0, 1)) for name, share in weights.items()).sqrt()
    scores = weight.double().abs() * norms
    expected = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.argsort(dim=1, stable=True)[:, :20], True)
    (layer,) = solve("wanda", "none", [weight], statistics, Unstructured(0.5))
    assert torch.equal(layer.pruned, expected)


def test_a_method_of_a_newer_release_is_called_what_it_is_called():
    assert (label("later", "none"), label("later", "cg")) == ("later", "later with cg")
    assert label("wanda", "none") == "wanda"


def test_magnitude_needs_no_statistics():
    weight = torch.tensor([[3.0, -1.0, 2.0, -4.0]])
    (layer,) = solve("magnitude", "none", [weight], None, NofM(2, 4))
    assert layer.weight.tolist() == [[3.0, 0.0, 0.0, -4.0]]


def test_inputs_that_are_not_finite_are_reported():
    statistics = statistics_of({"de": torch.full((1, 4, 6), torch.nan)}, {"de": 1.0})
    with pytest.raises(FloatingPointError, match="not finite"):
        solve("wanda", "none", [torch.ones(2, 6)], statistics, Unstructured(0.5))


def layer_error(dense, weight, inputs):
    return float(((weight - dense) @ inputs.T).double().square().sum())


@pytest.mark.parametrize("target", [Unstructured(0.5), Unstructured(0.7), NofM(2, 4)])
@pytest.mark.parametrize("method", [method for method in METHODS if method != "alps"])
def test_every_mask_goes_with_every_update_and_no_update_raises_its_error(method, target):
    x = correlated_inputs(700, 64, seed=6)
    x[:, 3] = 0  # a dead input
    statistics = statistics_of({"de": x[None]}, {"de": 1.0})
    weights = [torch.randn(rows, 64, generator=torch.Generator().manual_seed(rows)) for rows in (6, 11)]
    solved = {update: solve(method, update, weights, statistics, target) for update in UPDATES if update != "admm"}
    for index, dense in enumerate(weights):
        plain, refined, swept = (solved[update][index] for update in ("none", "cg", "obs"))
        assert torch.equal(plain.pruned, refined.pruned)
        assert torch.equal(plain.pruned, swept.pruned)
        assert torch.equal(plain.weight, dense.masked_fill(plain.pruned, 0))
        for layer in (refined, swept):
            assert bool((layer.weight[layer.pruned] == 0).all())
        assert layer_error(dense, refined.weight, x) < 0.95 * layer_error(dense, plain.weight, x)
        # The sweep compensates only to the right; conjugate gradients over the whole support do better.
        assert layer_error(dense, refined.weight, x) < layer_error(dense, swept.weight, x)


def test_ria_equals_its_definition_and_competes_over_the_whole_matrix():
    x = correlated_inputs(300, 20, seed=8)
    weight = torch.randn(7, 20, generator=torch.Generator().manual_seed(3))
    size = weight.double().abs().numpy()
    norms = np.sqrt((x.double().numpy() ** 2).mean(0))
    scores = (size / size.sum(0, keepdims=True) + size / size.sum(1, keepdims=True)) * norms**0.5
    expected = np.zeros(140, dtype=bool)
    expected[np.argsort(scores, axis=None, kind="stable")[:84]] = True
    (layer,) = solve("ria", "none", [weight], statistics_of({"de": x[None]}, {"de": 1.0}), Unstructured(0.6))
    assert np.array_equal(layer.pruned.numpy().reshape(-1), expected)


def test_a_matrix_with_rows_and_columns_of_zeros_has_a_relative_importance():
    weight = torch.zeros(4, 6)
    weight[1, 2] = 1.0
    (layer,) = solve(
        "ria", "none", [weight], statistics_of({"de": torch.ones(1, 8, 6)}, {"de": 1.0}), Unstructured(0.5)
    )
    assert int(layer.pruned.sum()) == 12
    assert not bool(layer.pruned[1, 2])


@pytest.mark.parametrize("target", [Unstructured(0.5), Unstructured(0.7), NofM(2, 4), NofM(3, 8)])
def test_alps_meets_its_counts_and_loses_less_than_any_other_mask_with_the_best_update(target):
    x = correlated_inputs(900, 64, seed=9)
    x[:, 3] = 0  # a dead input
    statistics = statistics_of({"de": x[None]}, {"de": 1.0})
    weights = [torch.randn(rows, 64, generator=torch.Generator().manual_seed(rows)) for rows in (16, 30)]
    solved = solve("alps", "admm", weights, statistics, target)
    for index, (dense, layer) in enumerate(zip(weights, solved, strict=True)):
        if isinstance(target, NofM):
            groups = layer.pruned.reshape(-1, target.group).sum(1)
            assert bool((groups == target.group - target.kept).all())
        else:
            assert int(layer.pruned.sum()) == target_count(dense.numel(), target.sparsity)
        assert bool((layer.weight[layer.pruned] == 0).all())
        for method in ("magnitude", "wanda", "ria", "sparsegpt"):
            other = solve(method, "cg", weights, statistics, target)[index]
            assert layer_error(dense, layer.weight, x) < layer_error(dense, other.weight, x), method
