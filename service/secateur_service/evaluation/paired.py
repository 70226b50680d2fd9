"""What pruning changes in a metric of a task, with standard errors.

Both models answer the same items, so that their difference is known better than either figure: its error is that of the
items' differences (Miller, 2411.00640, section 4.2). Errors of means are s/√n; others are the jackknife's, with items
left out one by one, or in 200 groups where there are more.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from secateur_service.evaluation.parts import TaskPart
from secateur_service.tasks.requests import Scores

_MOST_GROUPS = 200


def compare(dense: Scores, pruned: Scores) -> TaskPart:
    """The figures of a metric of a task, from both models' values of the same items."""
    before, after = dense.values, pruned.values
    items = range(len(before))

    def of_dense(some: Sequence[int]) -> float:
        return float(dense.aggregate([before[item] for item in some]))

    def of_pruned(some: Sequence[int]) -> float:
        return float(pruned.aggregate([after[item] for item in some]))

    def difference(some: Sequence[int]) -> float:
        return of_pruned(some) - of_dense(some)

    errors: list[float | None]
    if dense.is_mean:
        apart = [float(late) - float(early) for early, late in zip(before, after, strict=True)]
        errors = [_error_of_mean(values) for values in (before, after, apart)]
    else:
        errors = [_jackknife(figure, len(items)) for figure in (of_dense, of_pruned, difference)]
    return TaskPart(
        task=dense.task,
        language=dense.language,
        metric=dense.metric,
        samples=len(items),
        dense=_finite(of_dense, items),
        pruned=_finite(of_pruned, items),
        dense_stderr=errors[0],
        pruned_stderr=errors[1],
        difference=_finite(difference, items),
        difference_stderr=errors[2],
        flips=_flips(before, after) if dense.is_right_or_wrong and pruned.is_right_or_wrong else None,
        items=dense.items,
        higher_is_better=dense.higher_is_better,
    )


def _finite(figure: Callable[[Sequence[int]], float], items: Sequence[int]) -> float | None:
    """A figure of some items; None if it is not a number, as the perplexity of a model that is lost."""
    try:
        found = figure(items)
    except (ArithmeticError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _error_of_mean(values: Sequence[Any]) -> float | None:
    numbers = [float(value) for value in values]
    if len(numbers) < 2 or not all(map(math.isfinite, numbers)):
        return None
    return statistics.stdev(numbers) / math.sqrt(len(numbers))


def _jackknife(figure: Callable[[Sequence[int]], float], count: int) -> float | None:
    groups = min(count, _MOST_GROUPS)
    if groups < 2:
        return None
    found = [_finite(figure, [item for item in range(count) if item % groups != left]) for left in range(groups)]
    known = [value for value in found if value is not None]
    if len(known) < groups:
        return None
    return math.sqrt((groups - 1) * statistics.pvariance(known))


def _flips(before: Sequence[Any], after: Sequence[Any]) -> float:
    """The share of items that one model has right and the other wrong."""
    return sum(early != late for early, late in zip(before, after, strict=True)) / len(before)
