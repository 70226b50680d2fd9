"""SparseGPT against its algorithm written out scalar by scalar in float64, by explicit inversion."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur_service.pruning.patterns import NofM, Unstructured, target_count
from secateur_service.pruning.sparsegpt import sparsegpt, upper_root


def second_moments(width, seed, tokens=None):
    """H of correlated inputs of different scales, one of them dead."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) / width**0.5
    scale = torch.rand(width, generator=generator) * 3 + 0.1
    x = (torch.randn(tokens or 3 * width + 10, width, generator=generator) @ mixing + 0.3) * scale
    x[:, width // 3] = 0
    return x.T @ x / len(x)


def reference(weight, hessian, target, chosen=None):
    """Algorithm 1 of 2301.00774 for one layer. With N:M, a block of columns holds whole groups."""
    W = weight.double().numpy().copy()
    H = hessian.double().numpy().copy()
    rows, n = W.shape
    dead = np.diag(H) == 0
    damping = 0.01 * np.diag(H)[~dead].mean() if not dead.all() else 0.01
    H[np.diag_indices(n)] += damping
    H[dead, dead] = 1
    W[:, dead] = 0
    U = np.linalg.cholesky(np.linalg.inv(H)).T
    pruned = np.zeros((rows, n), dtype=bool) if chosen is None else chosen.numpy()
    for start in range(0, n, 128):
        stop = min(start + 128, n)
        if chosen is None and isinstance(target, Unstructured):
            scores = (W[:, start:stop] / np.diag(U)[start:stop]) ** 2
            if target.group == "row":
                count = target_count(stop, target.sparsity) - target_count(start, target.sparsity)
                for i in range(rows):
                    pruned[i, start + np.argsort(scores[i], kind="stable")[:count]] = True
            else:
                count = target_count(rows * stop, target.sparsity) - target_count(rows * start, target.sparsity)
                flat = np.argsort(scores.T, axis=None, kind="stable")[:count]
                columns, lines = np.unravel_index(flat, scores.T.shape)
                pruned[lines, columns + start] = True
        for j in range(start, stop):
            if chosen is None and isinstance(target, NofM) and j % target.group == 0:
                group = slice(j, j + target.group)
                scores = (W[:, group] / np.diag(U)[group]) ** 2
                order = np.argsort(scores, axis=1, kind="stable")[:, : target.group - target.kept]
                for i in range(rows):
                    pruned[i, j + order[i]] = True
            for i in range(rows):
                if pruned[i, j]:
                    error = W[i, j] / U[j, j]
                    W[i, j + 1 :] -= error * U[j, j + 1 :]
                    W[i, j] = 0
    return W, pruned


@pytest.mark.parametrize(
    "target", [Unstructured(0.5, "layer"), Unstructured(0.37, "layer"), Unstructured(0.5), NofM(2, 4), NofM(1, 8)]
)
@pytest.mark.parametrize("width", [192, 256, 264])
def test_it_equals_the_papers_algorithm_in_float64(target, width):
    hessian = second_moments(width, seed=1)
    layers = [torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)) for rows in (8, 13)]
    new, pruned, notes = sparsegpt(layers, hessian, target)
    assert notes == ()
    for weight, got, mask in zip(layers, new, pruned, strict=True):
        expected, expected_mask = reference(weight, hessian, target)
        assert np.mean(mask.numpy() != expected_mask) < 0.002  # ties within rounding
        same = (mask.numpy() == expected_mask).all(axis=1)
        assert same.any()
        np.testing.assert_allclose(got.numpy()[same], expected[same], atol=2e-3)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 6), width=st.integers(1, 40), share=st.floats(0, 1))
def test_a_given_mask_is_swept_as_the_paper_sweeps_it(seed, rows, width, share):
    generator = torch.Generator().manual_seed(seed)
    hessian = second_moments(width, seed)
    weight = torch.randn(rows, width, generator=generator)
    chosen = torch.rand(rows, width, generator=generator) < share
    (got,), (mask,), _ = sparsegpt([weight], hessian, Unstructured(0.5), chosen=[chosen])
    expected, _ = reference(weight, hessian, Unstructured(0.5), chosen)
    assert torch.equal(mask, chosen)
    assert bool((got[chosen] == 0).all())
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-3, rtol=2e-3)


targets = st.one_of(
    st.builds(Unstructured, st.sampled_from([0.0, 0.3, 0.43, 0.5, 0.9, 1.0]), st.sampled_from(["row", "layer"])),
    st.builds(lambda kept, extra: NofM(kept, kept + extra), st.integers(1, 5), st.integers(1, 5)),
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    width=st.integers(1, 300),
    target=targets,
    repeats=st.sampled_from(["nothing", "rows", "columns", "values"]),
)
def test_every_layer_meets_its_counts_exactly(seed, rows, width, target, repeats):
    if isinstance(target, NofM):
        width = target.group * max(1, width // target.group)
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(height, width, generator=generator) for height in rows]
    hessian = second_moments(width, seed, tokens=20)
    if repeats == "rows":
        weights = [weight[:1].repeat(len(weight), 1) for weight in weights]
    elif repeats == "columns":  # the same input twice, over and over: H is singular
        hessian = torch.ones(width, width)
    elif repeats == "values":
        weights = [torch.ones_like(weight) for weight in weights]
    before = [weight.clone() for weight in weights]
    new, pruned, _ = sparsegpt(weights, hessian, target)
    for weight, old, mask, dense in zip(new, weights, pruned, before, strict=True):
        assert torch.equal(old, dense)
        assert bool(torch.isfinite(weight).all())
        assert bool((weight[mask] == 0).all())
        if isinstance(target, NofM):
            assert bool((mask.reshape(-1, target.group).sum(1) == target.group - target.kept).all())
        elif target.group == "row":
            assert bool((mask.sum(1) == target_count(width, target.sparsity)).all())
        else:
            assert int(mask.sum()) == target_count(mask.numel(), target.sparsity)


def test_layers_swept_together_come_out_as_each_would_alone():
    hessian = second_moments(150, seed=3)
    weights = [torch.randn(rows, 150, generator=torch.Generator().manual_seed(rows)) for rows in (5, 9)]
    together, masks, _ = sparsegpt(weights, hessian, Unstructured(0.5, "layer"))
    for weight, got, mask in zip(weights, together, masks, strict=True):
        (alone,), (alone_mask,), _ = sparsegpt([weight], hessian, Unstructured(0.5, "layer"))
        assert torch.equal(mask, alone_mask)
        torch.testing.assert_close(got, alone, rtol=1e-4, atol=1e-5)


def test_dead_inputs_lose_their_weights_and_disturb_no_other():
    hessian = second_moments(30, seed=4)
    alive = hessian.diagonal() > 0
    weight = torch.randn(7, 30, generator=torch.Generator().manual_seed(0))
    chosen = torch.rand(7, 30, generator=torch.Generator().manual_seed(1)) < 0.5
    (got,), _, notes = sparsegpt([weight], hessian, Unstructured(0.5), chosen=[chosen])
    assert notes == ()
    assert bool((got[:, ~alive] == 0).all())
    (expected,), _, _ = sparsegpt(
        [weight[:, alive]], hessian[alive][:, alive], Unstructured(0.5), chosen=[chosen[:, alive]]
    )
    torch.testing.assert_close(got[:, alive], expected, rtol=1e-4, atol=1e-5)


@given(seed=st.integers(0, 10_000), width=st.integers(1, 60))
@settings(deadline=None)
def test_the_root_is_triangular_and_its_square_is_the_damped_matrix(seed, width):
    hessian = second_moments(width, seed)
    dead = hessian.diagonal() == 0
    notes: list[str] = []
    root = upper_root(hessian, dead, notes)
    assert not notes
    assert torch.equal(root, root.triu())
    damped = hessian.double()
    damped.diagonal().add_(0.01 * float(hessian.diagonal()[~dead].mean()) if bool((~dead).any()) else 0.01)
    damped.diagonal()[dead] = 1
    torch.testing.assert_close(root.double() @ root.double().T, damped, rtol=1e-4, atol=1e-4)


def test_a_singular_matrix_is_factorised_with_more_damping_and_says_so():
    x = torch.ones(4, 6) * 1e4
    x[:, 0] = 1e-3
    hessian = x.T @ x
    hessian[0, 1] = hessian[1, 0] = 5e8  # not positive semi-definite: rounding may do this to real sums
    notes: list[str] = []
    root = upper_root(hessian, hessian.diagonal() == 0, notes)
    assert bool(torch.isfinite(root).all())
    assert notes
    assert notes[0].startswith("factorisation failed; damping raised")


def test_a_matrix_that_no_damping_helps_is_reported():
    hessian = torch.eye(3)
    hessian[0, 1] = hessian[1, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="cannot be factorised"):
        sparsegpt([torch.ones(2, 3)], hessian, Unstructured(0.5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("target", [Unstructured(0.5, "layer"), Unstructured(0.5), NofM(2, 4)])
def test_a_gpu_prunes_as_the_cpu_does(target):
    hessian = second_moments(300, seed=1)
    weight = torch.randn(64, 300, generator=torch.Generator().manual_seed(1))
    (expected,), (expected_mask,), _ = sparsegpt([weight], hessian, target)
    (got,), (mask,), _ = sparsegpt([weight.cuda()], hessian.cuda(), target)
    same = (mask.cpu() == expected_mask).all(1)
    assert same.float().mean() > 0.9
    torch.testing.assert_close(got.cpu()[same], expected[same], rtol=1e-3, atol=1e-3)
