"""How much pruning cost the language that it cost most: the figure that jobs are listed by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from secateur_service.records.result import PERPLEXITY_GROWTH, JobResult


def worst_growth(resolved: Mapping[str, Any], growths: Mapping[str, float]) -> float | None:
    """Pruned over dense perplexity of the language of the mix that lost most; 1 means that nothing was lost.

    Languages outside the mix count where none of the mix was evaluated.

    Args:
        resolved: the specification that ran.
        growths: the growth of each evaluated language; NaN where there is none.

    Returns:
        None if there is no such figure.
    """
    mix = {entry["language"] for entry in resolved["calibration"]["languages"] if entry.get("weight") != 0}
    known = {language: growth for language, growth in growths.items() if not math.isnan(growth)}
    of_mix = [growth for language, growth in known.items() if language in mix]
    return max(of_mix or known.values(), default=None)


def growths_of_result(result: JobResult) -> dict[str, float]:
    """The growth of each evaluated language of a job that succeeded."""
    return {
        entry.language: entry.pruned_perplexity / entry.dense_perplexity
        for entry in result.languages
        if entry.dense_perplexity
    }


def growths_of_details(details: Mapping[str, str]) -> dict[str, float]:
    """That of a job that exceeded a limit, by the details of its failure; empty for any other failure."""
    return {
        name.removeprefix(PERPLEXITY_GROWTH): float(text)
        for name, text in details.items()
        if name.startswith(PERPLEXITY_GROWTH)
    }
