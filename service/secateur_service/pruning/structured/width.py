"""Chooses the channels or heads to keep, and re-solves the projection that reads them to make up for the others.

A channel j is a row of the matrices that write it and a column of the one that reads it, W (m×n). Let X (T×n) be the
inputs of W and A = Σ_ℓ w_ℓ X_ℓᵀX_ℓ/T_ℓ their second moments over the languages of the mix. With the channels K kept and
D dropped, least squares moves into the kept columns what the dropped ones contributed:

    Ŵ = W_K + (W_D A_DK + C_K) (A_KK + λI)⁻¹,    λ = DAMPING · mean diag A

with C = Σ_ℓ w_ℓ D_ℓᵀX_ℓ/T_ℓ, where D (T×m) is what the output should have in addition to XWᵀ: the drift of the hidden
states, that is the difference between the dense model's and those that the layers before leave, which have lost parts
already. GPTAQ (Li et al., arXiv 2504.02692) does so for quantisation. C is 0 where there is none.

The damping pulls towards the kept columns, not towards zero, so that few tokens change little. What is lost is known
in closed form for each language from its own second moments: with the rows r of W − Ŵ (Ŵ zero in D), Σ r G_ℓ rᵀ.

Channels are dropped one after the other, the one first that costs least with all others compensating,
‖Ŵ_:j‖² / [A⁻¹]_jj, where A⁻¹ and Ŵ are those of the channels that are left: the optimal brain surgeon for whole columns
(Hassibi and Stork 1993; Kurtić et al., ZipLM, arXiv 2302.04089). A few are taken at a time from among the cheapest;
how dropping one changes the others among them follows from their part of A⁻¹ alone. So of two channels that make up
for each other one stays. Least squares on the kept columns is also the step of SlimGPT, OSSCAR and FASP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 0.01
"""Of the mean of the diagonal."""
# Channels that are dropped before A⁻¹ is brought up to date, as a share, and the candidates for each of them.
_ROUNDS = 64
_CANDIDATES = 4


def choose_channels(weight_MN: Tensor, gram_NN: Tensor, count: int) -> Tensor:
    """The `count` channels to keep, ascending.

    Args:
        weight_MN: the projection that reads the channels.
        gram_NN: second moments of its inputs.
        count: at least 1.

    Raises:
        FloatingPointError: the moments are not finite.
    """
    is_kept = torch.ones(weight_MN.shape[1], dtype=torch.bool, device=weight_MN.device)
    is_kept[drop_channels(weight_MN, gram_NN, count)] = False
    return is_kept.nonzero().flatten()


def drop_channels(weight_MN: Tensor, gram_NN: Tensor, count: int) -> list[int]:
    """The channels to drop until `count` are left, in their order: the arguments are those of `choose_channels`."""
    solved_MN = weight_MN.double().clone()
    solved_MN[:, gram_NN.diagonal() == 0] = 0.0  # a channel that is never used costs nothing, whatever the damping
    inverse_NN = torch.cholesky_inverse(_factor(_damped(gram_NN)))
    width = len(inverse_NN)
    is_kept = torch.ones(width, dtype=torch.bool, device=inverse_NN.device)
    left = width - count
    order: list[int] = []
    while left:
        step = min(left, -(-width // _ROUNDS))
        saliency_N = solved_MN.square().sum(0) / inverse_NN.diagonal()
        saliency_N[~is_kept] = torch.inf
        candidates = torch.argsort(saliency_N, stable=True)[: min(_CANDIDATES * step, int(is_kept.sum()))].sort().values
        dropped = candidates[_cheapest(solved_MN[:, candidates], inverse_NN[candidates][:, candidates], step)]
        # What eliminating them leaves of the others: a Schur complement, and the columns that compensate.
        change_ND = torch.linalg.solve(inverse_NN[dropped][:, dropped], inverse_NN[dropped]).T
        solved_MN -= solved_MN[:, dropped] @ change_ND.T
        inverse_NN -= change_ND @ inverse_NN[dropped]
        inverse_NN.diagonal()[dropped] = 1.0
        is_kept[dropped] = False
        order += dropped.tolist()
        left -= step
    return order


def _cheapest(solved_MC: Tensor, inverse_CC: Tensor, count: int) -> Tensor:
    """Positions of the channels among the candidates that are dropped, in their order."""
    solved_MC, inverse_CC = solved_MC.clone(), inverse_CC.clone()
    is_dropped = torch.zeros(len(inverse_CC), dtype=torch.bool, device=inverse_CC.device)
    order = []
    for _ in range(count):
        saliency_C = solved_MC.square().sum(0) / inverse_CC.diagonal()
        channel = int(saliency_C.masked_fill(is_dropped, torch.inf).argmin())
        row_C = inverse_CC[channel] / inverse_CC[channel, channel]
        solved_MC -= torch.outer(solved_MC[:, channel], row_C)
        inverse_CC -= torch.outer(inverse_CC[:, channel], row_C)
        inverse_CC[channel, channel] = 1.0
        is_dropped[channel] = True
        order.append(channel)
    return torch.tensor(order, device=inverse_CC.device)


def choose_heads(weight_MN: Tensor, gram_NN: Tensor, count: int, width: int) -> Tensor:
    """The `count` heads to keep, ascending, each of `width` inputs of the projection one after the other.

    As for channels, one after the other, the one first that costs least with all others compensating: of head g,
    tr(Ŵ_g ([A⁻¹]_gg)⁻¹ Ŵ_gᵀ).

    Args:
        weight_MN: the projection that reads the heads.
        gram_NN: second moments of its inputs.
        count: at least 1.
        width: inputs of a head; divides n.

    Raises:
        FloatingPointError: the moments are not finite.
    """
    heads = weight_MN.shape[1] // width
    dropped = drop_heads(weight_MN, gram_NN, count, width)
    return torch.tensor(sorted(set(range(heads)) - set(dropped)), device=weight_MN.device)


def drop_heads(weight_MN: Tensor, gram_NN: Tensor, count: int, width: int) -> list[int]:
    """The heads to drop until `count` are left, in their order: the arguments are those of `choose_heads`."""
    solved_MN = weight_MN.double().clone()
    inverse_NN = torch.cholesky_inverse(_factor(_damped(gram_NN)))
    left = list(range(len(inverse_NN) // width))
    order: list[int] = []
    while len(left) > count:
        columns = {head: slice(head * width, (head + 1) * width) for head in left}
        costs = {
            head: float((torch.linalg.solve(inverse_NN[at, at], solved_MN[:, at].T).T * solved_MN[:, at]).sum())
            for head, at in columns.items()
        }
        head = min(left, key=lambda head: (costs[head], head))
        at = columns[head]
        change_NW = torch.linalg.solve(inverse_NN[at, at], inverse_NN[at]).T
        solved_MN -= solved_MN[:, at] @ change_NW.T
        inverse_NN -= change_NW @ inverse_NN[at]
        left.remove(head)
        order.append(head)
    return order


def resolve(weight_MN: Tensor, gram_NN: Tensor, kept: Tensor, drift_MN: Tensor | None = None) -> Tensor:
    """Ŵ on the kept channels: m×k, float64.

    Args:
        weight_MN: the dense projection.
        gram_NN: second moments of its inputs, A.
        kept: the channels to keep.
        drift_MN: C; by default 0.

    Raises:
        FloatingPointError: the moments are not finite.
    """
    weight_MN, gram_NN = weight_MN.double(), gram_NN.double()
    is_dropped = torch.ones(weight_MN.shape[1], dtype=torch.bool, device=weight_MN.device)
    is_dropped[kept] = False
    dropped = is_dropped.nonzero().flatten()
    lower_KK = _factor(_damped(gram_NN)[kept][:, kept])
    lost_MK = weight_MN[:, dropped] @ gram_NN[dropped][:, kept]
    if drift_MN is not None:
        lost_MK += drift_MN.double()[:, kept]
    return weight_MN[:, kept] + torch.cholesky_solve(lost_MK.T, lower_KK).T


@dataclass(frozen=True)
class Loss:
    """What a projection loses of its output; losses of several projections add up.

    Attributes:
        lost: ‖X(W − Ŵ)ᵀ‖².
        whole: ‖XWᵀ‖².
    """

    lost: float = 0.0
    whole: float = 0.0

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.lost + other.lost, self.whole + other.whole)

    @property
    def share(self) -> float:
        """The share of the output that is lost."""
        return self.lost / self.whole if self.whole else 0.0


def losses(weight_MN: Tensor, solved_MK: Tensor, kept: Tensor, grams_NN: Mapping[str, Tensor]) -> dict[str, Loss]:
    """What is lost per language, from the second moments of its inputs."""
    weight_MN = weight_MN.double()
    rest_MN = weight_MN.clone()
    rest_MN[:, kept] -= solved_MK.double()
    found = {}
    for language, gram in grams_NN.items():
        gram_NN = gram.double()
        lost, whole = (float((matrix @ gram_NN * matrix).sum()) for matrix in (rest_MN, weight_MN))
        found[language] = Loss(lost, whole)
    return found


def _damped(gram_NN: Tensor) -> Tensor:
    """A + λI, in float64."""
    damped_NN = gram_NN.double().clone()
    mean = float(damped_NN.diagonal().mean())
    damped_NN.diagonal().add_(DAMPING * mean if mean > 0 else 1.0)
    return damped_NN


def _factor(damped_NN: Tensor) -> Tensor:
    """The lower Cholesky factor.

    Raises:
        FloatingPointError: the matrix is not finite.
    """
    lower_NN, info = torch.linalg.cholesky_ex(damped_NN)
    if int(info) or not torch.isfinite(lower_NN).all():
        raise FloatingPointError("the second moments of its inputs are not finite")
    return lower_NN
