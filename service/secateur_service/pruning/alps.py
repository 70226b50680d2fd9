"""ALPS: ADMM finds which weights to keep together with their values.

Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models", 2406.07831,
algorithm 1: minimise ‖XŴᵀ − XWᵀ‖² + τ‖Ŵ − W‖² with at most k weights. A copy D of the weights obeys the constraint,
B minimises the error, V pulls them together with growing force ρ. Inputs are scaled to unit second moment first.

Every step of B solves with G + ρ. The paper diagonalises G once and pays two products per step. Here G + ρ, whose
eigenvalues are at least ρ, is inverted by Cholesky whenever ρ changes, at most every third step, and a step costs one
product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from secateur_service.pruning.conjugate_gradient import errors, refine
from secateur_service.pruning.elementwise import zero_where
from secateur_service.pruning.patterns import Target, prune_rows
from secateur_service.pruning.products import Product, in_tf32
from secateur_service.pruning.ranks import ALONE, Ranks, Rows, by_slices, sums_of_slices

REGULARISATION = 0.01
_MAX_ITERATIONS = 300
_UPDATE_EVERY = 3
_FIRST_PENALTY = 0.1


def alps(
    weights: Sequence[Tensor],
    hessian_NN: Tensor,
    target: Target,
    *,
    product: Product = in_tf32,
    check: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> tuple[list[Tensor], list[Tensor], tuple[str, ...]]:
    """Prune layers that share an input.

    Args:
        weights: one m_i×n matrix per layer, float32; not modified.
        hessian_NN: H of their common input, any common scale; not modified.
        target: how much to prune, and which weights compete.
        product: of all rows with a matrix n×n; it may be less precise than float32.
        check: called between two pieces of work; raises to stop.
        ranks: who solves the rows.

    Returns:
        The rows of this rank in the new matrices, refined by conjugate gradients, the mask of pruned weights for each,
        and no notes.

    Raises:
        FloatingPointError: H cannot be factorised.
    """
    damped_NN = hessian_NN.clone()
    mean = float(hessian_NN.diagonal().mean())
    damped_NN.diagonal().add_(REGULARISATION * (mean or 1.0))  # all inputs may be dead
    scale_N = damped_NN.diagonal().sqrt()
    gram_NN = damped_NN / scale_N[:, None] / scale_N
    solved = [_solve_layer(weight, damped_NN, scale_N, gram_NN, target, product, check, ranks) for weight in weights]
    return [weight for weight, _ in solved], [pruned for _, pruned in solved], ()


def _solve_layer(
    weight_MN: Tensor,
    damped_NN: Tensor,
    scale_N: Tensor,
    gram_NN: Tensor,
    target: Target,
    product: Product,
    check: Callable[[], None],
    ranks: Ranks,
) -> tuple[Tensor, Tensor]:
    rows = Rows(len(weight_MN), ranks, weight_MN.device)
    weight_RN = weight_MN[rows.all]
    dense_RN = weight_RN * scale_N
    start_RN = prune_rows(dense_RN.abs(), target, rows, ranks)
    pruned_RN = _admm(dense_RN, start_RN, gram_NN, target, product, check, rows, ranks)
    work = partial(refine, hessian_NN=damped_NN, product=product, check=check)
    candidates = [(by_slices(work, rows, weight_RN, mask_RN), mask_RN) for mask_RN in (pruned_RN, start_RN)]
    losses = sums_of_slices(
        lambda part: [float(errors(weight_RN[part], each[part], damped_NN).sum()) for each, _ in candidates],
        rows,
        ranks,
    )
    # The problem is not convex, so ADMM may, rarely, end worse than it began.
    return candidates[0] if losses[0] <= losses[1] else candidates[1]


def _admm(
    dense_RN: Tensor,
    pruned_RN: Tensor,
    gram_NN: Tensor,
    target: Target,
    product: Product,
    check: Callable[[], None],
    rows: Rows,
    ranks: Ranks,
) -> Tensor:
    """The final mask, for weights in scaled coordinates and an initial mask: all of the rows of this rank.

    For rows w of the dense weights: B = (wG − V + ρD)(G + ρ)⁻¹, D = what the target keeps of B + V/ρ,
    V ← V + ρ(B − D), which is ρ times what the target removes from B + V/ρ. How fast ρ grows depends on how much the
    mask has changed: those newly pruned are counted, and as many are newly kept.
    """
    goal_RN = by_slices(lambda part_SN: part_SN @ gram_NN, rows, dense_RN)
    (kept_count,) = sums_of_slices(lambda part: [int((~pruned_RN[part]).sum())], rows, ranks)
    feasible_RN = zero_where(dense_RN.clone(), pruned_RN)
    dual_RN = torch.zeros_like(dense_RN)
    penalty, before_RN = _FIRST_PENALTY, pruned_RN
    inverse_NN = ranks.compute(lambda: _inverse(gram_NN, penalty), lambda: torch.empty_like(gram_NN))
    for iteration in range(1, _MAX_ITERATIONS + 1):
        check()
        wanted_RN = torch.add(goal_RN, feasible_RN, alpha=penalty).sub_(dual_RN)
        free_RN = by_slices(lambda part_SN: product(part_SN, inverse_NN), rows, wanted_RN)  # noqa: B023 - called here
        proposal_RN = free_RN.add_(dual_RN, alpha=1 / penalty)
        pruned_RN = prune_rows(proposal_RN.abs(), target, rows, ranks)
        taken_RN = proposal_RN * pruned_RN
        feasible_RN = proposal_RN.sub_(taken_RN)
        dual_RN = taken_RN.mul_(penalty)
        if iteration % _UPDATE_EVERY == 0:
            newly_RN = pruned_RN & ~before_RN
            (changed,) = sums_of_slices(lambda part: [int(newly_RN[part].sum())], rows, ranks)  # noqa: B023
            if changed == 0:
                break
            penalty *= 1.3 if changed >= 0.1 * kept_count else 1.2 if changed >= 0.005 * kept_count else 1.1
            inverse_NN = ranks.compute(lambda: _inverse(gram_NN, penalty), lambda: torch.empty_like(gram_NN))  # noqa: B023
            before_RN = pruned_RN
    return pruned_RN


def _inverse(gram_NN: Tensor, penalty: float) -> Tensor:
    """(G + ρ)⁻¹ for G with a diagonal of ones."""
    shifted_NN = gram_NN.clone()
    shifted_NN.diagonal().add_(penalty)
    lower_NN, failed = torch.linalg.cholesky_ex(shifted_NN)
    if int(failed):
        raise FloatingPointError("the second moments of the inputs cannot be factorised")
    return torch.cholesky_inverse(lower_NN)
