"""The sweep over a block of columns as one kernel for GPUs, where a launch per column would cost more than its work.

Each program holds a few rows of the block in registers and goes through their columns. Needs Triton, which comes with
torch for CUDA.
"""

# ruff: noqa: ANN001, ANN202 (Triton reads a kernel's annotations: there can be none but its own)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from secateur_service.pruning.patterns import NofM

# One warp, so that no column waits for a barrier; with 128 columns it can hold 8 rows without spilling registers.
_TILE_ROWS = 8
_WARPS = 1
_MIN_BLOCK = 16


def sweep(w_BM: Tensor, pruned_BM: Tensor, unit_BB: Tensor, gain_B1: Tensor, groups: NofM | None) -> None:
    """Prune the columns of a block in place, as `sweep.sweep_columns` does.

    Args:
        w_BM: B columns of M rows, transposed, contiguous, float32; B at most 128 or so.
        pruned_BM: booleans, contiguous; written where there are `groups`.
        unit_BB: U of the block with its rows divided by its diagonal.
        gain_B1: the reciprocals of the diagonal.
        groups: an N:M pattern to choose by.
    """
    columns, rows = w_BM.shape
    _sweep_rows[(triton.cdiv(rows, _TILE_ROWS),)](
        w_BM,
        pruned_BM.view(torch.uint8),
        unit_BB.contiguous(),
        gain_B1.contiguous(),
        rows,
        COLUMNS=columns,
        GROUP=groups.group if groups else 0,
        DROPPED=groups.group - groups.kept if groups else 0,
        BLOCK=max(_MIN_BLOCK, triton.next_power_of_2(columns)),
        TILE=_TILE_ROWS,
        num_warps=_WARPS,
    )


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _sweep_rows(  # type: ignore[no-untyped-def, unused-ignore]
    w_ptr,
    pruned_ptr,
    unit_ptr,
    gain_ptr,
    rows,
    COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
    DROPPED: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = tl.arange(0, BLOCK)
    inside = (column < COLUMNS)[:, None] & (row < rows)[None, :]
    place = column[:, None].to(tl.int64) * rows + row[None, :]
    w = tl.load(w_ptr + place, mask=inside, other=0.0)
    pruned = tl.load(pruned_ptr + place, mask=inside, other=0)
    gain = tl.load(gain_ptr + column, mask=column < COLUMNS, other=0.0)
    for j in range(COLUMNS):
        if GROUP > 0:  # noqa: SIM102 # decided when the kernel is compiled
            if j % GROUP == 0:
                score = tl.abs(w) * gain[:, None]
                rank = tl.zeros((BLOCK, TILE), tl.int32)
                for i in range(j, j + GROUP):
                    other = tl.sum(tl.where(column[:, None] == i, score, 0.0), axis=0)[None, :]
                    rank += ((other < score) | ((other == score) & (i < column)[:, None])).to(tl.int32)
                group = (column >= j) & (column < j + GROUP)
                pruned = tl.where(group[:, None], (rank < DROPPED).to(tl.uint8), pruned)
        removed = tl.sum(tl.where((column == j)[:, None] & (pruned != 0), w, 0.0), axis=0)
        unit = tl.load(unit_ptr + j * COLUMNS + column, mask=column < COLUMNS, other=0.0)
        w -= unit[:, None] * removed[None, :]
    tl.store(w_ptr + place, tl.where(pruned != 0, 0.0, w), mask=inside)
    if GROUP > 0:
        tl.store(pruned_ptr + place, pruned, mask=inside)
