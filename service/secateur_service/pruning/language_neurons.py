"""Neurons of the feed-forward layers that belong to a language, and what becomes of them.

Language activation probability entropy, LAPE (Tang et al. 2024, "Language-specific neurons: the key to multilingual
capabilities in large language models", 2402.16438, section 2.2). A neuron i is a channel of a gated feed-forward layer,
and p_iℓ the share of the tokens of language ℓ on which its gate is active. Its entropy is that of p_iℓ / Σ_ℓ p_iℓ: low
where it is active in few languages. Neurons that reach the 95th percentile of all p in no language are left out; of the
others those with the lowest 1 % of entropies are language-specific, each for the languages in which its p is beyond
that percentile.

The lowest 1 % exist in every model, also where the entropies of all neurons are alike, and pruning makes some neurons
look specific that are not (Kurz et al., 2408.14398). So a count says little, and neurons are found twice, on either
half of the text: those of the dense model that are found again in the pruned model *on the other half* are compared
with those found again in the dense model itself, which is what the sample of text allows.

Shapes: N neurons of all blocks, L languages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FILTER_QUANTILE = 0.95
SPECIFIC_SHARE = 0.01


@dataclass(frozen=True)
class Activity:
    """How often neurons are active.

    Attributes:
        active: on how many tokens, by language: 2×N for the two halves of its text.
        tokens: how many there are, by language and half.
    """

    active: Mapping[str, Tensor]
    tokens: Mapping[str, tuple[int, int]]

    def shares(self, half: int | None = None) -> Tensor:
        """Share of the tokens on which each neuron is active, N×L; of one half, or of both."""
        columns = []
        for language, counts in self.active.items():
            seen = self.tokens[language]
            if half is None:
                columns.append(counts.sum(0).double() / max(1, sum(seen)))
            else:
                columns.append(counts[half].double() / max(1, seen[half]))
        return torch.stack(columns, 1)


@dataclass(frozen=True)
class Survival:
    """What became of the neurons of one language.

    Attributes:
        language: whose.
        neurons: how many the dense model has.
        kept: how many of these are in the output.
        in_output: how many the output has by its own measure, whether the dense model has them or not.
        found_again: share of those found on one half of the text that the other half finds too, in the dense model;
            None if there are none, or if a language has a single window.
        survived: the same where the other half is the pruned model's.
        weights_kept: share of the weights of those that are kept that are not zero in the output; None if none is.
    """

    language: str
    neurons: int
    kept: int
    in_output: int
    found_again: float | None
    survived: float | None
    weights_kept: float | None


@dataclass(frozen=True)
class NeuronSurvey:
    """What became of the neurons of all languages.

    Attributes:
        neurons: N, of the dense model.
        kept: how many of them the output has.
        weights_kept: share of the weights of these that are not zero.
        languages: by language.
    """

    neurons: int
    kept: int
    weights_kept: float | None
    languages: tuple[Survival, ...]


def language_neurons(shares_NL: Tensor) -> Tensor:
    """Which neurons are specific to which languages, N×L of booleans.

    Args:
        shares_NL: share of the tokens of each language on which each neuron is active.
    """
    count = len(shares_NL)
    if not count:
        return torch.zeros_like(shares_NL, dtype=torch.bool)
    sums_N = shares_NL.sum(1)
    parts_NL = shares_NL / sums_N.clamp(min=torch.finfo(shares_NL.dtype).tiny)[:, None]
    entropies_N = -torch.special.xlogy(parts_NL, parts_NL).sum(1)
    flat = shares_NL.flatten()
    bar = flat.kthvalue(max(1, round(FILTER_QUANTILE * len(flat)))).values
    is_active_NL = shares_NL > bar
    entropies_N[~is_active_NL.any(1)] = torch.inf
    lowest = entropies_N.argsort(stable=True)[: round(SPECIFIC_SHARE * count)]
    chosen_N = torch.zeros(count, dtype=torch.bool)
    chosen_N[lowest] = True
    return is_active_NL & chosen_N[:, None]


def survey(dense: Activity, pruned: Activity, kept: Tensor, weights: Tensor) -> NeuronSurvey:
    """What became of the neurons of each language.

    Args:
        dense: activity of the N neurons of the dense model.
        pruned: activity of those of the output, on the same text.
        kept: which of the N the output has, in its order.
        weights: of each neuron of the output, how many weights are not zero, and how many there are, 2×K.
    """
    of_dense_NL = language_neurons(dense.shares())
    of_output_NL = torch.zeros_like(of_dense_NL)
    of_output_NL[kept] = language_neurons(pruned.shares())
    has_halves = all(all(counts) for counts in dense.tokens.values())
    halves, others = [], []
    for half in (0, 1):
        halves.append(language_neurons(dense.shares(half)))
        others.append(torch.zeros_like(of_dense_NL))
        others[half][kept] = language_neurons(pruned.shares(half))
    found = []
    for column, language in enumerate(dense.active):
        specific_N = of_dense_NL[:, column]
        first, second = (each[:, column] for each in halves)
        found.append(
            Survival(
                language=language,
                neurons=int(specific_N.sum()),
                kept=int(specific_N[kept].sum()),
                in_output=int(of_output_NL[:, column].sum()),
                found_again=_found((first, second), (second, first)) if has_halves else None,
                survived=_found((first, second), [each[:, column] for each in others[::-1]]) if has_halves else None,
                weights_kept=_share(weights[:, specific_N[kept]]),
            )
        )
    return NeuronSurvey(len(of_dense_NL), len(kept), _share(weights), tuple(found))


def _share(weights: Tensor) -> float | None:
    nonzero, total = weights.sum(1).tolist()
    return nonzero / total if total else None


def _found(wanted: Sequence[Tensor], there: Sequence[Tensor]) -> float | None:
    """The share of the wanted neurons that are there."""
    count = sum(int(each.sum()) for each in wanted)
    if not count:
        return None
    return sum(int((one & other).sum()) for one, other in zip(wanted, there, strict=True)) / count
