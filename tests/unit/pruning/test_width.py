"""Channels go where others make up for them; what is lost is what least squares leaves, in closed form per language."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.pruning.asymmetry import CrossMoments
from secateur_service.pruning.structured.width import (
    DAMPING,
    choose_channels,
    choose_heads,
    losses,
    resolve,
)


def layer(seed, width=24, height=10, tokens=300, rank=12):
    """Correlated inputs T×n with columns of very different size, and a weight m×n."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(tokens, rank, generator=generator, dtype=torch.float64)
    inputs = factors @ torch.randn(rank, width, generator=generator, dtype=torch.float64)
    inputs += 0.3 * torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    inputs *= torch.rand(width, generator=generator, dtype=torch.float64) * 2 + 0.05
    return inputs, torch.randn(height, width, generator=generator, dtype=torch.float64)


def gram_of(inputs):
    return inputs.T @ inputs / len(inputs)


def error(inputs, weight, solved, kept):
    """‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖², by the products themselves."""
    exact = inputs @ weight.T
    return float((exact - inputs[:, kept] @ solved.T).square().sum() / exact.square().sum())


seeds = st.integers(0, 10_000)


@given(seeds, st.integers(1, 23))
def test_the_projection_is_the_least_squares_solution_on_the_kept_channels(seed, count):
    inputs, weight = layer(seed)
    gram = gram_of(inputs)
    kept = choose_channels(weight, gram, count)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == count
    damping = DAMPING * gram.diagonal().mean()
    # Damped towards no change of the kept columns: further rows of the least squares problem.
    rows = torch.cat([inputs[:, kept] / len(inputs) ** 0.5, damping.sqrt() * torch.eye(count, dtype=torch.float64)])
    dropped = [channel for channel in range(24) if channel not in kept.tolist()]
    target = inputs[:, dropped] @ weight[:, dropped].T / len(inputs) ** 0.5
    change = torch.linalg.lstsq(rows, torch.cat([target, torch.zeros(count, 10, dtype=torch.float64)])).solution.T
    assert torch.allclose(resolve(weight, gram, kept), weight[:, kept] + change, atol=1e-8)


@given(seeds, st.integers(1, 23))
def test_least_squares_loses_no_more_than_leaving_out(seed, count):
    inputs, weight = layer(seed)
    kept = choose_channels(weight, gram_of(inputs), count)
    solved = resolve(weight, gram_of(inputs), kept)
    assert error(inputs, weight, solved, kept) <= error(inputs, weight, weight[:, kept], kept) + 1e-9


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [4, 12, 20])
def test_it_loses_less_than_wandas_choice_and_that_of_magnitude(seed, count):
    inputs, weight = layer(seed)
    gram = gram_of(inputs)
    kept = choose_channels(weight, gram, count)
    solved = resolve(weight, gram, kept)
    ours = error(inputs, weight, solved, kept)
    by_size = weight.square().sum(0).argsort(descending=True)[:count].sort().values
    assert ours <= error(inputs, weight, weight[:, by_size], by_size) + 1e-9
    wanda = (weight.square().sum(0) * gram.diagonal()).argsort(descending=True)[:count].sort().values
    assert ours <= error(inputs, weight, weight[:, wanda], wanda) + 1e-9


@given(seeds, st.integers(1, 23))
def test_errors_in_closed_form_are_those_of_the_products_per_language(seed, count):
    inputs, weight = layer(seed)
    other, _ = layer(seed + 1)
    kept = choose_channels(weight, gram_of(inputs), count)
    solved = resolve(weight, gram_of(inputs), kept)
    found = losses(weight, solved, kept, {"de": gram_of(inputs), "uk": gram_of(other)})
    assert found["de"].share == pytest.approx(error(inputs, weight, solved, kept), abs=1e-9)
    assert found["uk"].share == pytest.approx(error(other, weight, solved, kept), abs=1e-9)


@given(seeds)
def test_duplicated_channels_are_removed_almost_without_loss(seed):
    generator = torch.Generator().manual_seed(seed)
    inputs, weight = (torch.randn(size, 12, generator=generator, dtype=torch.float64) for size in (300, 10))
    doubled, weights = torch.cat([inputs, inputs], 1), torch.cat([weight, weight], 1)
    kept = choose_channels(weights, gram_of(doubled), 12)
    assert {channel % 12 for channel in kept.tolist()} == set(range(12))
    assert error(doubled, weights, resolve(weights, gram_of(doubled), kept), kept) < 1e-3


@pytest.mark.parametrize("seed", range(8))
def test_the_choice_is_nearly_the_best_of_all(seed):
    inputs, weight = layer(seed, width=9, rank=5)
    gram = gram_of(inputs)
    best = min(
        error(inputs, weight, resolve(weight, gram, torch.tensor(some)), torch.tensor(some))
        for some in itertools.combinations(range(9), 5)
    )
    kept = choose_channels(weight, gram, 5)
    assert error(inputs, weight, resolve(weight, gram, kept), kept) <= 1.5 * best + 1e-6


def test_dead_channels_go_first():
    inputs, weight = layer(3)
    inputs[:, [2, 5, 11]] = 0
    kept = choose_channels(weight, gram_of(inputs), 21)
    assert not {2, 5, 11} & set(kept.tolist())


def test_all_channels_kept_change_nothing():
    inputs, weight = layer(0)
    kept = choose_channels(weight, gram_of(inputs), 24)
    assert kept.tolist() == list(range(24))
    assert torch.equal(resolve(weight, gram_of(inputs), kept), weight)


def test_moments_that_are_not_finite_are_refused():
    gram = torch.eye(4)
    gram[1, 1] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        choose_channels(torch.ones(2, 4), gram, 2)


# Heads, which are several channels each, and what is wanted in addition.


@pytest.mark.parametrize("seed", range(20))
def test_the_head_that_goes_is_the_one_that_costs_least_of_all(seed):
    inputs, weight = layer(seed)
    gram = gram_of(inputs)
    costs = {}
    for gone in range(6):
        kept = torch.tensor([channel for channel in range(24) if channel // 4 != gone])
        costs[gone] = _damped_error(inputs, weight, resolve(weight, gram, kept), kept)
    kept = choose_heads(weight, gram, 5, 4)
    (gone,) = set(range(6)) - set(kept.tolist())
    assert costs[gone] == pytest.approx(min(costs.values()), rel=1e-9)


def _damped_error(inputs, weight, solved, kept):
    """What least squares minimises: the error of the output, and the damped change of the kept columns."""
    gram = gram_of(inputs)
    rest = weight.clone()
    rest[:, kept] -= solved
    damping = DAMPING * gram.diagonal().mean()
    dropped = torch.ones(24, dtype=torch.bool)
    dropped[kept] = False
    change = (weight[:, kept] - solved).square().sum() + weight[:, dropped].square().sum()
    return float((rest @ gram * rest).sum() + damping * change)


@pytest.mark.parametrize("seed", range(10))
def test_few_heads_are_nearly_the_best_of_all(seed):
    inputs, weight = layer(seed)
    gram = gram_of(inputs)

    def lost(heads):
        kept = torch.tensor([channel for channel in range(24) if channel // 4 in heads])
        return error(inputs, weight, resolve(weight, gram, kept), kept)

    kept = choose_heads(weight, gram, 3, 4)
    assert kept.tolist() == sorted(kept.tolist())
    assert lost(kept.tolist()) <= 1.5 * min(map(lost, itertools.combinations(range(6), 3))) + 1e-9


@given(seeds, st.integers(1, 24))
def test_what_is_wanted_in_addition_is_part_of_the_least_squares_problem(seed, count):
    inputs, weight = layer(seed)
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.randn(300, 10, generator=generator, dtype=torch.float64)
    gram, kept = gram_of(inputs), torch.arange(count)
    cross = CrossMoments({"de": 0.5, "uk": 0.5}, {"de": 150, "uk": 150})
    for language, part in (("de", slice(0, 150)), ("uk", slice(150, 300))):
        cross.update(wanted[part], inputs[part], language)
    damping = DAMPING * gram.diagonal().mean()
    rows = torch.cat([inputs[:, kept] / 300**0.5, damping.sqrt() * torch.eye(count, dtype=torch.float64)])
    target = (inputs[:, count:] @ weight[:, count:].T + wanted) / 300**0.5
    change = torch.linalg.lstsq(rows, torch.cat([target, torch.zeros(count, 10, dtype=torch.float64)])).solution.T
    found = resolve(weight, gram, kept, cross.matrix)
    assert torch.allclose(found, weight[:, :count] + change, atol=1e-5)
