"""The sweep over one block of columns: in torch, and as one kernel where Triton is at hand."""

import gc
import importlib

import pytest
import torch

from secateur_service.pruning.patterns import NofM
from secateur_service.pruning.sweep import sweep, sweep_columns

PATTERNS = pytest.mark.parametrize("groups", [None, NofM(2, 4), NofM(1, 3), NofM(5, 6), NofM(1, 12)])


def block(columns, rows, seed=0):
    """Weights, a mask of which half is set, and the upper triangular factor of a positive definite matrix."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * columns + 1, columns, generator=generator)
    factor = torch.linalg.cholesky(torch.linalg.inv(x.T @ x / len(x) + 0.1 * torch.eye(columns))).T
    weight = torch.randn(columns, rows, generator=generator)
    return weight, torch.rand(columns, rows, generator=generator) < 0.5, factor


def scalar_by_scalar(weight, pruned, factor, groups):
    """The same by its definition, in float64."""
    w, mask, u = weight.double().clone(), pruned.clone(), factor.double()
    for row in range(w.shape[1]):
        for j in range(w.shape[0]):
            if groups is not None and j % groups.group == 0:
                group = slice(j, j + groups.group)
                order = (w[group, row] / u.diagonal()[group]).abs().argsort(stable=True)
                mask[group, row] = False
                mask[j + order[: groups.group - groups.kept], row] = True
            if mask[j, row]:
                error = w[j, row] / u[j, j]
                w[j:, row] -= error * u[j, j:]
                w[j, row] = 0
    return w, mask


@PATTERNS
@pytest.mark.parametrize("columns", [1, 12, 60, 132])
def test_every_removed_weight_moves_those_to_its_right(columns, groups):
    if groups is not None and columns % groups.group:
        columns = groups.group * max(1, columns // groups.group)
    weight, pruned, factor = block(columns, 9)
    expected, expected_mask = scalar_by_scalar(weight, pruned, factor, groups)
    sweep(weight[None], pruned[None], factor, groups)
    assert torch.equal(pruned, expected_mask)
    torch.testing.assert_close(weight.double(), expected, rtol=1e-4, atol=1e-4)
    assert bool((weight[pruned] == 0).all())


@PATTERNS
def test_the_bytes_of_a_slice_do_not_depend_on_those_beside_it(groups):
    weight, pruned, factor = block(120, 3 * 176)
    together = [torch.stack(matrix.split(176, dim=1)) for matrix in (weight, pruned)]
    alone = [matrix[1:2].clone() for matrix in together]
    sweep(*together, factor, groups)
    sweep(*alone, factor, groups)
    assert torch.equal(together[0][1:2], alone[0])
    assert torch.equal(together[1][1:2], alone[1])


@pytest.fixture
def kernel(monkeypatch):
    """The kernel's module; without a GPU, Triton interprets it, if it is told so before it is imported."""
    if not torch.cuda.is_available():
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton")
    return importlib.import_module("secateur_service.pruning.sweep_kernel")


@PATTERNS
@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (12, 1), (12, 8), (60, 21), (120, 5)])
def test_the_kernel_does_what_torch_does(kernel, columns, rows, groups):
    if groups is not None and columns % groups.group:
        columns = groups.group * max(1, columns // groups.group)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight, pruned, factor = (tensor.to(device) for tensor in block(columns, rows))
    if rows > 2:
        weight[:, 1] = weight[:, 0]  # rows that are equal
        weight[:, 2] = 0
    diagonal = factor.diagonal()[:, None]
    results = []
    for way, stack in ((kernel.sweep, lambda matrix: matrix), (sweep_columns, lambda matrix: matrix[None])):
        swept, mask = weight.clone(), pruned.clone()
        way(stack(swept), stack(mask), factor / diagonal, 1 / diagonal, groups)
        results.append((swept, mask))
    assert torch.equal(results[0][1], results[1][1])
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@PATTERNS
def test_a_gpu_sweeps_as_the_cpu_does(groups):
    weight, pruned, factor = block(120, 300)
    weight, pruned = weight[None], pruned[None]
    on_gpu = [tensor.cuda() for tensor in (weight, pruned, factor)]
    sweep(weight, pruned, factor, groups)
    sweep(*on_gpu, groups)
    assert torch.equal(on_gpu[1].cpu(), pruned)
    torch.testing.assert_close(on_gpu[0].cpu(), weight, rtol=1e-3, atol=1e-3)


def test_the_sweep_leaves_nothing_to_the_garbage_collector() -> None:
    """A reference cycle would keep a block's buffers until Python looks for cycles, which may take many blocks."""
    weight_SBM, unit_BB = torch.randn(2, 16, 8), torch.eye(16)
    left = []
    for _ in range(3):  # other threads of the test run may leave something once
        gc.collect()
        gc.disable()
        try:
            sweep_columns(weight_SBM, weight_SBM > 0, unit_BB, torch.ones(16, 1), None)
            left.append(gc.collect())
        finally:
            gc.enable()
    assert min(left) == 0
