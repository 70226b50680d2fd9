"""Standard errors of what pruning changes, against draws and definitions."""

import math
import random
import statistics

import pytest

from secateur_service.evaluation.paired import compare
from secateur_service.tasks.requests import Scores


def perplexity(values):
    return math.exp(-statistics.fmean(values))


def scores(values, aggregate=statistics.fmean):
    return Scores("task", "de", "metric", values, aggregate, aggregate is statistics.fmean)


def test_the_error_of_a_difference_is_that_of_the_items_differences():
    before, after = [1, 1, 0, 1, 0, 1, 1, 0], [1, 0, 0, 1, 0, 1, 1, 1]
    part = compare(scores(before), scores(after))
    apart = [late - early for early, late in zip(before, after, strict=True)]
    assert (part.dense, part.pruned, part.difference) == (5 / 8, 5 / 8, 0)
    assert part.difference_stderr == pytest.approx(statistics.stdev(apart) / math.sqrt(8))
    assert part.dense_stderr == pytest.approx(statistics.stdev(before) / math.sqrt(8))
    assert part.flips == 2 / 8
    assert part.samples == 8


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values, others = [1.0, 4.0, 2.0, 8.0, 5.0], [2.0, 3.0, 2.5, 8.0, 1.0]
    by_formula = compare(scores(values), scores(others))
    jackknife = compare(
        scores(values, lambda some: sum(some) / len(some)), scores(others, lambda some: sum(some) / len(some))
    )
    for name in ("dense_stderr", "pruned_stderr", "difference_stderr"):
        assert getattr(jackknife, name) == pytest.approx(getattr(by_formula, name))


def test_groups_of_items_give_about_the_same_error():
    drawn = random.Random(0)
    values = [drawn.gauss(-2) for _ in range(1000)]
    part = compare(scores(values, perplexity), scores(values, perplexity))
    slope = perplexity(values)  # of the exponential at the mean
    assert part.dense_stderr == pytest.approx(slope * statistics.stdev(values) / math.sqrt(1000), rel=0.15)
    assert part.difference_stderr == 0


def test_what_cannot_be_computed_is_null():
    single = compare(scores([1.0]), scores([0.0]))
    assert (single.difference, single.difference_stderr, single.flips) == (-1.0, None, 1.0)
    lost = compare(scores([-1.0, -2.0], perplexity), scores([-1000.0, -2000.0], perplexity))
    assert (lost.dense is None, lost.pruned, lost.difference, lost.flips) == (False, None, None, None)
