"""Whether a result lost no more than it may: the check for a pipeline, on a report as plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from secateur._arguments import number, texts
from secateur._errors import FieldViolation, InvalidRequestError
from secateur._foreign import detail_of
from secateur._language import canonical_tag
from secateur._language_names import language_fault
from secateur._report import TaskReport
from secateur._task_loss import can_be_limited, is_beyond, loss_interval, loss_problem, task_loss

LEAST_GROWTH = 0.5
"""The least ratio that a limit may be: 0.05 is a share that was meant."""

_NAMED = 5


class GateLimits(TypedDict, total=False):
    """What `gate` takes besides the report."""

    max_growth: float | None
    max_task_loss: float | None
    languages: Collection[str]
    tasks: Collection[str]
    bits_per_byte: bool
    sure: bool


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
class GateTask:
    """One metric of a task at the gate.

    Attributes:
        task: lm-evaluation-harness' name of it.
        language: BCP 47 tag; None if neither the task nor its name says.
        metric: lm-evaluation-harness' name of it.
        dense: Its figure for the dense model.
        pruned: Its figure for the pruned model.
        loss: How much worse the pruned model is; None if a figure is no number.
        interval: Of the loss, with 95 % confidence; None if it is not known.
        passed: Whether it is within the limit.
    """

    task: str
    language: str | None
    metric: str
    dense: float | None
    pruned: float | None
    loss: float | None
    interval: tuple[float, float] | None
    passed: bool


@dataclass(frozen=True)
class Gate:
    """Whether a result lost no more than it may.

    Attributes:
        passed: Whether it may go on.
        reason: Why: by which limits not, or by all of them.
        measure: `perplexity` or `bits_per_byte`.
        max_growth: What a language may lose at most, as a ratio: 1.05 permits five per cent; None for no such limit.
        languages: What was checked of the languages.
        max_task_loss: What a metric of a task may lose at most, as an amount of it; None for no such limit.
        tasks: What was checked of the tasks.
        not_limited: Metrics of these tasks that no amount limits, such as perplexities, as `METRIC of TASK`.
    """

    passed: bool
    reason: str
    measure: str
    max_growth: float | None
    languages: tuple[GateLanguage, ...]
    max_task_loss: float | None = None
    tasks: tuple[GateTask, ...] = ()
    not_limited: tuple[str, ...] = ()


def gate(
    report: Mapping[str, Any],
    *,
    max_growth: float | None = None,
    max_task_loss: float | None = None,
    languages: Collection[str] = (),
    tasks: Collection[str] = (),
    bits_per_byte: bool = False,
    sure: bool = False,
) -> Gate:
    """Check a report.json against limits; at least one is needed.

    Args:
        report: The report as plain data.
        max_growth: What a language may lose at most, as the ratio of pruned to dense: 1.05 permits five per cent.
        max_task_loss: What a metric of a task may lose at most, as an amount of it: 0.02 permits two items of a
            hundred. Metrics that no amount limits, such as perplexities, are left out.
        languages: What to check, in any spelling; none for all languages of the mix, and tasks of any language.
        tasks: Names of the tasks to check; none for all, or all of the stated languages.
        bits_per_byte: Whether bits per byte may grow so much, and not perplexity.
        sure: Whether the whole confidence interval has to be within the limit, and not only what was measured.

    Raises:
        InvalidRequestError: there is no limit, or it is none; or the report has no figures of a language or task; or an
            argument is no number, or no list.
    """
    max_growth, max_task_loss = number(max_growth, "max_growth"), number(max_task_loss, "max_task_loss")
    languages, tasks = texts(languages, "languages"), texts(tasks, "tasks")
    violations = [*_misuses(max_growth, max_task_loss, tasks), *_no_languages(languages)]
    if not violations and not {"evaluation", "calibration", "verdicts"} <= report.keys():
        violations = [FieldViolation("report", "is not the report of a job")]
    if violations:
        raise InvalidRequestError(violations)
    measure = "bits_per_byte" if bits_per_byte else "perplexity"
    checked: tuple[GateLanguage, ...] = ()
    of_tasks: tuple[GateTask, ...] = ()
    not_limited: tuple[str, ...] = ()
    told: list[tuple[str, bool]] = []
    if max_growth is not None:
        entries = _entries(report, languages)
        checked = tuple(_checked(entry, measure, max_growth, sure=sure) for entry in entries)
        reason = _reason(checked, measure, max_growth, sure=sure)
        told.append((reason, all(entry.passed for entry in checked)))
    if max_task_loss is not None:
        figures = _figures(report, languages, tasks, growth_too=max_growth is not None)
        of_tasks = tuple(_checked_task(entry, max_task_loss, sure=sure) for entry in figures if can_be_limited(entry))
        not_limited = tuple(f"{entry.metric} of {entry.task}" for entry in figures if not can_be_limited(entry))
        reason = _reason_of_tasks(of_tasks, max_task_loss, sure=sure)
        told.append((reason, all(entry.passed for entry in of_tasks)))
    against = [reason for reason, passed in told if not passed]
    if not against and any(verdict["kind"] == "LIMIT_EXCEEDED" for verdict in report["verdicts"]):
        against = ["the job exceeded a limit of its specification and has no checkpoint"]
    return Gate(
        passed=not against,
        reason="; ".join(against or [reason for reason, _ in told]),
        measure=measure,
        max_growth=max_growth,
        languages=checked,
        max_task_loss=max_task_loss,
        tasks=of_tasks,
        not_limited=not_limited,
    )


def read_report(place: Path) -> dict[str, Any]:
    """Read the report of a result on this machine, given its folder or the report.json itself.

    Raises:
        InvalidRequestError: there is none, or it cannot be read.
    """
    path = place / "report" / "report.json" if place.is_dir() else place
    if not path.is_file():
        problem = f"the folder {place} has no report/report.json; name one that a job was downloaded to, or a job"
        raise InvalidRequestError([FieldViolation("report", problem)])
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequestError([FieldViolation("report", f"{path} cannot be read: {detail_of(error)}")]) from error
    if not isinstance(content, dict) or "evaluation" not in content:
        raise InvalidRequestError([FieldViolation("report", f"{path} is no report; name a report.json")])
    return content


def growth_problem(max_growth: float) -> str | None:
    """Why a limit cannot be meant; None if it can."""
    if math.isfinite(max_growth) and max_growth >= LEAST_GROWTH:
        return None
    return f"{max_growth:g} is no ratio to the dense model; 1.05 permits a growth of five per cent"


def _misuses(max_growth: float | None, max_task_loss: float | None, tasks: Collection[str]) -> Iterator[FieldViolation]:
    if max_growth is None and max_task_loss is None:
        yield FieldViolation("max_growth", "there is no limit; give max_growth, max_task_loss or both")
    if max_growth is not None and (problem := growth_problem(max_growth)) is not None:
        yield FieldViolation("max_growth", problem)
    if max_task_loss is not None and (problem := loss_problem(max_task_loss)) is not None:
        yield FieldViolation("max_task_loss", problem)
    if tasks and max_task_loss is None:
        yield FieldViolation("tasks", "there is no limit for tasks; give max_task_loss, or leave the tasks out")


def _no_languages(languages: Collection[str]) -> Iterator[FieldViolation]:
    for language in languages:
        if (fault := language_fault(language)) is not None:
            yield FieldViolation("languages", fault)


def _entries(report: Mapping[str, Any], languages: Collection[str]) -> list[Mapping[str, Any]]:
    evaluated = {_canonical(entry["language"]): entry for entry in report["evaluation"]}
    mix = [entry["language"] for entry in report["calibration"] if entry["weight"] > 0]
    wanted = {_canonical(language): language for language in languages or mix}
    missing = [spelling for language, spelling in wanted.items() if language not in evaluated]
    if missing or not wanted:
        known = ", ".join(entry["language"] for entry in report["evaluation"]) or "no language"
        problem = f"{', '.join(missing) or 'nothing'} was not evaluated; the report has {known}"
        raise InvalidRequestError([FieldViolation("languages", problem)])
    return [evaluated[language] for language in wanted]


def _figures(
    report: Mapping[str, Any], languages: Collection[str], tasks: Collection[str], *, growth_too: bool
) -> list[TaskReport]:
    """The metrics to check: there is one that can be limited for every stated task, and for every stated language.

    A language without a task is let through where its growth is checked.
    """
    every = list(map(TaskReport.of, report.get("tasks") or ()))
    if not every:
        problem = "the report has no tasks; run the job with evaluation.tasks, or leave the limit out"
        raise InvalidRequestError([FieldViolation("max_task_loss", problem)])
    if unknown := [name for name in tasks if name not in {entry.task for entry in every}]:
        known = _some(dict.fromkeys(entry.task for entry in every))
        problem = f"{', '.join(unknown)} was not asked; the report has {known}"
        raise InvalidRequestError([FieldViolation("tasks", problem)])
    spoken = {_canonical(language): language for language in languages}
    found = [
        entry
        for entry in every
        if (not tasks or entry.task in tasks) and (not spoken or _canonical(entry.language or "") in spoken)
    ]
    limited = [entry for entry in found if can_be_limited(entry)]
    if unlimited := [name for name in tasks if name not in {entry.task for entry in limited}]:
        problem = _unlimited(unlimited, [entry for entry in every if entry.task in unlimited], spoken)
        raise InvalidRequestError([FieldViolation("tasks", problem)])
    asked = {_canonical(entry.language or "") for entry in limited}
    silent = [spelling for language, spelling in spoken.items() if language not in asked]
    if silent and not (growth_too and limited):
        known = _some(dict.fromkeys(entry.language for entry in every if entry.language and can_be_limited(entry)))
        problem = f"{', '.join(silent)} has no task with a limit; the report has tasks of {known or 'no language'}"
        raise InvalidRequestError([FieldViolation("languages", problem)])
    if not limited:
        problem = _unlimited(list(dict.fromkeys(entry.task for entry in found)), found, spoken)
        raise InvalidRequestError([FieldViolation("max_task_loss", problem)])
    return found


def _unlimited(names: Sequence[str], entries: Sequence[TaskReport], spoken: Collection[str]) -> str:
    if spoken and any(can_be_limited(entry) for entry in entries):
        return f"{_some(names)} is of no language that was named; name its language too, or none"
    metrics = _some(dict.fromkeys(entry.metric for entry in entries))
    return f"{_some(names)} has {metrics}, which no amount limits; limit the growth of its language by max_growth"


def _canonical(language: str) -> str:
    return canonical_tag(language) or language


def _checked(entry: Mapping[str, Any], measure: str, max_growth: float, *, sure: bool) -> GateLanguage:
    dense, pruned = float(entry[f"dense_{measure}"]), float(entry[f"pruned_{measure}"])
    interval = _interval(entry.get("intervals"), measure)
    most = pruned / dense
    if sure:
        most = interval[1] if interval else math.inf
    return GateLanguage(entry["language"], dense, pruned, pruned / dense, interval, most <= max_growth)


def _checked_task(entry: TaskReport, max_loss: float, *, sure: bool) -> GateTask:
    loss, interval = task_loss(entry), loss_interval(entry)
    most = loss
    if sure and most is not None:
        most = max(most, interval[1]) if interval else None
    return GateTask(
        task=entry.task,
        language=entry.language,
        metric=entry.metric,
        dense=entry.dense,
        pruned=entry.pruned,
        loss=loss,
        interval=interval,
        passed=most is not None and not is_beyond(most, max_loss),
    )


def _interval(intervals: Mapping[str, Any] | None, measure: str) -> tuple[float, float] | None:
    """Of the growth as a ratio."""
    if not intervals:
        return None
    if measure == "perplexity":
        low, high = intervals["perplexity_ratio"]
    else:
        low, high = (1 + bound for bound in intervals["bits_per_byte_growth"])
    return float(low), float(high)


def _reason(checked: Sequence[GateLanguage], measure: str, max_growth: float, *, sure: bool) -> str:
    grew = "perplexity" if measure == "perplexity" else "bits per byte"
    failed = [entry for entry in checked if not entry.passed]
    told = []
    if beyond := [entry for entry in failed if entry.growth > max_growth]:
        named = ", ".join(f"{entry.language} ×{entry.growth:.4f}" for entry in beyond)
        told.append(f"{grew} grew more than ×{max_growth:g}: {named}")
    if unsure := [entry for entry in failed if entry.growth <= max_growth]:
        named = ", ".join(
            f"{entry.language} up to ×{entry.interval[1]:.4f}"
            if entry.interval
            else f"{entry.language} has no interval"
            for entry in unsure
        )
        told.append(f"{grew} may have grown more than ×{max_growth:g}: {named}; evaluate on more text to be sure")
    if told:
        return "; ".join(told)
    worst = max(checked, key=lambda entry: entry.growth)
    surely = " with its whole confidence interval" if sure else ""
    return f"{grew} grew at most ×{worst.growth:.4f} ({worst.language}), within ×{max_growth:g}{surely}"


def _reason_of_tasks(checked: Sequence[GateTask], max_loss: float, *, sure: bool) -> str:
    failed = sorted((entry for entry in checked if not entry.passed), key=lambda entry: -_size(entry))
    told = []
    if beyond := [entry for entry in failed if is_beyond(_size(entry), max_loss)]:
        named = _some(f"{_name(entry)} {_amount(entry.loss)}" for entry in beyond)
        told.append(f"tasks lost more than {max_loss:g}: {named}")
    if unsure := [entry for entry in failed if not is_beyond(_size(entry), max_loss)]:
        reach = [f"up to {_amount(entry.interval[1])}" if entry.interval else "has no interval" for entry in unsure]
        named = _some(f"{_name(entry)} {ends}" for entry, ends in zip(unsure, reach, strict=True))
        told.append(f"tasks may have lost more than {max_loss:g}: {named}; raise evaluation.task_limit to be sure")
    if told:
        return "; ".join(told)
    worst = max(checked, key=_size)
    surely = " with its whole confidence interval" if sure else ""
    if _size(worst) <= 0:
        return f"no task lost anything, within {max_loss:g}{surely}"
    return f"tasks lost at most {_amount(worst.loss)} ({_name(worst)}), within {max_loss:g}{surely}"


def _size(entry: GateTask) -> float:
    return math.inf if entry.loss is None else entry.loss


def _name(entry: GateTask) -> str:
    return f"{entry.metric} of {entry.task}"


def _amount(loss: float | None) -> str:
    return "is no number" if loss is None else f"{loss:.4f}"


def _some(names: Collection[str] | Iterator[str]) -> str:
    """Names in a row; a report may have hundreds of tasks."""
    every = list(names)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more
