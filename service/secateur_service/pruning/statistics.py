"""Second moments of a layer's inputs, kept per language.

Second moments are additive, so each language keeps its own sums and the mix is applied when a layer is solved:
a_j² = Σ_ℓ w_ℓ · diag(X_ℓᵀX_ℓ)_j / T_ℓ and H = Σ_ℓ w_ℓ · X_ℓᵀX_ℓ / T_ℓ. The full matrices are summed with their weights
at once, because only their mix is needed; the diagonals are kept apart.

Sums run over fixed tiles of tokens in a fixed order: how many sequences share a forward pass does not enter.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

TILE_TOKENS = 2048


class InputStatistics:
    """Statistics of one layer input of n features.

    Args:
        width: n.
        weights: mixing weight of each language, summing to one.
        tokens: number of tokens T_ℓ that each language will contribute.
        device: where the sums are kept.
        with_gram: whether the n×n matrix of the mix is needed.
    """

    def __init__(
        self,
        width: int,
        weights: Mapping[str, float],
        tokens: Mapping[str, int],
        device: torch.device,
        *,
        with_gram: bool,
    ) -> None:
        self.weights = dict(weights)
        self.tokens = dict(tokens)
        self.square_sums = {
            language: torch.zeros(width, dtype=torch.float64, device=device) for language in self.weights
        }
        self.gram = torch.zeros(width, width, dtype=torch.float32, device=device) if with_gram else None

    def update(self, inputs: Tensor, language: str) -> None:
        """Add the inputs B×S×n of sequences of one language."""
        step = max(1, TILE_TOKENS // inputs.shape[1])
        for start in range(0, inputs.shape[0], step):
            x_TN = inputs[start : start + step].reshape(-1, inputs.shape[-1]).float()
            self.square_sums[language] += x_TN.square().sum(0)
            if self.gram is not None and self.weights[language] > 0:
                self.gram.addmm_(x_TN.T, x_TN, alpha=self.weights[language] / self.tokens[language])

    def mean_squares(self) -> Tensor:
        """Σ_ℓ w_ℓ · diag(G_ℓ) / T_ℓ: n, float64."""
        return torch.stack(
            [self.square_sums[name] * (weight / self.tokens[name]) for name, weight in self.weights.items()]
        ).sum(0)

    def is_finite(self) -> bool:
        """Whether no input was NaN or infinite."""
        return bool(torch.isfinite(self.mean_squares()).all())
