"""How much of a layer's output survives its pruning, language by language.

By the second moments of a language where they are kept; otherwise on a sample of the inputs that the layer saw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

SAMPLE_TOKENS = 128
_SEED = 0
_ROWS = 1024  # of a matrix at once: what is lost takes as much memory as the matrix itself


class InputSample:
    """A sample of at most `SAMPLE_TOKENS` inputs of each language, drawn evenly over its tokens.

    Args:
        tokens: number of tokens that each language will show at most.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._positions = {
            language: torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))[:SAMPLE_TOKENS]
            .sort()
            .values
            for language, count in tokens.items()
        }
        self._seen = dict.fromkeys(tokens, 0)
        self._parts: dict[str, list[Tensor]] = {language: [] for language in tokens}

    def update(self, inputs: Tensor, language: str) -> None:
        """Pick from the inputs …×n of one language."""
        x_TN = inputs.reshape(-1, inputs.shape[-1])
        start, positions = self._seen[language], self._positions[language]
        self._seen[language] += x_TN.shape[0]
        chosen = positions[(positions >= start) & (positions < self._seen[language])] - start
        self._parts[language].append(x_TN[chosen.to(x_TN.device)])

    def snr_db(self, dense_MN: Tensor, pruned_MN: Tensor) -> dict[str, float]:
        """10·log10(‖XWᵀ‖² / ‖X(W − Ŵ)ᵀ‖²) in dB per language; left out where nothing was seen or nothing is lost.

        Args:
            dense_MN: W, float32.
            pruned_MN: Ŵ, of any type that is not wider.
        """
        inputs = {name: torch.cat(parts).to(dense_MN.dtype) for name, parts in self._parts.items() if parts}
        signal, noise = dict.fromkeys(inputs, 0.0), dict.fromkeys(inputs, 0.0)
        for dense_RN, pruned_RN in zip(dense_MN.split(_ROWS), pruned_MN.split(_ROWS), strict=True):
            difference_RN = dense_RN - pruned_RN
            for name, x_TN in inputs.items():
                signal[name] += float((x_TN @ dense_RN.T).square().sum())
                noise[name] += float((x_TN @ difference_RN.T).square().sum())
        return {
            name: 10 * math.log10(signal[name] / noise[name]) for name in inputs if signal[name] > 0 and noise[name] > 0
        }


def relative_error(dense: Sequence[Tensor], pruned: Sequence[Tensor], gram_NN: Tensor) -> float:
    """‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖², summed over layers m_i×n that share the input X with XᵀX ∝ `gram_NN`."""
    noise = sum(_energy(before - after, gram_NN) for before, after in zip(dense, pruned, strict=True))
    signal = sum(_energy(before, gram_NN) for before in dense)
    return noise / signal if signal > 0 else 0.0


def _energy(weight_MN: Tensor, gram_NN: Tensor) -> float:
    return float(((weight_MN @ gram_NN) * weight_MN).sum())
