"""SparseGPT: prune column by column and let the columns to the right compensate.

Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", 2301.00774,
algorithm 1. With H = XᵀX of the layer's inputs and H⁻¹ = UᵀU, U upper triangular, removing weight w_ij costs
w_ij² / U_jj² and moves the weights to its right by −e_ij · U_j,j+1.. with e_ij = w_ij / U_jj.

So every row ends at Ŵ = W − E·U. The algorithm adds E·U block by block; here this needs no inverse of the whole H.
With R = U⁻¹, the Cholesky factor in H = RRᵀ, E equals (W − Ŵ)·R, and the blocks a to the left of block b contribute
−E_a·U_ab = (W − Ŵ)_a · R_ab · U_bb: only the blocks U_bb = R_bb⁻¹ on the diagonal are inverted.

Layers that share an input share H and its factor, and are swept together: on an accelerator as one slice of rows, on a
CPU as slices whose products are apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur_service.pruning.budget import SWEEP_COLUMNS
from secateur_service.pruning.elementwise import is_finite
from secateur_service.pruning.patterns import NofM, Target, Unstructured, select_smallest, target_count
from secateur_service.pruning.ranks import ALONE, Ranks, Rows
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
    ranks: Ranks = ALONE,
) -> tuple[list[Tensor], list[Tensor], tuple[str, ...]]:
    """Prune layers that share an input and update what they keep.

    Args:
        weights: one m_i×n matrix per layer, float32; not modified.
        hessian_NN: H of their common input, any common scale; not modified.
        target: unstructured over each column block of a row or of a layer, or N:M.
        chosen: what to prune, booleans for the rows of this rank per layer; by default the sweep chooses by its own
            score.
        check: called between two pieces of work; raises to stop.
        ranks: who sweeps the rows.

    Returns:
        The rows of this rank in the new matrices, the mask of pruned weights for each, and notes on what had to be
        repaired.

    Raises:
        FloatingPointError: H cannot be factorised whatever the damping.
    """
    dead_N = hessian_NN.diagonal() == 0
    notes: list[str] = []
    root_NN = ranks.compute(lambda: upper_root(hessian_NN, dead_N, notes), lambda: torch.empty_like(hessian_NN))
    rows = [Rows(len(weight), ranks, weight.device) for weight in weights]
    stacks = _stacks(weights, chosen, dead_N, rows)
    width = hessian_NN.shape[0]
    step = SWEEP_COLUMNS
    if isinstance(target, NofM):
        step = target.group * max(1, SWEEP_COLUMNS // target.group)  # no group straddles two column blocks
    for start in range(0, width, step):
        check()
        block = slice(start, min(start + step, width))
        u_BB = _inverse(root_NN[block, block])
        swept = [stack.compensated(block, root_NN, u_BB) for stack in stacks]
        if chosen is None and isinstance(target, Unstructured):
            _choose_unstructured(stacks, swept, block, u_BB, target, rows, ranks)
        groups = target if chosen is None and isinstance(target, NofM) else None
        for stack, w_SBM in zip(stacks, swept, strict=True):
            sweep(w_SBM, stack.pruned_SNM[:, block], u_BB, groups)
            torch.sub(stack.weight_SNM[:, block], w_SBM, out=stack.moved_SNM[:, block])
            stack.weight_SNM[:, block] = w_SBM
    new, pruned = [], []
    for number in range(len(weights)):
        new.append(_joined(_rows_of(number, stacks, [stack.weight_SNM for stack in stacks]), width, hessian_NN))
        pruned.append(_joined(_rows_of(number, stacks, [stack.pruned_SNM for stack in stacks]), width, dead_N))
    return new, pruned, tuple(ranks.share(lambda: notes))


@dataclass(frozen=True)
class _Stack:
    """Slices of rows that are swept together, transposed: their columns follow one another, and each is contiguous.

    Attributes:
        weight_SNM: the weights of S slices of M rows, new ones as far as they have been swept.
        pruned_SNM: the mask of what is pruned.
        moved_SNM: W − Ŵ, as far as they have been swept.
        places: where rows of each layer are, by its number: the first of them, the slice, and their place in that.
    """

    weight_SNM: Tensor  # noqa: N815 - the suffix is the shape
    pruned_SNM: Tensor  # noqa: N815
    moved_SNM: Tensor  # noqa: N815
    places: Mapping[int, Sequence[tuple[int, int, slice]]]

    def compensated(self, block: slice, root_NN: Tensor, u_BB: Tensor) -> Tensor:
        """The columns of a block, moved by those to its left: S×B×M."""
        left = slice(0, block.start)
        swept_SBM = torch.empty_like(self.weight_SNM[:, block], memory_format=torch.contiguous_format)
        for w_NM, moved_NM, swept_BM in zip(self.weight_SNM, self.moved_SNM, swept_SBM, strict=True):
            torch.addmm(w_NM[block], u_BB.T, root_NN[left, block].T @ moved_NM[left], out=swept_BM)
        return swept_SBM


def _stacks(
    weights: Sequence[Tensor], chosen: Sequence[Tensor] | None, dead_N: Tensor, rows: Sequence[Rows]
) -> list[_Stack]:
    """The rows of this rank: on a CPU in slices, stacked with those of their height; one slice on an accelerator."""
    pieces = [(number, *both) for number, each in enumerate(rows) for both in zip(each.slices, each.own, strict=True)]
    by_height: dict[int, list[list[_Piece]]] = {}
    for some in [[piece] for piece in pieces] if weights[0].device.type == "cpu" else [pieces]:
        by_height.setdefault(sum(part.stop - part.start for _, part, _ in some), []).append(some)
    return [_stack(slices, weights, chosen, dead_N) for slices in by_height.values()]


_Piece = tuple[int, slice, slice]
"""Rows of a layer: its number, and their positions in it and among those of this rank."""


def _stack(
    slices: Sequence[Sequence[_Piece]], weights: Sequence[Tensor], chosen: Sequence[Tensor] | None, dead_N: Tensor
) -> _Stack:
    w_SNM = _stacked([[weights[number][part].float() for number, part, _ in pieces] for pieces in slices])
    w_SNM[:, dead_N] = 0
    pruned_SNM = torch.zeros_like(w_SNM, dtype=torch.bool)
    if chosen is not None:
        pruned_SNM = _stacked([[chosen[number][own] for number, _, own in pieces] for pieces in slices])
    places: dict[int, list[tuple[int, int, slice]]] = {}
    for position, pieces in enumerate(slices):
        start = 0
        for number, part, _ in pieces:
            stop = start + part.stop - part.start
            places.setdefault(number, []).append((part.start, position, slice(start, stop)))
            start = stop
    return _Stack(w_SNM, pruned_SNM, torch.empty_like(w_SNM), places)


def _stacked(slices: Sequence[Sequence[Tensor]]) -> Tensor:
    """Slices, given as matrices of rows: transposed, S×N×M."""
    return torch.stack([torch.cat(list(pieces)).T for pieces in slices])


def _rows_of(number: int, stacks: Sequence[_Stack], matrices: Sequence[Tensor]) -> list[Tensor]:
    """The rows of a layer in matrices S×K×M, one of each stack, as views R×K in the layer's order."""
    found = {
        first: matrix[position, :, part].T
        for stack, matrix in zip(stacks, matrices, strict=True)
        for first, position, part in stack.places.get(number, ())
    }
    return [found[first] for first in sorted(found)]


def sweep_masked(
    weights: Sequence[Tensor],
    pruned: Sequence[Tensor],
    hessian_NN: Tensor,
    target: Target,
    *,
    check: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> tuple[list[Tensor], tuple[str, ...]]:
    """The update `obs`: the sweep under given masks. Arguments and errors as for `sparsegpt`."""
    swept, _, notes = sparsegpt(weights, hessian_NN, target, chosen=pruned, check=check, ranks=ranks)
    return swept, notes


def _choose_unstructured(
    stacks: Sequence[_Stack],
    swept: Sequence[Tensor],
    block: slice,
    u_BB: Tensor,
    target: Unstructured,
    rows: Sequence[Rows],
    ranks: Ranks,
) -> None:
    """Mark the target's share of a block of columns by |w| / U_jj, within each row or over all rows of each layer."""

    def share(height: int) -> int:
        return target_count(height * block.stop, target.sparsity) - target_count(height * block.start, target.sparsity)

    def over_all(scores_MB: Tensor) -> Tensor:
        scores_BM = scores_MB.T.contiguous()  # among equal scores the first column comes first
        chosen = select_smallest(scores_BM.reshape(1, -1), share(scores_BM.shape[1]))
        return chosen.view_as(scores_BM).T

    diagonal_B1 = u_BB.diagonal()[:, None]
    scores = [(w_SBM / diagonal_B1).abs_() for w_SBM in swept]
    marks = [stack.pruned_SNM[:, block] for stack in stacks]
    if target.group == "row":
        for marks_SBM, scores_SBM in zip(marks, scores, strict=True):
            slices, width, height = scores_SBM.shape
            chosen_RB = select_smallest(scores_SBM.transpose(1, 2).reshape(-1, width), share(1))
            marks_SBM.copy_(chosen_RB.view(slices, height, width).transpose(1, 2))
        return
    for number, each in enumerate(rows):
        marked = _rows_of(number, stacks, marks)
        scores_RB = _joined(_rows_of(number, stacks, scores), len(u_BB), u_BB)
        masks = ranks.select(scores_RB, each.sizes, over_all).split([len(part) for part in marked])
        for part, mask in zip(marked, masks, strict=True):
            part.copy_(mask)


def _joined(parts: Sequence[Tensor], width: int, like: Tensor) -> Tensor:
    """Rows of this rank, which may have none."""
    return torch.cat(list(parts)) if parts else like.new_empty(0, width)


def upper_root(hessian_NN: Tensor, dead_N: Tensor, notes: list[str]) -> Tensor:
    """The upper triangular R with H = RRᵀ, for H with its diagonal damped.

    Dead inputs get diagonal 1 after damping by 0.01 of the live diagonal's mean. With flip reversing rows and
    columns, flip(H) = LLᵀ gives R = flip(L). If the factorisation fails, the damping is raised tenfold.

    Args:
        hessian_NN: H; not modified.
        dead_N: which inputs are dead.
        notes: gets one for every time that the damping had to be raised.

    Raises:
        FloatingPointError: no damping helps.
    """
    live = hessian_NN.diagonal()[~dead_N]
    mean = float(live.mean()) if live.numel() else 1.0
    damping = DAMPING
    while damping <= _MAX_DAMPING:
        damped_NN = hessian_NN.flip(0, 1)
        diagonal = damped_NN.diagonal()
        diagonal += damping * mean
        diagonal[dead_N.flip(0)] = 1
        lower_NN, failed = torch.linalg.cholesky_ex(damped_NN)
        del damped_NN, diagonal
        if int(failed) == 0 and is_finite(lower_NN):
            return lower_NN.flip(0, 1)
        damping *= 10
        notes.append(f"factorisation failed; damping raised to {damping:g} of the mean diagonal")
    raise FloatingPointError("the second moments of the inputs cannot be factorised, whatever the damping")


def _inverse(upper_BB: Tensor) -> Tensor:
    identity = torch.eye(len(upper_BB), dtype=upper_BB.dtype, device=upper_BB.device)
    return torch.linalg.solve_triangular(upper_BB, identity, upper=True)
