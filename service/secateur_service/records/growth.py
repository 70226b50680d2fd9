"""How much pruning cost the language that it cost most: the figure that jobs are listed by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from secateur_service.records.result import JobResult


def worst_growth(resolved: Mapping[str, Any], result: JobResult) -> float | None:
    """Pruned over dense perplexity of the language of the mix that lost most; 1 means that nothing was lost.

    Languages outside the mix count where none of the mix was evaluated.

    Args:
        resolved: the specification that ran.
        result: its figures.

    Returns:
        None if there is no such figure.
    """
    mix = {entry["language"] for entry in resolved["calibration"]["languages"] if entry.get("weight") != 0}
    growths = {
        entry.language: entry.pruned_perplexity / entry.dense_perplexity
        for entry in result.languages
        if entry.dense_perplexity
    }
    known = {language: growth for language, growth in growths.items() if not math.isnan(growth)}
    of_mix = [growth for language, growth in known.items() if language in mix]
    return max(of_mix or known.values(), default=None)
