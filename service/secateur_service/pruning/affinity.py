"""How alike the inputs of layers are in a language and in the calibration mix, before anything is pruned.

Which weights are kept depends on the sizes of a layer's input channels in the mix. A language whose channels have other
sizes loses more. Its affinity with the mix is

    exp(−s),  s the standard deviation over the channels j of log(a_j / m_j)

with a_j and m_j the root mean squares of a channel in the language and in the mix: 1 if the channels have the same
sizes, up to a factor, and 0.8 if they typically differ by a factor of 0.8. Logarithms, because a few large channels
decide a cosine (Timkey and van Schijndel 2021, 2109.04404). benchmarks/affinity.py compares the definition with others.

Whether it is low is judged by the mix's own text. It is divided into parts; the affinity of each with the mix without
it is what text has that is covered. A language is poorly covered if its affinity is below what such parts have, at a
level divided by the number of languages. So languages of a mix also differ from it without being reported, and one with
little weight may be.

Shapes: P parts, n channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

FALSE_ALARMS = 0.025
PARTS = 8
"""Into which the text of a language is divided."""

# Of the mean square: channels that are all but dead have no ratio.
_FLOOR = 1e-2
_STUDENT_975 = 2.365  # the 0.975 quantile for PARTS − 1 degrees of freedom

Squares = Sequence[Tensor]
"""Mean squares over the parts of a language's text, P×n in float64, for each input."""


@dataclass(frozen=True)
class LanguageAffinity:
    """The affinity of an evaluation language with the mix.

    Attributes:
        estimate: mean over the parts of its text.
        interval: of the mean, with 95 % confidence, from the differences of the parts.
    """

    estimate: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Affinities:
    """The affinities of evaluation languages with the mix.

    Attributes:
        tokens: of each language that were looked at.
        of_mix: mean affinity of parts of the mix's own text with the rest of it, by the weights of its languages.
        spread: standard deviation of these parts.
        threshold: below it, a language is poorly covered.
        languages: by evaluation language.
    """

    tokens: int
    of_mix: float
    spread: float
    threshold: float
    languages: Mapping[str, LanguageAffinity]

    @property
    def poorly_covered(self) -> tuple[str, ...]:
        """The languages below the threshold, the least covered first."""
        below = {name: found.estimate for name, found in self.languages.items() if found.estimate < self.threshold}
        return tuple(sorted(below, key=lambda name: below[name]))


def affinity(squares_N: Tensor, mix_N: Tensor) -> float:
    """The affinity of mean squares of channels with those of the mix: in (0, 1]."""
    relative = [(each / each.mean().clamp(min=torch.finfo(each.dtype).tiny)) + _FLOOR for each in (squares_N, mix_N)]
    logs_N = (relative[0] / relative[1]).log() / 2
    return math.exp(-float(logs_N.std(correction=0)))


def affinities(
    calibration: Mapping[str, Squares], evaluation: Mapping[str, Squares], mix: Mapping[str, float], tokens: int
) -> Affinities:
    """The affinities of evaluation languages, and what text has that the mix covers.

    Args:
        calibration: of each language of the mix.
        evaluation: of each evaluation language; the parts are of as many tokens.
        mix: weight of each calibration language, summing to one.
        tokens: of each language.
    """
    own = [
        (mix[name] / PARTS, _mean_affinity([each[part] for each in squares], _mixed(calibration, mix, name, part)))
        for name, squares in calibration.items()
        for part in range(PARTS)
    ]
    of_mix = sum(weight * value for weight, value in own)
    # Of weighted values, as many of equal weight would have: Kish's effective number.
    number = 1 / sum(weight**2 for weight, _ in own)
    spread = math.sqrt(sum(weight * (value - of_mix) ** 2 for weight, value in own) * number / (number - 1))
    level = NormalDist().inv_cdf(1 - FALSE_ALARMS / max(1, len(evaluation)))
    whole = _mixed(calibration, mix)
    found = {}
    for name, squares in evaluation.items():
        values = [_mean_affinity([each[part] for each in squares], whole) for part in range(PARTS)]
        parts = torch.tensor(values, dtype=torch.float64)
        estimate, error = float(parts.mean()), float(parts.std()) / math.sqrt(PARTS)
        low, high = estimate - _STUDENT_975 * error, estimate + _STUDENT_975 * error
        found[name] = LanguageAffinity(estimate, (max(0.0, low), min(1.0, high)))
    return Affinities(tokens, of_mix, spread, of_mix - level * spread, found)


def _mean_affinity(squares: Sequence[Tensor], mix: Sequence[Tensor]) -> float:
    """The mean over the inputs of a block."""
    return sum(affinity(*pair) for pair in zip(squares, mix, strict=True)) / len(mix)


def _mixed(
    calibration: Mapping[str, Squares], mix: Mapping[str, float], without: str = "", part: int = -1
) -> list[Tensor]:
    """The mean squares of the mix at each input, n; without one part of one language's text."""
    sums: list[Tensor] = []
    for name, squares in calibration.items():
        kept = [number for number in range(PARTS) if name != without or number != part]
        means = [mix[name] * each[kept].mean(0) for each in squares]
        sums = [one + other for one, other in zip(sums, means, strict=True)] if sums else means
    return sums
