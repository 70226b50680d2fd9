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

import torch
from torch import Tensor

from secateur_service.pruning.conjugate_gradient import errors, refine
from secateur_service.pruning.elementwise import zero_where
from secateur_service.pruning.patterns import Target, prune
from secateur_service.pruning.products import Product, in_tf32

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
) -> tuple[list[Tensor], list[Tensor], tuple[str, ...]]:
    """Prune layers that share an input.

    Args:
        weights: one m_i×n matrix per layer, float32; not modified.
        hessian_NN: H of their common input, any common scale; not modified.
        target: how much to prune, and which weights compete.
        product: of all rows with a matrix n×n; it may be less precise than float32.
        check: called between two pieces of work; raises to stop.

    Returns:
        The new matrices, refined by conjugate gradients, the mask of pruned weights for each, and no notes.

    Raises:
        FloatingPointError: H cannot be factorised.
    """
    damped_NN = hessian_NN.clone()
    mean = float(hessian_NN.diagonal().mean())
    damped_NN.diagonal().add_(REGULARISATION * (mean or 1.0))  # all inputs may be dead
    scale_N = damped_NN.diagonal().sqrt()
    gram_NN = damped_NN / scale_N[:, None] / scale_N
    solved = [_solve_layer(weight, damped_NN, scale_N, gram_NN, target, product, check) for weight in weights]
    return [weight for weight, _ in solved], [pruned for _, pruned in solved], ()


def _solve_layer(
    weight_MN: Tensor,
    damped_NN: Tensor,
    scale_N: Tensor,
    gram_NN: Tensor,
    target: Target,
    product: Product,
    check: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    dense_MN = weight_MN * scale_N
    start_MN = prune(dense_MN.abs(), target)
    pruned_MN = _admm(dense_MN, start_MN, gram_NN, target, product, check)
    candidates = [
        (refine(weight_MN, mask_MN, damped_NN, product=product, check=check), mask_MN)
        for mask_MN in (pruned_MN, start_MN)
    ]
    losses = [float(errors(weight_MN, refined_MN, damped_NN).sum()) for refined_MN, _ in candidates]
    # The problem is not convex, so ADMM may, rarely, end worse than it began.
    return candidates[0] if losses[0] <= losses[1] else candidates[1]


def _admm(
    dense_MN: Tensor,
    pruned_MN: Tensor,
    gram_NN: Tensor,
    target: Target,
    product: Product,
    check: Callable[[], None],
) -> Tensor:
    """The final mask, for weights in scaled coordinates and an initial mask.

    For rows w of the dense weights: B = (wG − V + ρD)(G + ρ)⁻¹, D = what the target keeps of B + V/ρ,
    V ← V + ρ(B − D), which is ρ times what the target removes from B + V/ρ. How fast ρ grows depends on how much the
    mask has changed: those newly pruned are counted, and as many are newly kept.
    """
    goal_MN = dense_MN @ gram_NN
    kept_count = int((~pruned_MN).sum())
    feasible_MN = zero_where(dense_MN.clone(), pruned_MN)
    dual_MN = torch.zeros_like(dense_MN)
    penalty, before_MN = _FIRST_PENALTY, pruned_MN
    inverse_NN = _inverse(gram_NN, penalty)
    for iteration in range(1, _MAX_ITERATIONS + 1):
        check()
        free_MN = product(torch.add(goal_MN, feasible_MN, alpha=penalty).sub_(dual_MN), inverse_NN)
        proposal_MN = free_MN.add_(dual_MN, alpha=1 / penalty)
        pruned_MN = prune(proposal_MN.abs(), target)
        taken_MN = proposal_MN * pruned_MN
        feasible_MN = proposal_MN.sub_(taken_MN)
        dual_MN = taken_MN.mul_(penalty)
        if iteration % _UPDATE_EVERY == 0:
            changed = int((pruned_MN & ~before_MN).sum())
            if changed == 0:
                break
            penalty *= 1.3 if changed >= 0.1 * kept_count else 1.2 if changed >= 0.005 * kept_count else 1.1
            inverse_NN = _inverse(gram_NN, penalty)
            before_MN = pruned_MN
    return pruned_MN


def _inverse(gram_NN: Tensor, penalty: float) -> Tensor:
    """(G + ρ)⁻¹ for G with a diagonal of ones."""
    shifted_NN = gram_NN.clone()
    shifted_NN.diagonal().add_(penalty)
    lower_NN, failed = torch.linalg.cholesky_ex(shifted_NN)
    if int(failed):
        raise FloatingPointError("the second moments of the inputs cannot be factorised")
    return torch.cholesky_inverse(lower_NN)
