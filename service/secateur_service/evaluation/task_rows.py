"""The tasks of a report as rows of a table: figures, intervals, and bars on one scale."""

from __future__ import annotations

from dataclasses import dataclass

from secateur._task_loss import can_be_limited, loss_interval, task_loss
from secateur_service.evaluation.parts import TaskPart
from secateur_service.evaluation.report import Report


@dataclass(frozen=True)
class TaskRow:
    """A metric of a task in the table of tasks.

    Attributes:
        part: its figures.
        interval: of the difference, with 95 % confidence; None if it is not known.
        bar: where that begins, how wide it is, and where the difference is, in percent of a column in whose middle is
            no change, worse to the left; None if it is not known, or the metric has no scale.
        limit: where the limit is there; None without one.
        is_clear: whether the interval excludes zero.
    """

    part: TaskPart
    interval: tuple[float, float] | None
    bar: tuple[float, float, float] | None
    limit: float | None
    is_clear: bool


def task_rows(report: Report) -> list[TaskRow]:
    """The metrics of all tasks; the bars of those that have a scale are on one."""
    decision = report.decision
    limits = {(each.task, each.metric): each.limit for each in decision.tasks} if decision else {}
    bounds = {(part.task, part.metric): loss_interval(part) for part in report.tasks if can_be_limited(part)}
    ends = [abs(end) for interval in bounds.values() if interval for end in interval]
    scale = max(ends, default=0.0) or 1.0

    def place(loss: float) -> float:
        return 50 - 50 * loss / scale

    rows = []
    for part in report.tasks:
        loss, interval, limit = task_loss(part), loss_interval(part), limits.get((part.task, part.metric))
        bar = None
        if interval and loss is not None and can_be_limited(part):
            left, right = place(interval[1]), place(interval[0])
            bar = left, right - left, place(loss)
        sign = 1 if part.higher_is_better is False else -1
        rows.append(
            TaskRow(
                part,
                interval=interval and (min(sign * end for end in interval), max(sign * end for end in interval)),
                bar=bar,
                limit=place(limit) if bar and limit is not None and limit <= scale else None,
                is_clear=bool(interval and (interval[0] > 0 or interval[1] < 0)),
            )
        )
    return rows
