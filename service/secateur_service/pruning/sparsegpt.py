"""SparseGPT: prune column by column and let the columns to the right make up for it.

Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", 2301.00774,
algorithm 1. With H = XᵀX of the layer's inputs and H⁻¹ = UᵀU, U upper triangular, removing weight w_ij costs
w_ij² / U_jj², and moves the weights to its right by −(w_ij / U_jj) · U_j,j+1.. .

Layers that share an input share H and its factor, and are swept together as one stack of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur_service.pruning.patterns import NofM, Target, Unstructured, select_smallest, target_count

DAMPING = 0.01
_MAX_DAMPING = 1e3
_COLUMN_BLOCK = 128


def sparsegpt(
    weights: Sequence[Tensor], hessian_NN: Tensor, target: Target, *, chosen: Sequence[Tensor] | None = None
) -> tuple[list[Tensor], list[Tensor], tuple[str, ...]]:
    """Prune layers that share an input and update what they keep.

    Args:
        weights: one m_i×n matrix per layer, float32; not modified.
        hessian_NN: H of their common input, any common scale; not modified.
        target: unstructured over all rows of each column block of a layer, or N:M.
        chosen: what is pruned, m_i×n booleans per layer; by default the sweep chooses by its own score.

    Returns:
        The new matrices, for each the booleans of what was pruned, and notes on what had to be mended.

    Raises:
        FloatingPointError: H cannot be factorised whatever the damping.
    """
    dead_N = hessian_NN.diagonal() == 0
    factor_NN, notes = inverse_factor(hessian_NN, dead_N)
    # Transposed: a column of W, which the sweep goes by, is contiguous.
    w_NM = torch.cat([weight.float() for weight in weights]).T.contiguous()
    w_NM[dead_N] = 0
    rows = [weight.shape[0] for weight in weights]
    pruned_NM = torch.zeros_like(w_NM, dtype=torch.bool) if chosen is None else torch.cat(list(chosen)).T.contiguous()
    width = w_NM.shape[0]
    step = _COLUMN_BLOCK
    if isinstance(target, NofM):
        step = target.group * max(1, _COLUMN_BLOCK // target.group)  # no group straddles two column blocks
    for start in range(0, width, step):
        stop = min(start + step, width)
        block = slice(start, stop)
        if chosen is None and isinstance(target, Unstructured):
            _choose_unstructured(w_NM[block], pruned_NM[block], factor_NN[block, block], target, rows, start)
        groups = target if chosen is None and isinstance(target, NofM) else None
        errors = _sweep_columns(w_NM[block], pruned_NM[block], factor_NN[block, block], groups)
        w_NM[stop:].addmm_(factor_NN[start:stop, stop:].T, errors, alpha=-1)
    new = [part.T for part in w_NM.split(rows, dim=1)]
    return new, [part.T for part in pruned_NM.split(rows, dim=1)], notes


def _choose_unstructured(
    w_BM: Tensor, pruned_BM: Tensor, u_BB: Tensor, target: Unstructured, rows: Sequence[int], first: int
) -> None:
    """Mark, for every layer, its share of a block of columns: all rows compete, by w² / U_jj²."""
    stop = first + w_BM.shape[0]
    for part, mask in zip(w_BM.split(rows, dim=1), pruned_BM.split(rows, dim=1), strict=True):
        height = part.shape[1]
        count = target_count(height * stop, target.sparsity) - target_count(height * first, target.sparsity)
        scores = (part / u_BB.diagonal()[:, None]).square()
        mask.copy_(select_smallest(scores.reshape(1, -1), count).view_as(scores))


def _sweep_columns(w_BM: Tensor, pruned_BM: Tensor, u_BB: Tensor, groups: NofM | None) -> Tensor:
    """Prune one block of columns in place; returns the scaled errors that the columns to the right must absorb.

    With `groups`, what goes is chosen on entering each group, on weights that carry the compensation from the left.
    """
    diagonal_B = u_BB.diagonal()
    errors_BM = torch.empty_like(w_BM)
    for j in range(w_BM.shape[0]):
        if groups is not None and j % groups.group == 0:
            group = slice(j, j + groups.group)
            scores = (w_BM[group] / diagonal_B[group, None]).square().T.contiguous()
            pruned_BM[group] = select_smallest(scores, groups.group - groups.kept).T
        error = torch.where(pruned_BM[j], w_BM[j], 0) / diagonal_B[j]
        w_BM[j].masked_fill_(pruned_BM[j], 0)
        w_BM[j + 1 :].addr_(u_BB[j, j + 1 :], error, alpha=-1)
        errors_BM[j] = error
    return errors_BM


def inverse_factor(hessian_NN: Tensor, dead_N: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """The upper triangular U with H⁻¹ = UᵀU, for H with its diagonal damped.

    Dead inputs get diagonal 1 after damping by 0.01 of the live diagonal's mean. With flip reversing rows and
    columns, flip(H) = LLᵀ gives H = RRᵀ for the upper triangular R = flip(L), and U = R⁻¹: half the cost of
    factorising, inverting and factorising again. Where the factorisation fails, the damping grows tenfold.

    Returns:
        U, and a note for every time that the damping had to grow.

    Raises:
        FloatingPointError: no damping helps.
    """
    live = hessian_NN.diagonal()[~dead_N]
    mean = float(live.mean()) if live.numel() else 1.0
    damping = DAMPING
    notes: list[str] = []
    while damping <= _MAX_DAMPING:
        damped_NN = hessian_NN.clone()
        diagonal = damped_NN.diagonal()
        diagonal += damping * mean
        diagonal[dead_N] = 1
        lower_NN, failed = torch.linalg.cholesky_ex(damped_NN.flip(0, 1))
        if int(failed) == 0 and bool(torch.isfinite(lower_NN).all()):
            identity = torch.eye(len(dead_N), dtype=damped_NN.dtype, device=damped_NN.device)
            factor = torch.linalg.solve_triangular(lower_NN.flip(0, 1), identity, upper=True)
            return factor, tuple(notes)
        damping *= 10
        notes.append(f"factorisation failed; damping raised to {damping:g} of the mean diagonal")
    raise FloatingPointError("the second moments of the inputs cannot be factorised, whatever the damping")
