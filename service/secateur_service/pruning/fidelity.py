"""How much of a layer's output survives pruning, per language.

Measured with a language's second moments where they are kept, and so over all inputs that the layer saw; otherwise on
a sample of them, by products or by the sample's own second moments, whichever is less work.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from secateur_service.pruning.budget import judges_by_moments, sample_tokens
from secateur_service.pruning.ranks import ALONE, Ranks, Rows, sums_of_slices

_SEED = 0
_ROWS = 1024  # of a matrix at once: the difference takes as much memory as the matrix itself
_SPILL = 1.25  # a sample is cut back when it exceeds the limit by this factor


class InputSample:
    """A uniform sample of the inputs of each language, however they arrive in batches.

    Inputs of a language are numbered and paired with fixed random ranks; those ranked lowest are kept.

    Args:
        tokens: the maximum number of tokens in each language.
        width: features of an input, n.
        heights: m of each layer that will be judged.
        open_experts: experts whose samples are held at the same time as this one; 0 for a layer that is no expert's.
        is_expert: whether fewer tokens than `tokens` may arrive.
    """

    def __init__(
        self,
        tokens: Mapping[str, int],
        width: int,
        heights: Sequence[int],
        *,
        is_expert: bool = False,
        open_experts: int = 0,
    ) -> None:
        self._limit = sample_tokens(open_experts)
        self._shape = width, tuple(heights)
        self._counts = dict(tokens)
        self._thresholds = {
            name: math.inf if is_expert or count <= self._limit else _threshold(count, self._limit)
            for name, count in tokens.items()
        }
        self._seen = dict.fromkeys(tokens, 0)
        self._parts: dict[str, list[tuple[Tensor, Tensor]]] = {language: [] for language in tokens}
        self._grams: dict[str, Tensor] = {}

    def update(self, inputs: Tensor, language: str, start: int | None = None) -> None:
        """Sample from the inputs …×n of one language.

        Args:
            inputs: the inputs.
            language: theirs.
            start: the number of the first, where the numbers must not depend on what arrived before, as that may be at
                another rank; by default that after the last.
        """
        x_TN = inputs.reshape(-1, inputs.shape[-1])
        start = self._seen[language] if start is None else start
        self._seen[language] = start + x_TN.shape[0]
        ranks_T = _ranks(self._counts[language])[start : self._seen[language]]
        chosen = torch.nonzero(ranks_T <= self._thresholds[language])[:, 0]
        if not len(chosen):
            return
        self._parts[language].append((x_TN[chosen.to(x_TN.device)], ranks_T[chosen]))
        if sum(len(ranks) for _, ranks in self._parts[language]) > _SPILL * self._limit:
            self._cut(language)

    def settle(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> None:
        """Take over what the other ranks have sampled; the inputs are on a device and of a type."""
        if ranks.count == 1:
            return
        for language, parts in self._parts.items():
            ranks_T = torch.cat([torch.empty(0, dtype=torch.long), *(each for _, each in parts)])
            x_TN = torch.cat([torch.empty(0, self._shape[0], device=device, dtype=dtype), *(each for each, _ in parts)])
            sizes = ranks.collect([len(x_TN)])
            if sum(sizes):
                self._parts[language] = [(ranks.gather(x_TN, sizes), ranks.gather(ranks_T, sizes))]

    @property
    def tokens(self) -> dict[str, int]:
        """How many inputs of each language the ratios are computed from."""
        return {name: min(self._limit, sum(len(ranks) for _, ranks in parts)) for name, parts in self._parts.items()}

    def snr_db(
        self,
        dense_MN: Tensor,
        pruned_MN: Tensor,
        check: Callable[[], None] = lambda: None,
        ranks: Ranks = ALONE,
    ) -> dict[str, float]:
        """10·log10(‖XWᵀ‖² / ‖X(W − Ŵ)ᵀ‖²) in dB per language; omitted where nothing was seen or nothing is lost.

        Args:
            dense_MN: W.
            pruned_MN: Ŵ.
            check: called between two pieces of work; raises to stop.
            ranks: who computes it.
        """
        found: dict[str, float] = {}
        for name, parts in self._parts.items():
            if parts:
                self._cut(name)
                ((x_TN, _),) = self._parts[name]
                ratio = self._snr_db(name, x_TN, dense_MN, pruned_MN, check, ranks)
                if ratio is not None:
                    found[name] = ratio
        return found

    def _snr_db(
        self,
        name: str,
        x_TN: Tensor,
        dense_MN: Tensor,
        pruned_MN: Tensor,
        check: Callable[[], None],
        ranks: Ranks,
    ) -> float | None:
        if not _on_tensor_cores(x_TN) and judges_by_moments(*self._shape, len(x_TN)):
            if name not in self._grams:
                wide_TN = x_TN.float()
                self._grams[name] = ranks.compute(
                    lambda: wide_TN.T @ wide_TN, lambda: wide_TN.new_empty(2 * wide_TN.shape[1:])
                )
            return snr_db(dense_MN, pruned_MN, self._grams[name], check, ranks)

        def energy(weight_RN: Tensor) -> float:
            return float(_product(x_TN, weight_RN).square().sum())

        return _ratio(energy, dense_MN, pruned_MN, check, ranks)

    def _cut(self, language: str) -> None:
        """Merge a language's sample into one piece, cut to the limit."""
        if len(self._parts[language]) == 1 and len(self._parts[language][0][1]) <= self._limit:
            return
        x_TN, ranks_T = (torch.cat(pieces) for pieces in zip(*self._parts[language], strict=True))
        if len(ranks_T) > self._limit:
            threshold = ranks_T.kthvalue(self._limit).values
            kept = torch.nonzero(ranks_T <= threshold)[:, 0]
            x_TN, ranks_T = x_TN[kept.to(x_TN.device)], ranks_T[kept]
            self._thresholds[language] = float(threshold)
        self._parts[language] = [(x_TN, ranks_T)]


def snr_db(
    dense_MN: Tensor,
    pruned_MN: Tensor,
    gram_NN: Tensor,
    check: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> float | None:
    """10·log10(‖XWᵀ‖² / ‖X(W − Ŵ)ᵀ‖²) in dB for inputs with XᵀX ∝ `gram_NN`; None where nothing was seen or is lost.

    Args:
        dense_MN: W.
        pruned_MN: Ŵ.
        gram_NN: float32.
        check: called between two pieces of work; raises to stop.
        ranks: who computes it.
    """
    return _ratio(lambda weight_RN: _energy(weight_RN.float(), gram_NN), dense_MN, pruned_MN, check, ranks)


def _ratio(
    energy: Callable[[Tensor], float], dense_MN: Tensor, pruned_MN: Tensor, check: Callable[[], None], ranks: Ranks
) -> float | None:
    """In dB, from the energy of rows: each rank sums up that of its slices."""
    rows = Rows(len(dense_MN), ranks, dense_MN.device)

    def energies(own: slice) -> tuple[float, float]:
        signal = noise = 0.0
        part = slice(rows.start + own.start, rows.start + own.stop)
        for dense_RN, pruned_RN in zip(dense_MN[part].split(_ROWS), pruned_MN[part].split(_ROWS), strict=True):
            check()
            signal += energy(dense_RN)
            check()
            noise += energy(dense_RN.float() - pruned_RN)
        return signal, noise

    return _decibels(*sums_of_slices(energies, rows, ranks))


def relative_error(dense: Sequence[Tensor], pruned: Sequence[Tensor], gram_NN: Tensor, ranks: Ranks = ALONE) -> float:
    """‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖², summed over layers m_i×n that share the input X with XᵀX ∝ `gram_NN`.

    Args:
        dense: W of each.
        pruned: Ŵ of each, in the rows of this rank.
        gram_NN: float32.
        ranks: who computes it.
    """
    noise = signal = 0.0
    for before_MN, after_RN in zip(dense, pruned, strict=True):
        rows = Rows(len(before_MN), ranks, before_MN.device)

        def energies(own: slice, before_RN: Tensor = before_MN[rows.all], after_RN: Tensor = after_RN) -> list[float]:
            lost_SN = before_RN[own] - after_RN[own]
            return [_energy(each_SN, gram_NN) for each_SN in (lost_SN, before_RN[own])]

        lost, there = sums_of_slices(energies, rows, ranks)
        noise, signal = noise + lost, signal + there
    return noise / signal if signal > 0 else 0.0


def _energy(weight_MN: Tensor, gram_NN: Tensor) -> float:
    return float(((weight_MN @ gram_NN) * weight_MN).sum())


def _decibels(signal: float, noise: float) -> float | None:
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def _product(x_TN: Tensor, weight_RN: Tensor) -> Tensor:
    """XWᵀ in float32: T×R; 16-bit inputs on an accelerator are multiplied by 16-bit weights, which is fastest there."""
    if _on_tensor_cores(x_TN):
        return torch.mm(x_TN, weight_RN.to(x_TN.dtype).T, out_dtype=torch.float32)
    return x_TN.float() @ weight_RN.float().T


def _on_tensor_cores(x_TN: Tensor) -> bool:
    return x_TN.is_cuda and x_TN.dtype != torch.float32


@functools.lru_cache(maxsize=32)
def _ranks(count: int) -> Tensor:
    """A fixed random order of `count` tokens: the rank of each, so that no two are equal."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))


@functools.lru_cache(maxsize=32)
def _threshold(count: int, limit: int) -> float:
    return float(_ranks(count).kthvalue(limit).values)
