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
# Up to this many columns, one after the other is faster than products.
_FEW_COLUMNS = 8


def sweep(w_SBM: Tensor, pruned_SBM: Tensor, u_BB: Tensor, groups: NofM | None) -> None:
    """Prune the columns of a block from left to right; each removed weight moves those to its right in its row.

    Args:
        w_SBM: S slices of M rows with B columns, transposed, contiguous, float32, with the compensation from the left;
            overwritten with the kept weights.
        pruned_SBM: what to prune; with `groups` it is an output, chosen on entering each group.
        u_BB: the block of U on the diagonal, upper triangular.
        groups: an N:M pattern to choose by |w| / U_jj; M divides B. Without it, `pruned_SBM` is given.
    """
    diagonal_B1 = u_BB.diagonal()[:, None]
    unit_BB = u_BB / diagonal_B1  # removing w moves the columns to its right by −w times its row here
    fused = _fused_sweep(w_SBM.device) if w_SBM.is_cuda and w_SBM.shape[1] <= _FUSED_COLUMNS else None
    if fused is None:
        sweep_columns(w_SBM, pruned_SBM, unit_BB, 1 / diagonal_B1, groups)
        return
    for w_BM, pruned_BM in zip(w_SBM, pruned_SBM, strict=True):
        fused(w_BM, pruned_BM, unit_BB, 1 / diagonal_B1, groups)


def sweep_columns(w_SBM: Tensor, pruned_SBM: Tensor, unit_BB: Tensor, gain_B1: Tensor, groups: NofM | None) -> None:
    """The sweep in torch.

    The block is halved recursively: the left half, its effect on the right half in one product, the right half. Each
    product is of one slice, so the bytes of a slice do not depend on the others; the rest is of all of them at once.

    Args:
        w_SBM: as above.
        pruned_SBM: as above.
        unit_BB: U with its rows divided by its diagonal.
        gain_B1: the reciprocals of the diagonal.
        groups: as above.
    """
    _Halving(w_SBM, pruned_SBM, unit_BB, gain_B1, groups).sweep(0, w_SBM.shape[1])
    zero_where(w_SBM, pruned_SBM)


class _Halving:
    """State shared by all halves of a block; arguments as above."""

    def __init__(
        self, w_SBM: Tensor, pruned_SBM: Tensor, unit_BB: Tensor, gain_B1: Tensor, groups: NofM | None
    ) -> None:
        self.w_SBM, self.pruned_SBM, self.gain_B1, self.groups = w_SBM, pruned_SBM, gain_B1, groups
        self.removed_SBM, self.effect_BB = torch.empty_like(w_SBM), -unit_BB.T
        matrices = (w_SBM, pruned_SBM, self.removed_SBM)
        self.columns = list(zip(*(matrix.unbind(1) for matrix in matrices), strict=True))
        self.slices = list(zip(w_SBM.unbind(), self.removed_SBM.unbind(), strict=True))
        self.size = groups.group if groups else 1

    def sweep(self, start: int, stop: int) -> None:
        """Sweep a range of columns that already carry all the compensation from the left."""
        if stop - start <= max(_FEW_COLUMNS, self.size):
            self._sweep_few(start, stop)
            return
        middle = start + (stop - start) // self.size // 2 * self.size
        self.sweep(start, middle)
        effect = self.effect_BB[middle:stop, start:middle]
        for w_BM, removed_BM in self.slices:
            w_BM[middle:stop].addmm_(effect, removed_BM[start:middle])
        self.sweep(middle, stop)

    def _sweep_few(self, start: int, stop: int) -> None:
        for column, (w_SM, pruned_SM, removed_SM) in enumerate(self.columns[start:stop], start):
            if self.groups and column % self.size == 0:
                self._choose(self.groups, slice(column, column + self.size))
            torch.mul(w_SM, pruned_SM, out=removed_SM)
            right = slice(column + 1, stop)
            self.w_SBM[:, right] += self.effect_BB[right, column, None] * removed_SM[:, None]

    def _choose(self, groups: NofM, columns: slice) -> None:
        scores_SKM = (self.w_SBM[:, columns] * self.gain_B1[columns]).abs_()
        slices, size, rows = scores_SKM.shape
        scores_KR = scores_SKM.transpose(0, 1).reshape(size, -1)
        chosen_KR = select_smallest(scores_KR.T, groups.group - groups.kept).T
        self.pruned_SBM[:, columns] = chosen_KR.reshape(size, slices, rows).transpose(0, 1)


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
            own = (swept_BM, pruned_BM) if way is fused else (swept_BM[None], pruned_BM[None])
            way(*own, unit_BB, gain_B1, groups)
            results.append(swept_BM)
        largest = max(largest, float((results[0] - results[1]).abs().max()))
    return largest
