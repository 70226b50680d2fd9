"""Every method against a plain implementation in float64 that shares no code with it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur_service.pruning.alps import REGULARISATION, alps
from secateur_service.pruning.conjugate_gradient import errors, refine
from secateur_service.pruning.methods import METHODS, UPDATES
from secateur_service.pruning.patterns import NofM, Unstructured, prune_matrix, target_count
from secateur_service.pruning.solver import solve
from secateur_service.pruning.sparsegpt import inverse_factor, sparsegpt
from secateur_service.pruning.statistics import InputStatistics

CPU = torch.device("cpu")


def correlated_inputs(tokens, width, seed):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) / width**0.5
    scale = torch.rand(width, generator=generator) * 3 + 0.1
    return (torch.randn(tokens, width, generator=generator) @ mixing + 0.3) * scale


def statistics_of(inputs, weights, *, with_gram=True):
    """`inputs`: language → B×S×n."""
    width = next(iter(inputs.values())).shape[-1]
    tokens = {name: x.shape[0] * x.shape[1] for name, x in inputs.items()}
    statistics = InputStatistics(width, weights, tokens, CPU, with_gram=with_gram)
    for name, x in inputs.items():
        statistics.update(x, name)
    return statistics


def reference_sparsegpt(weight, hessian, sparsity=None, pattern=None, block=128):
    """Algorithm 1 of 2301.00774 for one layer, one scalar at a time, by explicit inversion."""
    W = weight.double().numpy().copy()
    H = hessian.double().numpy().copy()
    rows, n = W.shape
    dead = np.diag(H) == 0
    damping = 0.01 * np.diag(H)[~dead].mean()
    H[np.diag_indices(n)] += damping
    H[dead, dead] = 1
    W[:, dead] = 0
    U = np.linalg.cholesky(np.linalg.inv(H)).T
    pruned = np.zeros((rows, n), dtype=bool)
    for start in range(0, n, block):
        stop = min(start + block, n)
        if pattern is None:
            scores = (W[:, start:stop] / np.diag(U)[start:stop]) ** 2
            count = target_count(rows * stop, sparsity) - target_count(rows * start, sparsity)
            flat = np.argsort(scores.T, axis=None, kind="stable")[:count]
            columns, lines = np.unravel_index(flat, scores.T.shape)
            pruned[lines, columns + start] = True
        for j in range(start, stop):
            if pattern is not None and j % pattern[1] == 0:
                group = slice(j, j + pattern[1])
                scores = (W[:, group] / np.diag(U)[group]) ** 2
                order = np.argsort(scores, axis=1, kind="stable")[:, : pattern[1] - pattern[0]]
                for i in range(rows):
                    pruned[i, j + order[i]] = True
            for i in range(rows):
                if pruned[i, j]:
                    error = W[i, j] / U[j, j]
                    W[i, j + 1 :] -= error * U[j, j + 1 :]
                    W[i, j] = 0
    return W, pruned


@pytest.mark.parametrize("target", [Unstructured(0.5), Unstructured(0.37), NofM(2, 4), NofM(1, 3)])
def test_sparsegpt_equals_the_papers_algorithm_in_float64(target):
    width = 192
    inputs = correlated_inputs(600, width, seed=1)
    inputs[:, 5] = 0  # a dead input
    hessian = inputs.T @ inputs / len(inputs)
    layers = [torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)) for rows in (8, 13)]
    new, pruned, notes = sparsegpt(layers, hessian, target)
    assert notes == ()
    pattern = (target.kept, target.group) if isinstance(target, NofM) else None
    for weight, got, mask in zip(layers, new, pruned, strict=True):
        # With M = 3 a block of columns is 126 wide.
        block = 128 if pattern is None else pattern[1] * (128 // pattern[1])
        expected, expected_mask = reference_sparsegpt(
            weight, hessian, getattr(target, "sparsity", None), pattern, block
        )
        assert np.mean(mask.numpy() != expected_mask) < 0.002  # ties within rounding
        same = (mask.numpy() == expected_mask).all(axis=1)
        np.testing.assert_allclose(got.numpy()[same], expected[same], atol=2e-3)


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


def test_magnitude_needs_no_statistics():
    weight = torch.tensor([[3.0, -1.0, 2.0, -4.0]])
    (layer,) = solve("magnitude", "none", [weight], None, NofM(2, 4))
    assert layer.weight.tolist() == [[3.0, 0.0, 0.0, -4.0]]


@pytest.mark.parametrize("divisions", [[12], [4, 8], [8, 4], [4, 4, 4]])
def test_sums_do_not_depend_on_how_sequences_are_divided_into_batches(divisions):
    x = correlated_inputs(12 * 512, 24, seed=4).reshape(12, 512, 24)  # a tile is four sequences of 512
    whole = statistics_of({"de": x}, {"de": 1.0})
    parts = InputStatistics(24, {"de": 1.0}, {"de": 12 * 512}, CPU, with_gram=True)
    for part in x.split(divisions):
        parts.update(part, "de")
    assert torch.equal(parts.square_sums["de"], whole.square_sums["de"])
    assert torch.equal(parts.gram, whole.gram)


def test_the_gram_matrix_is_the_weighted_mean_over_languages():
    inputs = {"de": correlated_inputs(200, 10, 0)[None], "uk": correlated_inputs(100, 10, 1)[None]}
    statistics = statistics_of(inputs, {"de": 0.25, "uk": 0.75})
    expected = sum(
        share * inputs[name][0].double().T @ inputs[name][0].double() / inputs[name].shape[1]
        for name, share in {"de": 0.25, "uk": 0.75}.items()
    )
    torch.testing.assert_close(statistics.gram.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_singular_matrix_is_factorised_with_more_damping_and_says_so():
    x = torch.ones(4, 6) * 1e4
    x[:, 0] = 1e-3
    hessian = x.T @ x
    hessian[0, 1] = hessian[1, 0] = 5e8  # not positive semi-definite: rounding may do this to real sums
    factor, notes = inverse_factor(hessian, hessian.diagonal() == 0)
    assert bool(torch.isfinite(factor).all())
    assert notes
    assert notes[0].startswith("factorisation failed; damping raised")


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


def test_enough_steps_reach_the_least_squares_solution_of_every_row():
    x = correlated_inputs(400, 24, seed=7)
    hessian = x.T @ x / len(x)
    dense = torch.randn(9, 24, generator=torch.Generator().manual_seed(1))
    pruned = torch.rand(9, 24, generator=torch.Generator().manual_seed(2)) < 0.5
    got = refine(dense, pruned, hessian, steps=60)
    for row in range(9):
        kept = ~pruned[row]
        best = torch.linalg.lstsq(x[:, kept].double(), x.double() @ dense[row].double()).solution
        torch.testing.assert_close(got[row, kept].double(), best, rtol=2e-3, atol=2e-3)


@given(seed=st.integers(0, 10_000), rank=st.integers(1, 12), steps=st.integers(0, 12), share=st.floats(0, 1))
def test_conjugate_gradients_never_raise_a_rows_error(seed, rank, steps, share):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rank, 12, generator=generator)  # fewer inputs than features: H is singular
    hessian = x.T @ x
    dense = torch.randn(5, 12, generator=generator)
    pruned = torch.rand(5, 12, generator=generator) < share
    weight = refine(dense, pruned, hessian, steps=steps)
    assert bool(torch.isfinite(weight).all())
    assert bool((weight[pruned] == 0).all())
    before = errors(dense, dense.masked_fill(pruned, 0), hessian)
    assert bool((errors(dense, weight, hessian) <= before).all())


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


@given(seed=st.integers(0, 10_000), rank=st.integers(1, 30), kept=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_alps_is_never_worse_than_the_mask_it_starts_from(seed, rank, kept):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rank, 16, generator=generator)
    dense = torch.randn(6, 16, generator=generator)
    hessian = x.T @ x / rank
    (weight,), (pruned,) = alps([dense], hessian, NofM(kept, 4))
    assert bool((pruned.reshape(-1, 4).sum(1) == 4 - kept).all())
    damped = hessian + REGULARISATION * hessian.diagonal().mean() * torch.eye(16)
    first = prune_matrix((dense * damped.diagonal().sqrt()).abs(), NofM(kept, 4))
    best_of_first = errors(dense, refine(dense, first, damped), damped).sum()
    assert float(errors(dense, weight, damped).sum()) <= float(best_of_first) * (1 + 1e-5)
