"""Masked conjugate gradients: given which weights are kept, the best values for them.

With H = XᵀX, a row's error ‖X(ŵ − w)ᵀ‖² = (ŵ − w)H(ŵ − w)ᵀ is minimised over the kept weights by a few conjugate
gradient steps from the dense values, all rows at once, each with its own step sizes (Meng et al., "ALPS: Improved
Optimization for Highly Sparse One-Shot Pruning for Large Language Models", 2406.07831, section 3.3; the diagonal of H
is the preconditioner, where the paper scales the inputs instead).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from secateur_service.pruning.budget import CG_STEPS
from secateur_service.pruning.elementwise import zero_where
from secateur_service.pruning.patterns import Target
from secateur_service.pruning.products import Product, in_tf32
from secateur_service.pruning.ranks import ALONE, Ranks, Rows, by_slices


def refine(
    dense_MN: Tensor,
    pruned_MN: Tensor,
    hessian_NN: Tensor,
    *,
    steps: int = CG_STEPS,
    product: Product = in_tf32,
    exact_every: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """The kept weights after at most `steps` steps; no row's error is larger than it was at the start.

    Args:
        dense_MN: m×n, float32; the values that errors are measured against.
        pruned_MN: m×n booleans, true where the weight is zero and stays zero.
        hessian_NN: H of the layer's input, any common scale.
        steps: more than a few are not worth their cost.
        product: of directions with H, m×n and n×n; it may be less precise than float32.
        exact_every: after how many steps the residual is computed anew, with a product in float32; 0 for never.
        check: called between two pieces of work; raises to stop.
    """
    diagonal = hessian_NN.diagonal()
    preconditioner_N = torch.where(diagonal > 0, 1 / diagonal, 0)
    kept_MN = (~pruned_MN).to(dense_MN.dtype)  # multiplying is several times as fast as masked_fill
    start_MN = zero_where(dense_MN.clone(), pruned_MN)
    lost_MN = dense_MN - start_MN
    residual_MN = lost_MN @ hessian_NN  # the gradient of half the error, downhill
    start_error_M = (residual_MN * lost_MN).sum(1)
    residual_MN.mul_(kept_MN)
    scaled_MN = residual_MN * preconditioner_N
    direction_MN = scaled_MN.clone()
    power_M1 = (residual_MN * scaled_MN).sum(1, keepdim=True)
    weight_MN = start_MN.clone()
    for step in range(1, steps + 1):
        check()
        image_MN = product(direction_MN, hessian_NN)
        curvature_M1 = (direction_MN * image_MN).sum(1, keepdim=True)
        step_M1 = torch.where(curvature_M1 > 0, power_M1 / curvature_M1, 0)
        weight_MN.addcmul_(step_M1, direction_MN)
        if exact_every and step % exact_every == 0:
            residual_MN = ((dense_MN - weight_MN) @ hessian_NN).mul_(kept_MN)
        else:
            residual_MN.addcmul_(step_M1, image_MN.mul_(kept_MN), value=-1)
        scaled_MN = residual_MN * preconditioner_N
        new_power_M1 = (residual_MN * scaled_MN).sum(1, keepdim=True)
        direction_MN.mul_(torch.where(power_M1 > 0, new_power_M1 / power_M1, 0)).add_(scaled_MN)
        power_M1 = new_power_M1
    # Rounding may worsen a row that was already at its optimum.
    worse_M = errors(dense_MN, weight_MN, hessian_NN) > start_error_M
    return torch.where(worse_M[:, None], start_MN, weight_MN)


def errors(dense_MN: Tensor, weight_MN: Tensor, hessian_NN: Tensor) -> Tensor:
    """(ŵ − w)H(ŵ − w)ᵀ for every row: m."""
    difference_MN = weight_MN - dense_MN
    return (difference_MN @ hessian_NN * difference_MN).sum(1)


def refine_all(
    weights: Sequence[Tensor],
    pruned: Sequence[Tensor],
    hessian_NN: Tensor,
    _target: Target,
    *,
    check: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> tuple[list[Tensor], tuple[str, ...]]:
    """The update `cg`: `refine` for the rows of this rank in all layers that share an input; returns no notes."""
    refined = []
    for weight, mask in zip(weights, pruned, strict=True):
        rows = Rows(len(weight), ranks, weight.device)
        work = functools.partial(refine, hessian_NN=hessian_NN, check=check)
        refined.append(by_slices(work, rows, weight[rows.all], mask))
    return refined, ()
