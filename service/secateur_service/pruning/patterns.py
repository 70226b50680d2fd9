"""How many weights are pruned, and which of a group with given scores.

Counts are integers defined once, and are met exactly: among equal scores the lower index is pruned first. (Pruning
whatever is at most the k-th smallest score would prune too much wherever scores tie, as they do in bfloat16.)
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Unstructured:
    """A share `sparsity` of the weights of every comparison group is pruned, rounded down."""

    sparsity: float


@dataclass(frozen=True)
class NofM:
    """`kept` of every `group` consecutive inputs are kept in every row."""

    kept: int
    group: int


Target = Unstructured | NofM


def target_count(size: int, sparsity: float) -> int:
    """⌊size · sparsity⌋, with the sparsity taken as the decimal number that it was written as."""
    return int(size * Fraction(repr(sparsity)))


def select_smallest(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` smallest scores of every row; among equal ones the lower index comes first.

    Args:
        scores: R×K, finite.
        count: between 0 and K.

    Returns:
        R×K booleans with exactly `count` true in each row.
    """
    rows, size = scores.shape
    if count <= 0 or count >= size:
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    selected = torch.empty_like(scores, dtype=torch.bool)
    step = max(1, _CHUNK_ELEMENTS // size)
    for start in range(0, rows, step):
        chunk = scores[start : start + step]
        threshold = chunk.kthvalue(count, dim=-1, keepdim=True).values
        below, tied = chunk < threshold, chunk == threshold
        missing = count - below.sum(-1, keepdim=True)
        if bool((tied.sum(-1, keepdim=True) > missing).any()):
            tied &= tied.cumsum(-1, dtype=torch.int32) <= missing
        selected[start : start + step] = below | tied
    return selected


def prune_rows(scores: Tensor, target: Target) -> Tensor:
    """Mark what to prune where weights compete within their row.

    Args:
        scores: m×n; a larger score means a weight more worth keeping.
        target: unstructured within each row, or N:M within each group of a row.

    Returns:
        m×n booleans, true where the weight goes.
    """
    if isinstance(target, Unstructured):
        return select_smallest(scores, target_count(scores.shape[1], target.sparsity))
    groups = scores.reshape(-1, target.group)
    return select_smallest(groups, target.group - target.kept).reshape(scores.shape)


def prune_matrix(scores: Tensor, target: Target) -> Tensor:
    """Mark what to prune where weights compete within the whole matrix; N:M is N:M, whatever competes.

    Args:
        scores: m×n; a larger score means a weight more worth keeping.
        target: unstructured over the matrix, or N:M within each group of a row.

    Returns:
        m×n booleans, true where the weight goes.
    """
    if isinstance(target, Unstructured):
        return prune_rows(scores.reshape(1, -1), target).reshape(scores.shape)
    return prune_rows(scores, target)
