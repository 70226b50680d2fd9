"""Whether a result lost no more than it may: the check for a pipeline, on a report as plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur._errors import FieldViolation, InvalidRequestError
from secateur._foreign import detail_of

LEAST_GROWTH = 0.5
"""The least ratio that a limit may be: 0.05 is a share that was meant."""


@dataclass(frozen=True)
class GateLanguage:
    """One language at the gate.

    Attributes:
        language: BCP 47 tag.
        dense: Its figure for the dense model.
        pruned: Its figure for the pruned model.
        growth: Pruned over dense.
        interval: Of the growth, with 95 % confidence; None if the report has none.
        passed: Whether it is within the limit.
    """

    language: str
    dense: float
    pruned: float
    growth: float
    interval: tuple[float, float] | None
    passed: bool


@dataclass(frozen=True)
class Gate:
    """Whether a result lost no more than it may.

    Attributes:
        passed: Whether it may go on.
        reason: Why, in one sentence.
        measure: `perplexity` or `bits_per_byte`.
        max_growth: What a language may lose at most, as a ratio: 1.05 permits five per cent.
        languages: What was checked.
    """

    passed: bool
    reason: str
    measure: str
    max_growth: float
    languages: tuple[GateLanguage, ...]


def gate(
    report: Mapping[str, Any],
    *,
    max_growth: float,
    languages: Collection[str] = (),
    bits_per_byte: bool = False,
    sure: bool = False,
) -> Gate:
    """Check a report.json against a limit.

    Args:
        report: The report as plain data.
        max_growth: What a language may lose at most, as the ratio of pruned to dense: 1.05 permits five per cent.
        languages: What to check; by default all languages of the mix.
        bits_per_byte: Whether bits per byte may grow so much, and not perplexity.
        sure: Whether the whole confidence interval has to be within the limit, and not only the growth measured.

    Raises:
        InvalidRequestError: a language was not evaluated, or the limit is no ratio.
    """
    if (problem := growth_problem(max_growth)) is not None:
        raise InvalidRequestError([FieldViolation("max_growth", problem)])
    if not {"evaluation", "calibration", "verdicts"} <= report.keys():
        raise InvalidRequestError([FieldViolation("report", "is not the report of a job")])
    measure = "bits_per_byte" if bits_per_byte else "perplexity"
    checked = tuple(_checked(entry, measure, max_growth, sure=sure) for entry in _entries(report, languages))
    exceeded = any(verdict["kind"] == "LIMIT_EXCEEDED" for verdict in report["verdicts"])
    failed = [entry for entry in checked if not entry.passed]
    return Gate(
        passed=not failed and not exceeded,
        reason=_reason(checked, failed, measure, max_growth, exceeded=exceeded, sure=sure),
        measure=measure,
        max_growth=max_growth,
        languages=checked,
    )


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json that was downloaded.

    Raises:
        InvalidRequestError: it cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidRequestError([FieldViolation("report", f"{path} cannot be read: {detail_of(error)}")]) from error
    return content


def growth_problem(max_growth: float) -> str | None:
    """Why a limit cannot be meant; None if it can."""
    if math.isfinite(max_growth) and max_growth >= LEAST_GROWTH:
        return None
    return f"{max_growth:g} is no ratio to the dense model; 1.05 permits a growth of five per cent"


def _entries(report: Mapping[str, Any], languages: Collection[str]) -> list[Mapping[str, Any]]:
    evaluated = {_spelled(entry["language"]): entry for entry in report["evaluation"]}
    mix = [entry["language"] for entry in report["calibration"] if entry["weight"] > 0]
    wanted = list(dict.fromkeys(map(_spelled, languages or mix)))
    missing = [language for language in wanted if language not in evaluated]
    if missing or not wanted:
        known = ", ".join(entry["language"] for entry in report["evaluation"]) or "no language"
        problem = f"{', '.join(missing) or 'nothing'} was not evaluated; the report has {known}"
        raise InvalidRequestError([FieldViolation("languages", problem)])
    return [evaluated[language] for language in wanted]


def _spelled(language: str) -> str:
    return language.replace("_", "-").casefold()


def _checked(entry: Mapping[str, Any], measure: str, max_growth: float, *, sure: bool) -> GateLanguage:
    dense, pruned = float(entry[f"dense_{measure}"]), float(entry[f"pruned_{measure}"])
    interval = _interval(entry.get("intervals"), measure)
    most = pruned / dense
    if sure:
        most = interval[1] if interval else math.inf
    return GateLanguage(entry["language"], dense, pruned, pruned / dense, interval, most <= max_growth)


def _interval(intervals: Mapping[str, Any] | None, measure: str) -> tuple[float, float] | None:
    """Of the growth as a ratio."""
    if not intervals:
        return None
    if measure == "perplexity":
        low, high = intervals["perplexity_ratio"]
    else:
        low, high = (1 + bound for bound in intervals["bits_per_byte_growth"])
    return float(low), float(high)


def _reason(
    checked: Sequence[GateLanguage],
    failed: Sequence[GateLanguage],
    measure: str,
    max_growth: float,
    *,
    exceeded: bool,
    sure: bool,
) -> str:
    grew = "perplexity" if measure == "perplexity" else "bits per byte"
    beyond = [entry for entry in failed if entry.growth > max_growth]
    if beyond:
        named = ", ".join(f"{entry.language} ×{entry.growth:.4f}" for entry in beyond)
        return f"{grew} grew more than ×{max_growth:g}: {named}"
    if failed:
        named = ", ".join(
            f"{entry.language} up to ×{entry.interval[1]:.4f}"
            if entry.interval
            else f"{entry.language} has no interval"
            for entry in failed
        )
        return f"{grew} may have grown more than ×{max_growth:g}: {named}; evaluate on more text to be sure"
    if exceeded:
        return "the job exceeded a limit of its specification and has no checkpoint"
    worst = max(checked, key=lambda entry: entry.growth)
    surely = " with its whole confidence interval" if sure else ""
    return f"{grew} grew at most ×{worst.growth:.4f} ({worst.language}), within ×{max_growth:g}{surely}"
