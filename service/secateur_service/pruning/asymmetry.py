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

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from secateur_service.pruning.elementwise import is_finite
from secateur_service.pruning.products import in_tf32
from secateur_service.pruning.ranks import ALONE, Parts, Ranks, Rows

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
        self._shard = 0
        self._open_MN: Tensor | None = None
        self._parts = Parts()
        self._sum_MN: Tensor | None = None

    @torch.no_grad()
    def update(self, wanted: Tensor, inputs: Tensor, language: str, shard: int = 0) -> None:
        """Add a batch of one language: …×m and …×n; shards as in `InputStatistics`."""
        if shard != self._shard:
            self._end_shard()
            self._shard = shard
        scale = self._scale.get(language)
        if scale is None:
            return
        d_TM, x_TN = (part.reshape(-1, part.shape[-1]).float() for part in (wanted, inputs))
        part_MN = in_tf32(d_TM.T, x_TN).mul_(scale)
        self._open_MN = part_MN if self._open_MN is None else self._open_MN.add_(part_MN)
        self._sum_MN = None

    def settle(self, ranks: Ranks, zeros: Callable[[], Tensor]) -> None:
        """Add up the shards of all ranks; `zeros` makes a matrix m×n."""
        self._end_shard()
        self._sum_MN = self._parts.total(ranks, zeros)

    def _end_shard(self) -> None:
        if self._open_MN is not None:
            self._parts.add(self._shard, self._open_MN)
            self._open_MN = None

    @property
    def matrix(self) -> Tensor:
        """C: m×n, float32."""
        if self._sum_MN is None:
            self._end_shard()
            self._sum_MN = self._parts.total(ALONE, _nothing)
        return self._sum_MN


def _nothing() -> Tensor:
    raise AssertionError("no text was seen")


@torch.no_grad()
def aims(
    weights: Sequence[Tensor],
    crosses: Sequence[Callable[[slice], Tensor]],
    gram_NN: Tensor,
    tokens: int,
    ranks: Ranks = ALONE,
) -> list[Tensor]:
    """W* of layers that share an input: m_i×n, float32.

    Args:
        weights: the dense layers.
        crosses: rows of C of each, which may take a product.
        gram_NN: second moments of their input, H.
        tokens: T, of all languages.
        ranks: who computes it; all get the result.

    Raises:
        FloatingPointError: the moments are not finite.
    """
    damping = DAMPING + BY_TOKENS * len(gram_NN) / max(1, tokens)

    def factor() -> Tensor:
        damped_NN = gram_NN.clone()
        damped_NN.diagonal().mul_(1 + damping).add_(_FLOOR * float(gram_NN.diagonal().mean()) or 1.0)
        lower_NN, failed = torch.linalg.cholesky_ex(damped_NN)
        return lower_NN.fill_(torch.nan) if int(failed) else lower_NN

    lower_NN = ranks.compute(factor, lambda: torch.empty_like(gram_NN))
    found = []
    for weight_MN, cross in zip(weights, crosses, strict=True):
        rows = Rows(len(weight_MN), ranks, weight_MN.device)
        own_RN = weight_MN.new_empty(rows.stop - rows.start, weight_MN.shape[1], dtype=torch.float32)
        for part, own in zip(rows.slices, rows.own, strict=True):
            own_RN[own] = weight_MN[part].float() + torch.cholesky_solve(cross(part).T, lower_NN).T
        found.append(ranks.gather(own_RN, rows.sizes))
    if not all(map(is_finite, found)):
        raise FloatingPointError("the second moments of its inputs are not finite")
    return found
