"""What a metric of a task has lost, and how far chance may be in it: the rule that a gate and the service share.

A limit of tasks is an amount of a metric. That means the same for all metrics that are shares of items, such as
accuracy, and nothing for a perplexity, which has no scale; growth is what limits that.
"""

from __future__ import annotations

import math
from typing import Protocol

NORMAL_975 = 1.959963984540054
_ROUNDING = 1e-9
"""Two shares of items whose difference is the limit may be further apart in binary fractions."""


class TaskFigures(Protocol):
    """The figures of a metric, in a report of the service or of the SDK."""

    @property
    def samples(self) -> int:
        """Items."""

    @property
    def difference(self) -> float | None:
        """Pruned less dense."""

    @property
    def difference_stderr(self) -> float | None:
        """Its standard error."""

    @property
    def flips(self) -> float | None:
        """The share of items that one model has right and the other wrong; None if items are not right or wrong."""

    @property
    def higher_is_better(self) -> bool | None:
        """None if the task does not say, as in reports of older releases."""


def can_be_limited(entry: TaskFigures) -> bool:
    """Whether an amount of the metric means something: it is a share of items, or higher is better, as of F1."""
    return entry.flips is not None or entry.higher_is_better is True


def task_loss(entry: TaskFigures) -> float | None:
    """How much worse the pruned model is; negative if it is better, None if a figure is no number."""
    if entry.difference is None:
        return None
    return entry.difference if entry.higher_is_better is False else -entry.difference


def loss_interval(entry: TaskFigures) -> tuple[float, float] | None:
    """The loss with 95 % confidence, from the items that both models answered; None if it is not known.

    Of items that are right or wrong it is Bonett and Price's (2012, doi 10.3102/1076998611411915), which does not take
    few items without a flip for certainty: of 100 the loss may still be 0.027.
    """
    loss = task_loss(entry)
    if loss is None:
        return None
    if entry.flips is None:
        if entry.difference_stderr is None:
            return None
        margin = NORMAL_975 * entry.difference_stderr
        return loss - margin, loss + margin
    items = entry.samples + 2
    lost, won = ((entry.flips + sign * loss) / 2 * entry.samples + 1 for sign in (1, -1))
    centre = (lost - won) / items
    margin = NORMAL_975 * math.sqrt(max(0.0, (lost + won) / items - centre**2) / items)
    return max(-1.0, centre - margin), min(1.0, centre + margin)


def loss_in_words(loss: float, digits: int) -> str:
    """Such as `lost 0.040`; what is negative is gained."""
    return f"{'gained' if _is_gain(loss, digits) else 'lost'} {abs(loss):.{digits}f}"


def interval_in_words(loss: float, interval: tuple[float, float], digits: int) -> str:
    """The interval of a loss, or of the gain where `loss_in_words` says so: `(-0.021 to 0.100)`."""
    low, high = (-interval[1], -interval[0]) if _is_gain(loss, digits) else interval
    return f"({low:z.{digits}f} to {high:z.{digits}f})"


def _is_gain(loss: float, digits: int) -> bool:
    return round(loss, digits) < 0


def is_beyond(loss: float, limit: float) -> bool:
    """Whether a loss is more than the limit."""
    return loss > limit + _ROUNDING


def loss_problem(max_task_loss: float) -> str | None:
    """Why a limit cannot be meant; None if it can."""
    if math.isfinite(max_task_loss) and 0 <= max_task_loss <= 1:
        return None
    return f"{max_task_loss:g} is no loss of a metric; 0.02 permits two items of a hundred"
