"""How many weights are pruned, and which ones of a group, given their scores.

Counts are integers, defined in one place and met exactly: among equal scores the lower index is pruned first. (Pruning
everything up to the k-th smallest score would prune too much wherever scores tie, as they do in bfloat16.)
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur_service.pruning.ranks import Ranks, Rows

_CHUNK_ELEMENTS = 1 << 22

# Up to this many columns, comparing all pairs is faster than selecting.
_RANKED_SIZE = 8
_DEVICE_RANKED_SIZE = 32
_FEW_ROWS = 64


@dataclass(frozen=True)
class Unstructured:
    """Prune a share `sparsity` of the weights that compete with each other, rounded down.

    Attributes:
        sparsity: between 0 and 1.
        group: which weights compete: those of an output `row`, or those of the whole `layer`.
    """

    sparsity: float
    group: str = "row"


@dataclass(frozen=True)
class NofM:
    """Keep `kept` of every `group` consecutive inputs in every row."""

    kept: int
    group: int


Target = Unstructured | NofM


def target_count(size: int, sparsity: float) -> int:
    """⌊size · sparsity⌋, with the sparsity taken as the decimal number it was written as."""
    return int(size * Fraction(repr(sparsity)))


def select_smallest(scores: Tensor, count: int, *, waits: bool | None = None) -> Tensor:
    """Mark the `count` smallest scores of every row; among equal scores the lower index comes first.

    Args:
        scores: R×K, float32, finite.
        count: between 0 and K.
        waits: whether ties are looked for before they are broken, which saves a CPU work but makes an accelerator wait
            for the host; by default on a CPU.

    Returns:
        R×K booleans with exactly `count` true in each row.
    """
    rows, size = scores.shape
    if count <= 0 or count >= size:
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    if size <= (_RANKED_SIZE if scores.device.type == "cpu" else _DEVICE_RANKED_SIZE):
        return _select_by_rank(scores, count)
    selected = torch.empty(rows, size, dtype=torch.bool, device=scores.device)
    step = max(1, _CHUNK_ELEMENTS // size)
    for start in range(0, rows, step):
        chunk, marked = scores[start : start + step], selected[start : start + step]
        threshold = _kth_smallest(chunk, count)
        if waits is False or (waits is None and scores.device.type != "cpu"):
            _mark_smallest(marked, chunk, threshold, count)
            continue
        torch.le(chunk, threshold, out=marked)
        excess = _count(marked) - count
        if bool(excess.any()):
            _unmark_last(marked, chunk == threshold, excess)
    return selected


def _kth_smallest(scores: Tensor, k: int) -> Tensor:
    """The k-th smallest of every row: R×1."""
    if scores.device.type == "cpu":  # NumPy's selection uses vector instructions, torch's does not
        return torch.from_numpy(np.partition(scores.numpy(), k - 1, axis=1)[:, k - 1, None].copy())
    if len(scores) < _FEW_ROWS:  # kthvalue has one thread block per row, topk several
        return scores.topk(k, largest=False, sorted=False).values.amax(-1, keepdim=True)
    return scores.kthvalue(k, dim=-1, keepdim=True).values


def _select_by_rank(scores: Tensor, count: int) -> Tensor:
    """The same for few columns: ranks each score in its row by comparing all pairs of columns."""
    if scores.device.type != "cpu":
        return _ranks_below(count, scores.T.contiguous(), torch).T
    return torch.from_numpy(_ranks_below(count, scores.T.contiguous().numpy(), np)).T


def _ranks_below(count: int, scores_KR: Any, library: Any) -> Any:
    """Whether a score's rank in its column is below `count`, by NumPy or torch: of little, NumPy's work costs less."""
    size = len(scores_KR)
    rank_KR = library.zeros_like(scores_KR, dtype=library.int8)
    for i in range(size - 1):
        comes_first = (scores_KR[i] <= scores_KR[i + 1 :]).view(library.int8)
        rank_KR[i] += size - 1 - i - comes_first.sum(0, dtype=library.int8)
        rank_KR[i + 1 :] += comes_first
    return rank_KR < count


def _mark_smallest(marked: Tensor, scores: Tensor, threshold: Tensor, count: int) -> None:
    """Mark what is below the `count`-th smallest R×1 of every row, and as many of its equals as are lacking."""
    torch.lt(scores, threshold, out=marked)
    lacking = count - marked.sum(1, keepdim=True, dtype=torch.int32)
    tied = scores == threshold
    marked |= tied & (tied.cumsum(1, dtype=torch.int32) <= lacking)


def _unmark_last(marked: Tensor, tied: Tensor, excess: Tensor) -> None:
    """Unmark the last `excess` (R) of the tied positions in every row; `marked` and `tied` are R×K."""
    flat = tied.reshape(-1).nonzero().squeeze(1)
    row = flat // tied.shape[1]
    kept_until = _count(tied).cumsum(0) - excess
    marked.view(-1)[flat[torch.arange(len(flat), device=flat.device) >= kept_until[row]]] = False


def _count(marks: Tensor) -> Tensor:
    """How many booleans of every row are true: R."""
    if marks.device.type == "cpu":  # torch would convert each to a 64-bit integer first
        return torch.from_numpy(np.count_nonzero(marks.numpy(), axis=1))
    return marks.sum(1)


def prune_rows(own: Tensor, target: Target, rows: Rows, ranks: Ranks) -> Tensor:
    """`prune` for a matrix of which every rank has some rows: what is pruned in those of this one."""
    if isinstance(target, Unstructured) and target.group == "layer":
        return ranks.select(own, rows.sizes, lambda whole: prune(whole, target))
    return prune(own, target)


def prune(scores: Tensor, target: Target) -> Tensor:
    """Mark what to prune.

    Args:
        scores: m×n; the larger the score, the more the weight is worth keeping.
        target: unstructured within each row or over the matrix, or N:M within each group of a row.

    Returns:
        m×n booleans, true where the weight is pruned.
    """
    if isinstance(target, NofM):
        groups = scores.reshape(-1, target.group)
        return select_smallest(groups, target.group - target.kept).reshape(scores.shape)
    competing = scores if target.group == "row" else scores.reshape(1, -1)
    return select_smallest(competing, target_count(competing.shape[1], target.sparsity)).reshape(scores.shape)
