"""Confidence intervals of the figures of one language, by resampling its documents.

A figure is measured on a sample of documents, and another sample would give another figure. The nonparametric bootstrap
(Efron 1979, "Bootstrap methods: another look at the jackknife") draws as many documents as there are, with replacement,
many times over, and takes quantiles of the figure over these draws. Documents are drawn and not tokens, because the
tokens of a document are alike. Both models' losses of a document stay together, so that the interval of the growth is
that of paired differences, and far narrower than those of the perplexities.

Quantiles are taken a little further out than at 2.5 and 97.5 %, where they would cover too little with few documents:
at Φ(∓√(D/(D − 1))·t), with t the quantile of Student's distribution with D − 1 degrees of freedom (Hesterberg 2015,
"What teachers should know about the bootstrap", 1411.5279, section 5.3: expanded percentile interval).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from secateur_service.evaluation.perplexity import MAX_NATS, Likeness, Losses

LEVEL = 0.95
RESAMPLES = 2000
MIN_DOCUMENTS = 10
"""With fewer documents there are no intervals."""
_DRAWN_AT_ONCE = 1 << 20

Interval = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """Intervals of a language's figures, as `evaluation.parts` defines these.

    Attributes:
        documents: those that were drawn from.
    """

    documents: int
    dense_perplexity: Interval
    pruned_perplexity: Interval
    perplexity_ratio: Interval
    dense_bits_per_byte: Interval
    pruned_bits_per_byte: Interval
    bits_per_byte_growth: Interval
    kl_divergence: Interval | None
    agreement: Interval | None


def intervals(language: str, dense: Losses, pruned: Losses, likeness: Likeness | None = None) -> Intervals | None:
    """The intervals of a language's figures; None where it has too few documents.

    Args:
        language: its tag, which the draws depend on, so that languages are drawn independently of each other.
        dense: losses of the dense model, with those of single documents.
        pruned: the same of the output model.
        likeness: of the two models' predictions; None where their tokens differ.
    """
    if dense.documents is None or pruned.documents is None:
        return None
    parts = [dense.documents, pruned.documents, *([likeness.documents] if likeness else [])]
    longest = max(map(len, parts))  # the last document may have scored tokens on one side only
    sums_DK = torch.cat([torch.nn.functional.pad(part, (0, 0, 0, longest - len(part))) for part in parts], 1)
    sums_DK = sums_DK[sums_DK[:, 1] > 0]
    count = len(sums_DK)
    if count < MIN_DOCUMENTS:
        return None
    nats, tokens, size, pruned_nats, _, pruned_size, *rest = torch.cat(list(_draws(language, sums_DK))).unbind(1)
    bits, pruned_bits = (each / math.log(2) for each in (nats / size, pruned_nats / pruned_size))
    loss, pruned_loss = (
        (each / tokens).clamp(max=MAX_NATS) for each in (nats, pruned_nats * (size / pruned_size))
    )  # a perplexity has a limit, see `perplexity`

    def of(values: Tensor) -> Interval:
        low, high = torch.quantile(values, torch.tensor(_levels(count), dtype=values.dtype)).tolist()
        return low, high

    return Intervals(
        documents=count,
        dense_perplexity=of(loss.exp()),
        pruned_perplexity=of(pruned_loss.exp()),
        perplexity_ratio=of((pruned_loss - loss).exp()),
        dense_bits_per_byte=of(bits),
        pruned_bits_per_byte=of(pruned_bits),
        bits_per_byte_growth=of(pruned_bits / bits - 1),
        kl_divergence=of(rest[0] / tokens) if rest else None,
        agreement=of(rest[1] / tokens) if rest else None,
    )


def _draws(language: str, sums_DK: Tensor) -> Iterator[Tensor]:
    """Sums over D documents drawn with replacement, R×K in parts."""
    seed = int.from_bytes(hashlib.sha256(language.encode()).digest()[:4])
    generator = torch.Generator().manual_seed(seed)
    count = len(sums_DK)
    at_once = max(1, _DRAWN_AT_ONCE // count)
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        drawn_RD = torch.randint(count, (rows, count), generator=generator)
        times_RD = torch.zeros(rows, count, dtype=sums_DK.dtype)
        times_RD.scatter_add_(1, drawn_RD, torch.ones_like(times_RD))
        yield times_RD @ sums_DK


def _levels(count: int) -> Interval:
    """The quantiles that bound the interval."""
    normal = NormalDist()
    below = normal.cdf(-math.sqrt(count / (count - 1)) * student((1 + LEVEL) / 2, count - 1))
    return below, 1 - below


def student(level: float, degrees: int) -> float:
    """A quantile of Student's distribution (Abramowitz and Stegun 1964, 26.7.5; to 0.002 from nine degrees on)."""
    z = NormalDist().inv_cdf(level)
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )
