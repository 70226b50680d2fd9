import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur_service.pruning.alps import REGULARISATION, alps
from secateur_service.pruning.conjugate_gradient import errors, refine
from secateur_service.pruning.patterns import NofM, Unstructured, prune, target_count


def damped(hessian):
    return hessian + REGULARISATION * hessian.diagonal().mean() * torch.eye(len(hessian))


def reference_mask(weight, hessian, target):
    """Algorithm 1 of 2406.07831 in float64, every step solved anew."""
    gram = damped(hessian).double()
    scale = gram.diagonal().sqrt()
    gram = gram / scale[:, None] / scale
    dense = weight.double() * scale
    pruned = before = prune(dense.abs().float(), target)
    kept = int((~pruned).sum())
    D, V, rho = dense.masked_fill(pruned, 0), torch.zeros_like(dense), 0.1
    for iteration in range(1, 301):
        B = torch.linalg.solve(gram + rho * torch.eye(len(gram)), (dense @ gram - V + rho * D).T).T
        pruned = prune((B + V / rho).abs().float(), target)
        D = (B + V / rho).masked_fill(pruned, 0)
        V = V + rho * (B - D)
        if iteration % 3 == 0:
            changed = int((pruned & ~before).sum())
            if changed == 0:
                return pruned
            rho *= 1.3 if changed >= 0.1 * kept else 1.2 if changed >= 0.005 * kept else 1.1
            before = pruned
    return pruned


@pytest.mark.parametrize("target", [Unstructured(0.5, "layer"), Unstructured(0.7), NofM(2, 4)])
def test_it_finds_the_mask_that_the_papers_algorithm_finds(target):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(300, 48, generator=generator) @ torch.randn(48, 48, generator=generator) / 7
    hessian = x.T @ x / len(x)
    weight = torch.randn(10, 48, generator=generator)
    expected = reference_mask(weight, hessian, target)
    (got,), (pruned,), _ = alps([weight], hessian, target)
    assert float((pruned != expected).float().mean()) < 0.01  # ties within rounding
    best = errors(weight, refine(weight, expected, damped(hessian)), damped(hessian)).sum()
    assert float(errors(weight, got, damped(hessian)).sum()) == pytest.approx(float(best), rel=0.01)


@given(
    seed=st.integers(0, 10_000),
    rank=st.integers(1, 30),
    target=st.sampled_from([NofM(1, 4), NofM(3, 4), NofM(5, 8), Unstructured(0.55), Unstructured(0.55, "layer")]),
    repeats=st.sampled_from(["nothing", "rows", "columns", "dead columns"]),
)
@settings(max_examples=60, deadline=None)
def test_it_is_never_worse_than_the_mask_it_starts_from(seed, rank, target, repeats):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rank, 16, generator=generator)
    dense = torch.randn(6, 16, generator=generator)
    if repeats == "rows":
        dense = dense[:1].repeat(6, 1)
    elif repeats == "columns":
        x = x[:, :1].repeat(1, 16)
    elif repeats == "dead columns":
        x[:, ::3] = 0
    hessian = x.T @ x / rank
    (weight,), (pruned,), _ = alps([dense], hessian, target)
    if isinstance(target, NofM):
        assert bool((pruned.reshape(-1, target.group).sum(1) == target.group - target.kept).all())
    else:
        assert int(pruned.sum()) == (6 * target_count(16, 0.55) if target.group == "row" else target_count(96, 0.55))
    assert bool((weight[pruned] == 0).all())
    matrix = damped(hessian)
    first = prune((dense * matrix.diagonal().sqrt()).abs(), target)
    best_of_first = errors(dense, refine(dense, first, matrix), matrix).sum()
    assert float(errors(dense, weight, matrix).sum()) <= float(best_of_first) * (1 + 1e-5)


def test_moments_that_are_not_finite_are_reported():
    hessian = torch.eye(4)
    hessian[1, 2] = hessian[2, 1] = torch.nan
    with pytest.raises(FloatingPointError, match="cannot be factorised"):
        alps([torch.ones(2, 4)], hessian, Unstructured(0.5))


def test_inputs_that_are_all_dead_leave_the_largest_weights():
    weight = torch.tensor([[3.0, -1.0, 2.0, -4.0]])
    (got,), (pruned,), _ = alps([weight], torch.zeros(4, 4), NofM(2, 4))
    assert pruned.tolist() == [[False, True, True, False]]
    assert got.tolist() == [[3.0, 0.0, 0.0, -4.0]]
