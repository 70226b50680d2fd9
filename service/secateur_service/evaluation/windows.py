"""Whether the dense model makes use of the context that its windows give it, from the losses at their places.

A token late in a window has more of the text before it, so that a model predicts it better, or at least no worse. A
model that predicts worse there is used beyond the lengths that it was trained on, whatever its config.json allows: what
it is calibrated on, and measured by, is then not what it does in use. Halves of one window are compared, since windows
differ in their text (a ratio estimator with its linearised variance; Cochran 1977, "Sampling techniques", chapter 6).

A causal model predicts the first tokens of a window as it would if the window ended there. So the losses of the
beginnings are those of shorter windows, and say which length would do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from secateur_service.evaluation.intervals import student
from secateur_service.evaluation.perplexity import Losses, perplexity
from secateur_service.evaluation.window_parts import ContextPart, LanguageContextPart

LEAST_TOKENS = 32
"""Shorter windows are not looked at."""
_LEAST_DEGREES = 3  # of freedom: with fewer, Student's quantile is a guess


def lengths(tokens: int) -> list[int]:
    """The length of a window and its halves, quarters and so on, the longest first."""
    return [tokens >> power for power in range(tokens.bit_length()) if tokens >> power >= LEAST_TOKENS]


def context_of(dense: Mapping[str, Losses], tokens: int) -> ContextPart | None:
    """How the dense model predicts along its windows; None where these are too short to say.

    Args:
        dense: its losses by language, with `Losses.beginnings`.
        tokens: length of a window.
    """
    known = {name: losses.beginnings for name, losses in dense.items() if losses.beginnings is not None}
    sums = {name: found_NK2 for name, found_NK2 in known.items() if _is_told(found_NK2)}
    if not sums:
        return None
    growths, errors, degrees = [], [], 0
    for found_NK2 in sums.values():
        growth, error = _second_half(found_NK2)
        growths.append(growth)
        errors.append(error)
        degrees += len(found_NK2) - 1
    mean = sum(growths) / len(growths)
    interval = None
    if degrees >= _LEAST_DEGREES:
        reach = student(0.975, degrees) * math.hypot(*errors) / len(errors)
        interval = math.exp(mean - reach), math.exp(mean + reach)
    return ContextPart(
        lengths=tuple(lengths(tokens)),
        growth=math.exp(mean),
        interval=interval,
        languages={name: _language(found_NK2) for name, found_NK2 in sums.items()},
    )


def _is_told(found_NK2: Tensor) -> bool:
    """Whether there are halves, and every length has scored tokens."""
    tokens_K = found_NK2[..., 1].sum(0)
    return len(tokens_K) > 1 and bool(tokens_K[-1] > 0) and bool(tokens_K[0] > tokens_K[1])


def _second_half(found_NK2: Tensor) -> tuple[float, float]:
    """Mean loss in second halves less that in first ones, nats per token, and its standard error."""
    first_N2, second_N2 = found_NK2[:, 1], found_NK2[:, 0] - found_NK2[:, 1]
    growth, parts_N = 0.0, torch.zeros(len(found_NK2), dtype=torch.float64)
    for half_N2, sign in ((first_N2, -1), (second_N2, 1)):
        nats, tokens = half_N2.sum(0).tolist()
        growth += sign * nats / tokens
        parts_N += sign * (half_N2[:, 0] - nats / tokens * half_N2[:, 1]) / tokens
    count = len(found_NK2)
    return growth, math.sqrt(float(parts_N.square().sum()) * count / max(count - 1, 1))


def _language(found_NK2: Tensor) -> LanguageContextPart:
    sums = [(nats, round(tokens)) for nats, tokens in found_NK2.sum(0).tolist()]
    (nats, tokens), (first_nats, first_tokens) = sums[:2]
    return LanguageContextPart(
        first_half=perplexity(first_nats, first_tokens),
        second_half=perplexity(nats - first_nats, tokens - first_tokens),
        perplexity=tuple(perplexity(*each) for each in sums),
    )
