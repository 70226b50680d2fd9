import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur_service.pruning.conjugate_gradient import errors, refine


def test_enough_steps_reach_the_least_squares_solution_of_every_row():
    generator = torch.Generator().manual_seed(7)
    x = (torch.randn(400, 24, generator=generator) + 0.3) * (torch.rand(24, generator=generator) * 3 + 0.1)
    hessian = x.T @ x / len(x)
    dense = torch.randn(9, 24, generator=generator)
    pruned = torch.rand(9, 24, generator=generator) < 0.5
    got = refine(dense, pruned, hessian, steps=60)
    for row in range(9):
        kept = ~pruned[row]
        best = torch.linalg.lstsq(x[:, kept].double(), x.double() @ dense[row].double()).solution
        torch.testing.assert_close(got[row, kept].double(), best, rtol=2e-3, atol=2e-3)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rank=st.integers(1, 12),
    steps=st.integers(0, 12),
    share=st.floats(0, 1),
    repeats=st.sampled_from(["nothing", "rows", "columns", "dead columns"]),
)
def test_no_rows_error_is_raised(seed, rank, steps, share, repeats):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rank, 12, generator=generator)  # fewer inputs than features: H is singular
    dense = torch.randn(5, 12, generator=generator)
    if repeats == "rows":
        dense = dense[:1].repeat(5, 1)
    elif repeats == "columns":
        x = x[:, :1].repeat(1, 12)
    elif repeats == "dead columns":
        x[:, ::3] = 0
    hessian = x.T @ x
    pruned = torch.rand(5, 12, generator=generator) < share
    given_dense = dense.clone()
    weight = refine(dense, pruned, hessian, steps=steps)
    assert torch.equal(dense, given_dense)
    assert bool(torch.isfinite(weight).all())
    assert bool((weight[pruned] == 0).all())
    before = errors(dense, dense.masked_fill(pruned, 0), hessian)
    assert bool((errors(dense, weight, hessian) <= before).all())


def test_more_steps_bring_the_error_down():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 40, generator=generator) @ torch.randn(40, 40, generator=generator)
    hessian = x.T @ x / len(x)
    dense = torch.randn(6, 40, generator=generator)
    pruned = torch.rand(6, 40, generator=generator) < 0.5
    losses = [float(errors(dense, refine(dense, pruned, hessian, steps=steps), hessian).sum()) for steps in (0, 2, 10)]
    assert losses[2] < 0.9 * losses[1] < 0.8 * losses[0]


def test_weights_that_are_all_kept_stay_as_they_are():
    dense = torch.randn(3, 5)
    assert torch.equal(refine(dense, torch.zeros(3, 5, dtype=torch.bool), torch.eye(5)), dense)


def test_pruned_weights_are_zeros_without_a_sign():
    dense = -torch.ones(2, 4)
    pruned = torch.tensor([[True, False, True, False]] * 2)
    weight = refine(dense, pruned, torch.eye(4) + 0.1)
    assert not bool(torch.signbit(weight[pruned]).any())
    assert weight[0, 1] == pytest.approx(-1 - 0.2 / 1.2, abs=1e-3)
