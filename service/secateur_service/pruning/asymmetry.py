"""What a layer is to produce so that the dense model's output comes out, and not its own on the inputs that it gets.

Those inputs are not the dense model's: layers before it are pruned already. Let X (T×n) be the inputs that it gets, W
(m×n) its weights, and D (T×m) what the dense model has at its output in addition to XWᵀ. That is (X_d − X)Wᵀ with the
dense model's inputs X_d. After the last layer of a block, which writes into the hidden states, it is the difference of
these, with all that earlier layers have lost (GPTAQ, Li et al., arXiv 2504.02692, has both for quantisation). With the
second moments H = Σ_ℓ w_ℓ X_ℓᵀX_ℓ/T_ℓ over the languages of the mix, weights without any constraint are best at

    W* = W + C (H + Λ)⁻¹,    C = Σ_ℓ w_ℓ D_ℓᵀX_ℓ/T_ℓ,    Λ = (DAMPING + BY_TOKENS · n/T) · diag H

and the error of other weights Ŵ exceeds that of W* by (Ŵ − W*) H (Ŵ − W*)ᵀ but for the damping. So to prune a layer
towards the dense model is to prune W* instead of W, whichever solver does it, and masks follow W* too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from secateur_service.pruning.elementwise import is_finite
from secateur_service.pruning.products import in_tf32

DAMPING = 0.03
"""Of each input's second moment, since they differ a thousandfold within a layer."""
BY_TOKENS = 2.0
"""What is added to it for every input per token: few tokens would fit W* to chance."""
_FLOOR = 1e-4
"""Of their mean, for inputs that are hardly ever used."""


class CrossMoments:
    """Σ_ℓ w_ℓ D_ℓᵀX_ℓ/T_ℓ of wanted additions to a layer's output, or to its input, and the layer's inputs.

    Args:
        mix: weight of each language.
        tokens: number of tokens T_ℓ of each language.
    """

    def __init__(self, mix: Mapping[str, float], tokens: Mapping[str, int]) -> None:
        self._scale = {name: weight / tokens[name] for name, weight in mix.items() if weight and tokens.get(name)}
        self._sum_MN: Tensor | None = None

    @torch.no_grad()
    def update(self, wanted: Tensor, inputs: Tensor, language: str) -> None:
        """Add a batch of one language: …×m and …×n."""
        scale = self._scale.get(language)
        if scale is None:
            return
        d_TM, x_TN = (part.reshape(-1, part.shape[-1]).float() for part in (wanted, inputs))
        part_MN = in_tf32(d_TM.T, x_TN).mul_(scale)
        self._sum_MN = part_MN if self._sum_MN is None else self._sum_MN.add_(part_MN)

    @property
    def matrix(self) -> Tensor:
        """C: m×n, float32."""
        assert self._sum_MN is not None
        return self._sum_MN


@torch.no_grad()
def aims(weights: Sequence[Tensor], crosses: Sequence[Tensor], gram_NN: Tensor, tokens: int) -> list[Tensor]:
    """W* of layers that share an input: m_i×n, float32.

    Args:
        weights: the dense layers.
        crosses: C of each.
        gram_NN: second moments of their input, H.
        tokens: T, of all languages.

    Raises:
        FloatingPointError: the moments are not finite.
    """
    damped_NN = gram_NN.clone()
    damping = DAMPING + BY_TOKENS * len(gram_NN) / max(1, tokens)
    damped_NN.diagonal().mul_(1 + damping).add_(_FLOOR * float(gram_NN.diagonal().mean()) or 1.0)
    lower_NN, failed = torch.linalg.cholesky_ex(damped_NN)
    found = [
        weight_MN.float() + torch.cholesky_solve(cross_MN.T, lower_NN).T
        for weight_MN, cross_MN in zip(weights, crosses, strict=True)
    ]
    if int(failed) or not all(map(is_finite, found)):
        raise FloatingPointError("the second moments of its inputs are not finite")
    return found
