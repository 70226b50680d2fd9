"""ALPS: which weights stay is found together with their values, by ADMM.

Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models", 2406.07831,
algorithm 1: minimise ‖XŴᵀ − XWᵀ‖² + τ‖Ŵ − W‖² with at most k weights. A copy D of the weights obeys the constraint,
B minimises the error, V pulls them together with growing force ρ. Inputs are scaled to unit second moment first, and
one eigendecomposition makes every step two products.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur_service.pruning.conjugate_gradient import errors, refine
from secateur_service.pruning.patterns import Target, prune_matrix

REGULARISATION = 0.01
_MAX_ITERATIONS = 300
_UPDATE_EVERY = 3
_FIRST_PENALTY = 0.1


def alps(weights: Sequence[Tensor], hessian_NN: Tensor, target: Target) -> tuple[list[Tensor], list[Tensor]]:
    """Prune layers that share an input.

    Args:
        weights: one m_i×n matrix per layer, float32; not modified.
        hessian_NN: H of their common input, any common scale; not modified.
        target: unstructured over each layer, or N:M.

    Returns:
        The new matrices, refined by conjugate gradients, and for each the booleans of what was pruned.

    Raises:
        FloatingPointError: H has no eigendecomposition.
    """
    diagonal_N = hessian_NN.diagonal()
    damping = REGULARISATION * diagonal_N.mean().clamp_min(torch.finfo(hessian_NN.dtype).tiny)
    damped_NN = hessian_NN + damping * torch.eye(len(diagonal_N), device=hessian_NN.device)
    scale_N = damped_NN.diagonal().sqrt()
    try:
        values_N, vectors_NN = torch.linalg.eigh(damped_NN / scale_N[:, None] / scale_N)
    except RuntimeError as error:  # torch's LinAlgError is one
        raise FloatingPointError(f"the second moments of the inputs have no eigendecomposition: {error}") from error
    solved = [_solve_layer(weight, damped_NN, scale_N, values_N, vectors_NN, target) for weight in weights]
    return [weight for weight, _ in solved], [pruned for _, pruned in solved]


def _solve_layer(
    weight_MN: Tensor, damped_NN: Tensor, scale_N: Tensor, values_N: Tensor, vectors_NN: Tensor, target: Target
) -> tuple[Tensor, Tensor]:
    start_MN = prune_matrix((weight_MN * scale_N).abs(), target)
    pruned_MN = _admm(weight_MN * scale_N, start_MN, values_N, vectors_NN, target)
    candidates = [(refine(weight_MN, mask_MN, damped_NN), mask_MN) for mask_MN in (pruned_MN, start_MN)]
    losses = [float(errors(weight_MN, refined_MN, damped_NN).sum()) for refined_MN, _ in candidates]
    # ADMM on a problem that is not convex may, rarely, end worse than it began.
    return candidates[0] if losses[0] <= losses[1] else candidates[1]


def _admm(dense_MN: Tensor, pruned_MN: Tensor, values_N: Tensor, vectors_NN: Tensor, target: Target) -> Tensor:
    """What is pruned in the end, for weights in scaled coordinates and a first mask.

    With G = QΛQᵀ and rows w of the dense weights: B = (wG − V + ρD)(G + ρ)⁻¹, D = what the target leaves of B + V/ρ,
    V ← V + ρ(B − D).
    """
    goal_MN = dense_MN @ vectors_NN * values_N  # wG, in the eigenvectors' coordinates
    kept_count = int((~pruned_MN).sum())
    feasible_MN = dense_MN.masked_fill(pruned_MN, 0)
    dual_MN = torch.zeros_like(dense_MN)
    penalty, before_MN = _FIRST_PENALTY, pruned_MN
    for iteration in range(1, _MAX_ITERATIONS + 1):
        pulled_MN = (penalty * feasible_MN - dual_MN) @ vectors_NN
        free_MN = ((goal_MN + pulled_MN) / (values_N + penalty)) @ vectors_NN.T
        proposal_MN = free_MN + dual_MN / penalty
        pruned_MN = prune_matrix(proposal_MN.abs(), target)
        feasible_MN = proposal_MN.masked_fill(pruned_MN, 0)
        dual_MN = dual_MN + penalty * (free_MN - feasible_MN)
        if iteration % _UPDATE_EVERY == 0:
            changed = int((pruned_MN & ~before_MN).sum())
            if changed == 0:
                break
            penalty *= 1.3 if changed >= 0.1 * kept_count else 1.2 if changed >= 0.005 * kept_count else 1.1
            before_MN = pruned_MN
    return pruned_MN
