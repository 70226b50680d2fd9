"""SparseGPT: prune column by column and let the columns to the right compensate.

Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", 2301.00774,
algorithm 1. With H = XᵀX of the layer's inputs and H⁻¹ = UᵀU, U upper triangular, removing weight w_ij costs
w_ij² / U_jj² and moves the weights to its right by −e_ij · U_j,j+1.. with e_ij = w_ij / U_jj.

So every row ends at Ŵ = W − E·U. The algorithm adds E·U block by block; here this needs no inverse of the whole H.
With R = U⁻¹, the Cholesky factor in H = RRᵀ, E equals (W − Ŵ)·R, and the blocks a to the left of block b contribute
−E_a·U_ab = (W − Ŵ)_a · R_ab · U_bb: only the blocks U_bb = R_bb⁻¹ on the diagonal are inverted.

Layers that share an input share H and its factor, and are swept together as one stack of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from secateur_service.pruning.budget import SWEEP_COLUMNS
from secateur_service.pruning.elementwise import is_finite
from secateur_service.pruning.patterns import NofM, Target, Unstructured, select_smallest, target_count
from secateur_service.pruning.sweep import sweep

DAMPING = 0.01
_MAX_DAMPING = 1e3


def sparsegpt(
    weights: Sequence[Tensor],
    hessian_NN: Tensor,
    target: Target,
    *,
    chosen: Sequence[Tensor] | None = None,
    check: Callable[[], None] = lambda: None,
) -> tuple[list[Tensor], list[Tensor], tuple[str, ...]]:
    """Prune layers that share an input and update what they keep.

    Args:
        weights: one m_i×n matrix per layer, float32; not modified.
        hessian_NN: H of their common input, any common scale; not modified.
        target: unstructured over each column block of a row or of a layer, or N:M.
        chosen: what to prune, m_i×n booleans per layer; by default the sweep chooses by its own score.
        check: called between two pieces of work; raises to stop.

    Returns:
        The new matrices, the mask of pruned weights for each, and notes on what had to be repaired.

    Raises:
        FloatingPointError: H cannot be factorised whatever the damping.
    """
    dead_N = hessian_NN.diagonal() == 0
    root_NN, notes = upper_root(hessian_NN, dead_N)
    # Transposed so that each column of W, which the sweep goes through one by one, is contiguous.
    w_NM = torch.cat([weight.float() for weight in weights]).T.contiguous()
    w_NM[dead_N] = 0
    rows = [weight.shape[0] for weight in weights]
    pruned_NM = torch.zeros_like(w_NM, dtype=torch.bool) if chosen is None else torch.cat(list(chosen)).T.contiguous()
    moved_NM = torch.empty_like(w_NM)  # W − Ŵ
    width = w_NM.shape[0]
    step = SWEEP_COLUMNS
    if isinstance(target, NofM):
        step = target.group * max(1, SWEEP_COLUMNS // target.group)  # no group straddles two column blocks
    for start in range(0, width, step):
        check()
        block = slice(start, min(start + step, width))
        u_BB = _inverse(root_NN[block, block])
        w_BM = w_NM[block].addmm(u_BB.T, root_NN[:start, block].T @ moved_NM[:start])
        if chosen is None and isinstance(target, Unstructured):
            _choose_unstructured(w_BM, pruned_NM[block], u_BB, target, rows, start)
        sweep(w_BM, pruned_NM[block], u_BB, target if chosen is None and isinstance(target, NofM) else None)
        torch.sub(w_NM[block], w_BM, out=moved_NM[block])
        w_NM[block] = w_BM
    new = [part.T for part in w_NM.split(rows, dim=1)]
    return new, [part.T for part in pruned_NM.split(rows, dim=1)], notes


def sweep_masked(
    weights: Sequence[Tensor],
    pruned: Sequence[Tensor],
    hessian_NN: Tensor,
    target: Target,
    *,
    check: Callable[[], None] = lambda: None,
) -> tuple[list[Tensor], tuple[str, ...]]:
    """The update `obs`: the sweep under given masks. Arguments and errors as for `sparsegpt`."""
    swept, _, notes = sparsegpt(weights, hessian_NN, target, chosen=pruned, check=check)
    return swept, notes


def _choose_unstructured(
    w_BM: Tensor, pruned_BM: Tensor, u_BB: Tensor, target: Unstructured, rows: Sequence[int], first: int
) -> None:
    """Mark the target's share of a block of columns by |w| / U_jj, within each row or over all rows of each layer."""
    stop = first + w_BM.shape[0]

    def share(height: int) -> int:
        return target_count(height * stop, target.sparsity) - target_count(height * first, target.sparsity)

    scores_BM = (w_BM / u_BB.diagonal()[:, None]).abs_()
    if target.group == "row":
        pruned_BM.copy_(select_smallest(scores_BM.T.contiguous(), share(1)).T)
        return
    for scores, mask in zip(scores_BM.split(rows, dim=1), pruned_BM.split(rows, dim=1), strict=True):
        mask.copy_(select_smallest(scores.reshape(1, -1), share(scores.shape[1])).view_as(scores))


def upper_root(hessian_NN: Tensor, dead_N: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """The upper triangular R with H = RRᵀ, for H with its diagonal damped.

    Dead inputs get diagonal 1 after damping by 0.01 of the live diagonal's mean. With flip reversing rows and
    columns, flip(H) = LLᵀ gives R = flip(L). If the factorisation fails, the damping is raised tenfold.

    Returns:
        R, and a note for every time that the damping had to be raised.

    Raises:
        FloatingPointError: no damping helps.
    """
    live = hessian_NN.diagonal()[~dead_N]
    mean = float(live.mean()) if live.numel() else 1.0
    damping = DAMPING
    notes: list[str] = []
    while damping <= _MAX_DAMPING:
        damped_NN = hessian_NN.flip(0, 1)
        diagonal = damped_NN.diagonal()
        diagonal += damping * mean
        diagonal[dead_N.flip(0)] = 1
        lower_NN, failed = torch.linalg.cholesky_ex(damped_NN)
        del damped_NN, diagonal
        if int(failed) == 0 and is_finite(lower_NN):
            return lower_NN.flip(0, 1), tuple(notes)
        damping *= 10
        notes.append(f"factorisation failed; damping raised to {damping:g} of the mean diagonal")
    raise FloatingPointError("the second moments of the inputs cannot be factorised, whatever the damping")


def _inverse(upper_BB: Tensor) -> Tensor:
    identity = torch.eye(len(upper_BB), dtype=upper_BB.dtype, device=upper_BB.device)
    return torch.linalg.solve_triangular(upper_BB, identity, upper=True)
