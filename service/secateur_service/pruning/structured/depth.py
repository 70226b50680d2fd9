"""Makes up for a block that is removed: the layer before it that writes into the residual stream is solved anew.

Let X (T×n) be the inputs of that layer, W (m×n), and Y (T×m) what the removed block would have added to the residual
stream. With A = Σ_ℓ w_ℓ X_ℓᵀX_ℓ/T_ℓ and C = Σ_ℓ w_ℓ Y_ℓᵀX_ℓ/T_ℓ over the languages of the mix, ridge regression gives

    Ŵ = W + C (A + λI)⁻¹,    λ = DAMPING · mean diag A

which pulls towards no change of W. A linear map in place of a block is the idea of ReplaceMe (Shopkhoev et al., arXiv
2505.02819), whose map lies between the hidden states; here it has the wider inputs of the feed-forward output, and the
model's shape stays as servers know it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur_service.pruning.structured.width import damped, factor


class Substitute:
    """Sums over the calibration text of what a layer would have to add.

    Args:
        mix: weight of each language.
        tokens: number of tokens T_ℓ of each language.
    """

    def __init__(self, mix: Mapping[str, float], tokens: Mapping[str, int]) -> None:
        self._scale = {name: weight / tokens[name] for name, weight in mix.items() if weight and tokens.get(name)}
        self._gram_NN: Tensor | None = None
        self._cross_MN: Tensor | None = None

    def update(self, inputs: Tensor, missing: Tensor, language: str) -> None:
        """Add a batch of one language.

        Args:
            inputs: …×n, of the layer.
            missing: …×m, what the removed block added.
            language: one of the mix.
        """
        scale = self._scale.get(language)
        if scale is None:
            return
        x_TN = inputs.reshape(-1, inputs.shape[-1]).float()
        y_TM = missing.reshape(-1, missing.shape[-1]).float()
        gram_NN, cross_MN = x_TN.T @ x_TN * scale, y_TM.T @ x_TN * scale
        self._gram_NN = gram_NN if self._gram_NN is None else self._gram_NN + gram_NN
        self._cross_MN = cross_MN if self._cross_MN is None else self._cross_MN + cross_MN

    def change(self) -> Tensor:
        """Ŵ − W: m×n, float64.

        Raises:
            FloatingPointError: the sums are not finite.
        """
        assert self._gram_NN is not None
        assert self._cross_MN is not None
        return torch.cholesky_solve(self._cross_MN.double().T, factor(damped(self._gram_NN))).T


def dearest_growth(nats: Mapping[str, float], before: Mapping[str, float]) -> float:
    """The growth of the loss in the language whose loss grows most, as a share."""
    return max(nats[language] / before[language] - 1 for language in before)
