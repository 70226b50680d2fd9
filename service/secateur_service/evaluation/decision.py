"""Whether a result may ship: what its report says about the limits that its specification names.

A limit of a language is the share by which its bits per byte may grow; a limit of tasks is what any of their metrics
may lose. What has a limit passes if its whole confidence interval is within it, and fails if what was measured is
beyond it, whatever the interval: such a job ends as LIMIT_EXCEEDED. In between, other text, or other items, might have
been beyond the limit, and the answer is that this evaluation cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from secateur._language_names import in_words
from secateur._task_loss import (
    can_be_limited,
    interval_in_words,
    is_beyond,
    loss_in_words,
    loss_interval,
    task_loss,
)
from secateur._text import listed
from secateur_service.evaluation.parts import EvaluationLanguage, Interval, Part, TaskPart

Answer = Literal["PASS", "FAIL", "CANNOT_TELL"]
_ANSWERS: tuple[Answer, ...] = ("FAIL", "CANNOT_TELL", "PASS")
_NAMED_TASKS = 5
# Of the half width of an interval: what is measured so near to its limit takes 400 times the text or the items.
_NEAR = 1 / 20


class LanguageDecision(Part):
    """The answer for one language that has a limit."""

    language: str
    limit: float = Field(description="share by which bits per byte may grow")
    growth: float = Field(description="share by which they grew")
    interval: Interval | None = Field(description="of the growth, with 95 % confidence; null if it is not known")
    answer: Answer
    needed_tokens: int | None = Field(
        description="with about so many scored tokens the interval would be within the limit if the growth stayed the "
        "same; null where the answer is clear, nothing is known of the interval, or the growth is too near to the limit"
    )


class TaskDecision(Part):
    """The answer for a metric of a task, where tasks have a limit."""

    task: str
    language: str | None
    metric: str
    limit: float = Field(description="what the metric may lose")
    loss: float | None = Field(description="what it lost; negative if it gained, null if a figure is no number")
    interval: Interval | None = Field(description="of the loss, with 95 % confidence; null if it is not known")
    answer: Answer
    needed_samples: int | None = Field(
        description="with about so many items the interval would be within the limit if the loss stayed the same; null "
        "where the answer is clear, nothing is known of the interval, or the loss is too near to the limit"
    )


class DecisionPart(Part):
    """Whether the result may ship as far as its limits say."""

    answer: Answer | None = Field(description="the worst of all answers; null if there are no limits")
    sentence: str
    languages: tuple[LanguageDecision, ...] = ()
    tasks: tuple[TaskDecision, ...] = Field(
        default=(), description="absent if tasks have no limit", exclude_if=lambda it: not it
    )


def decide(
    evaluation: Sequence[EvaluationLanguage],
    limits: Mapping[str, float],
    tasks: Sequence[TaskPart] = (),
    task_loss_limit: float | None = None,
) -> DecisionPart:
    """The answer to "may this ship?".

    Args:
        evaluation: evaluated languages.
        limits: by language.
        tasks: every metric of every task.
        task_loss_limit: what any of them may lose; None for no limit. It says nothing of metrics without a scale.
    """
    languages = [_of_language(entry, limits[entry.language]) for entry in evaluation if entry.language in limits]
    metrics = []
    if task_loss_limit is not None:
        metrics = [_of_task(entry, task_loss_limit) for entry in tasks if can_be_limited(entry)]
    given = {found.answer for found in languages} | {found.answer for found in metrics}
    return DecisionPart(
        answer=next((answer for answer in _ANSWERS if answer in given), None),
        sentence=" ".join(map(str, statements(languages, metrics, tasks, task_loss_limit))),
        languages=tuple(languages),
        tasks=tuple(metrics),
    )


@dataclass(frozen=True)
class Statement:
    """Part of the answer in words.

    Attributes:
        head: a sentence; without its full stop if figures follow.
        figures: what it rests on.
    """

    head: str
    figures: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.head}: {'; '.join(self.figures)}." if self.figures else self.head


def statements(
    languages: Sequence[LanguageDecision],
    metrics: Sequence[TaskDecision],
    tasks: Sequence[TaskPart] = (),
    task_loss_limit: float | None = None,
) -> list[Statement]:
    """The answer in words, the worst first.

    Args:
        languages: those that have a limit.
        metrics: those of tasks that have one.
        tasks: every metric of every task.
        task_loss_limit: as the specification has it.
    """
    if not languages and not metrics:
        return [_NO_LIMITS]
    found: list[Statement] = []
    for answer in _ANSWERS:
        spoken = [each for each in languages if each.answer == answer]
        asked = [each for each in metrics if each.answer == answer]
        found += _statements(answer, spoken, asked)
    unlimited = [f"{entry.metric} of {entry.task}" for entry in tasks if not can_be_limited(entry)]
    if task_loss_limit is None and tasks:
        found.append(_TASKS_WITHOUT_LIMIT)
    elif unlimited:
        found.append(Statement(f"No limit applies to {'; '.join(_some(unlimited))}."))
    return found


_NO_LIMITS = Statement(
    "Whether it may ship depends on how much may be lost: limits.languages and limits.task_loss say so, and the "
    "service then checks it."
)
_TASKS_WITHOUT_LIMIT = Statement("Tasks were measured, and no limit was given for them (limits.task_loss).")
_OF_LANGUAGES: Mapping[Answer, str] = {
    "FAIL": "This may not ship for {}",
    "CANNOT_TELL": "Whether it may ship for {} cannot be told",
    "PASS": "It is within the limits for {}",
}
_OF_TASKS: Mapping[Answer, str] = {
    "FAIL": "This may not ship by its tasks, which may lose {:g}",
    "CANNOT_TELL": "Whether tasks lost at most {:g} cannot be told",
    "PASS": "Within the limit of {:g} for tasks",
}


def _of_language(entry: EvaluationLanguage, limit: float) -> LanguageDecision:
    interval = entry.intervals.bits_per_byte_growth if entry.intervals else None
    answer: Answer = "CANNOT_TELL"
    needed = None
    if entry.growth > limit:
        answer = "FAIL"
    elif interval is not None and interval[1] <= limit:
        answer = "PASS"
    elif interval is not None:
        needed = _needed(entry.tokens, entry.growth, interval, limit)
    return LanguageDecision(
        language=entry.language,
        limit=limit,
        growth=entry.growth,
        interval=interval,
        answer=answer,
        needed_tokens=needed,
    )


def _of_task(entry: TaskPart, limit: float) -> TaskDecision:
    loss, interval = task_loss(entry), loss_interval(entry)
    answer: Answer = "CANNOT_TELL"
    needed = None
    if loss is None or is_beyond(loss, limit):
        answer = "FAIL"
    elif interval is not None and not is_beyond(interval[1], limit):
        answer = "PASS"
    elif interval is not None:
        needed = _needed(entry.samples, loss, interval, limit)
    return TaskDecision(
        task=entry.task,
        language=entry.language,
        metric=entry.metric,
        limit=limit,
        loss=loss,
        interval=interval,
        answer=answer,
        needed_samples=needed,
    )


def _needed(count: int, measured: float, interval: Interval, limit: float) -> int | None:
    """How many tokens or items would settle it: the width falls with the square root of their number."""
    if limit - measured <= _NEAR * (interval[1] - measured):
        return None
    wanted = count * ((interval[1] - measured) / (limit - measured)) ** 2
    unit = 10 ** max(0, math.floor(math.log10(wanted)) - 1)
    return math.ceil(wanted / unit) * unit  # two digits


def _statements(
    answer: Answer, languages: Sequence[LanguageDecision], tasks: Sequence[TaskDecision]
) -> Iterator[Statement]:
    """What is told of all that has one answer."""
    if languages:
        head = _OF_LANGUAGES[answer].format(listed([in_words(each.language) for each in languages]))
        yield Statement(head, tuple(_told(languages)))
    if tasks:
        worst_first = sorted(tasks, key=lambda each: -math.inf if each.loss is None else -each.loss)
        told = _some([_told_of_task(each) for each in worst_first])
        yield Statement(_OF_TASKS[answer].format(tasks[0].limit), tuple(told))
    if answer == "CANNOT_TELL":
        yield from _wanted(languages, tasks)


def _some(texts: Sequence[str]) -> list[str]:
    more = len(texts) - _NAMED_TASKS
    return [*texts[:_NAMED_TASKS], *([f"{more} more"] if more > 0 else [])]


def _told(found: Sequence[LanguageDecision]) -> Iterator[str]:
    for each in found:
        between = f" ({each.interval[0]:+z.2%} to {each.interval[1]:+z.2%})" if each.interval else ""
        subject = "bits per byte" if len(found) == 1 else f"bits per byte of {each.language}"
        yield f"{subject} {each.growth:+z.2%}{between}, limit {each.limit:+z.2%}"


def _told_of_task(found: TaskDecision) -> str:
    if found.loss is None:
        return f"{found.metric} of {found.task} is no number"
    between = f" {interval_in_words(found.loss, found.interval, 3)}" if found.interval else ""
    return f"{found.metric} of {found.task} {loss_in_words(found.loss, 3)}{between}"


def _wanted(languages: Sequence[LanguageDecision], tasks: Sequence[TaskDecision]) -> Iterator[Statement]:
    if languages:
        yield Statement(settling(languages))
    if tasks:
        yield Statement(settling_items(tasks))


def settling(languages: Sequence[LanguageDecision]) -> str:
    """What would settle it for languages of which it cannot be told."""
    tokens, field = _most([each.needed_tokens for each in languages]), "evaluation.tokens_per_language"
    if tokens:
        return f"About {tokens:,} tokens would settle it if the growth stays the same ({field})."
    if all(each.interval for each in languages):
        return "What was lost is so near to the limit that no evaluation of a sensible size will tell."
    return f"Give the evaluation more documents ({field}, evaluation.corpus)."


def settling_items(tasks: Sequence[TaskDecision]) -> str:
    """The same for metrics of tasks."""
    samples = _most([each.needed_samples for each in tasks])
    if samples:
        return f"Raise evaluation.task_limit to about {samples:,}, where tasks have so many items."
    if all(each.interval for each in tasks):
        return "What was lost is so near to the limit that no number of items will tell."
    return "Raise evaluation.task_limit."


def _most(counts: Sequence[int | None]) -> int | None:
    """The largest of numbers that are all known."""
    known = [count for count in counts if count is not None]
    return max(known) if known and len(known) == len(counts) else None
