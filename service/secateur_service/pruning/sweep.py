"""The inner loop of SparseGPT: one block of columns, each of which depends on those to its left."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from secateur_service.pruning.elementwise import zero_where
from secateur_service.pruning.patterns import NofM, select_smallest

_Sweep = Callable[[Tensor, Tensor, Tensor, Tensor, NofM | None], None]

_FUSED_COLUMNS = 128


def sweep(w_BM: Tensor, pruned_BM: Tensor, u_BB: Tensor, groups: NofM | None) -> None:
    """Prune the columns of a block from left to right; each removed weight moves those to its right in its row.

    Args:
        w_BM: B columns of M rows, transposed, contiguous, float32, with the compensation from the left; overwritten
            with the kept weights.
        pruned_BM: what to prune; with `groups` it is an output, chosen on entering each group.
        u_BB: the block of U on the diagonal, upper triangular.
        groups: an N:M pattern to choose by |w| / U_jj; M divides B. Without it, `pruned_BM` is given.
    """
    diagonal_B1 = u_BB.diagonal()[:, None]
    unit_BB = u_BB / diagonal_B1  # removing w moves the columns to its right by −w times its row here
    fused = _fused_sweep(w_BM.device) if w_BM.is_cuda and len(w_BM) <= _FUSED_COLUMNS else None
    (fused or sweep_columns)(w_BM, pruned_BM, unit_BB, 1 / diagonal_B1, groups)


def sweep_columns(w_BM: Tensor, pruned_BM: Tensor, unit_BB: Tensor, gain_B1: Tensor, groups: NofM | None) -> None:
    """The sweep in torch.

    The block is halved recursively: the left half, its effect on the right half in one product, the right half.

    Args:
        w_BM: as above.
        pruned_BM: as above.
        unit_BB: U with its rows divided by its diagonal.
        gain_B1: the reciprocals of the diagonal.
        groups: as above.
    """
    _Halving(w_BM, pruned_BM, unit_BB, gain_B1, groups).sweep(0, len(w_BM))
    zero_where(w_BM, pruned_BM)


class _Halving:
    """State shared by all halves of a block; arguments as above."""

    def __init__(self, w_BM: Tensor, pruned_BM: Tensor, unit_BB: Tensor, gain_B1: Tensor, groups: NofM | None) -> None:
        self.w_BM, self.pruned_BM, self.gain_B1, self.groups = w_BM, pruned_BM, gain_B1, groups
        self.removed_BM, self.effect_BB = torch.empty_like(w_BM), -unit_BB.T
        self.columns = list(zip(w_BM.unbind(), pruned_BM.unbind(), self.removed_BM.unbind(), strict=True))
        self.size = groups.group if groups else len(w_BM)

    def sweep(self, start: int, stop: int) -> None:
        """Sweep a range of columns that already carry all the compensation from the left."""
        if self.groups and stop - start == self.size:
            scores_KM = (self.w_BM[start:stop] * self.gain_B1[start:stop]).abs_()
            self.pruned_BM[start:stop] = select_smallest(scores_KM.T, self.groups.group - self.groups.kept).T
        if stop - start == 1:
            w_M, pruned_M, removed_M = self.columns[start]
            torch.mul(w_M, pruned_M, out=removed_M)
            return
        unit = self.size if stop - start > self.size else 1
        middle = start + (stop - start) // unit // 2 * unit
        self.sweep(start, middle)
        self.w_BM[middle:stop].addmm_(self.effect_BB[middle:stop, start:middle], self.removed_BM[start:middle])
        self.sweep(middle, stop)


@functools.cache
def _fused_sweep(device: torch.device) -> _Sweep | None:
    """The sweep as one kernel, if it is available on the device and its results there match the sweep in torch."""
    try:
        from secateur_service.pruning.sweep_kernel import sweep as fused
    except ImportError:  # torch for CUDA includes Triton on most platforms
        return None
    try:
        deviation = _deviation(fused, device)
    except Exception as error:  # noqa: BLE001 # whatever stops the kernel from building, there is a fallback
        warnings.warn(f"the sweep's kernel cannot be built and is done without: {error}", RuntimeWarning, stacklevel=2)
        return None
    if deviation > 1e-3:
        warnings.warn(f"the sweep's kernel is off by {deviation:g} and is done without", RuntimeWarning, stacklevel=2)
        return None
    return fused


def _deviation(fused: _Sweep, device: torch.device) -> float:
    """The largest difference between the kernel and the sweep in torch on a small block, with and without N:M."""
    generator = torch.Generator().manual_seed(0)
    weight_BM = torch.randn(_FUSED_COLUMNS, 40, generator=generator).to(device)
    noise_BB = torch.randn(_FUSED_COLUMNS, _FUSED_COLUMNS, generator=generator).to(device)
    unit_BB = noise_BB.div(_FUSED_COLUMNS).triu(1).fill_diagonal_(1)
    gain_B1 = noise_BB.diagonal().abs().add(1)[:, None].contiguous()
    largest = 0.0
    for groups in (None, NofM(2, 4)):
        results = []
        for way in (fused, sweep_columns):
            swept_BM, pruned_BM = weight_BM.clone(), weight_BM > 0
            way(swept_BM, pruned_BM, unit_BB, gain_B1, groups)
            results.append(swept_BM)
        largest = max(largest, float((results[0] - results[1]).abs().max()))
    return largest
