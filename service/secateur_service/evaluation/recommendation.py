"""Which of the compared jobs to take for some languages, why, and what that does not show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from secateur._text import digits, listed, size
from secateur_service.evaluation.comparison_parts import ComparedJob, Contender, Measure, Recommendation
from secateur_service.evaluation.parts import Interval

SHOWN_DIGITS = 3
"""Digits of a growth that are shown; jobs that look the same there are told apart by size."""

_NOT_TASKS = "Perplexity says what a model predicts, not what it can do: measure the tasks that you ship."
_TASKS_NOT_WEIGHED = "Perplexity decided, and not the tasks: look at what became of those."
_ONE_RUN = "Each job is one run on one sample of text: a small difference may be chance."
_OTHER_TEXT = "Each job is one run, and intervals say nothing of text of another kind."


def growths(job: ComparedJob, languages: Iterable[str]) -> dict[str, float] | None:
    """The growth of each of the languages; None if the job did not evaluate all of them."""
    found = {entry.language: entry.growth for entry in job.languages}
    wanted = list(languages)
    return {language: found[language] for language in wanted} if wanted and found.keys() >= set(wanted) else None


def times(growth: float) -> str:
    """A growth as display text."""
    return f"×{digits(growth, SHOWN_DIGITS)}"


def contender_of(job: ComparedJob, languages: Iterable[str]) -> Contender | None:
    """The language that loses most; None if the job did not evaluate all of them."""
    found = growths(job, languages)
    if found is None:
        return None
    worst = max(found, key=lambda language: found[language])
    return Contender(job=job.label, language=worst, growth=found[worst])


def recommend(
    jobs: Sequence[ComparedJob],
    languages: Sequence[str],
    *,
    stated: bool,
    max_growth: float | None,
    measure: Measure,
    same_models: Sequence[Sequence[str]] = (),
) -> Recommendation:
    """Recommend one of the jobs.

    Args:
        jobs: All jobs, those that do not compare too.
        languages: That the job has to serve.
        stated: Whether the caller named them.
        max_growth: What each of them may lose at most, as a ratio; see `comparison.compare`.
        measure: What growth is of.
        same_models: Labels of jobs whose models are the same, although their mixes differ.
    """
    left_out, contenders = {}, []
    for job in jobs:
        contender = contender_of(job, languages)
        if job.differences:
            left_out[job.label] = f"its figures do not compare: {'; '.join(job.differences)}"
        elif not job.has_checkpoint:
            left_out[job.label] = "a limit of the specification is exceeded, and there is no checkpoint"
        elif contender is None and languages:
            missing = [language for language in languages if growths(job, [language]) is None]
            left_out[job.label] = f"{listed(missing)} {'was' if len(missing) == 1 else 'were'} not evaluated"
        elif contender is not None:
            contenders.append((job, contender))
    within = [(job, contender) for job, contender in contenders if max_growth is None or contender.growth <= max_growth]

    def order(entry: tuple[ComparedJob, Contender]) -> tuple[float, ...]:
        job, contender = entry
        size_, loss = (job.size_bytes, job.nonzero_parameters), (round(contender.growth, SHOWN_DIGITS),)
        return (*loss, *size_) if max_growth is None else (*size_, *loss)

    ranked = sorted(within, key=order)
    chosen = ranked[0] if ranked else None
    return Recommendation(
        languages=tuple(languages),
        stated=stated,
        max_growth=max_growth,
        chosen=chosen[1] if chosen else None,
        runner_up=ranked[1][1] if len(ranked) > 1 else None,
        evidence=_evidence(ranked, contenders, languages, max_growth, measure),
        caveats=(*_caveats(ranked, languages, measure), *map(_mixes_without_effect, same_models)),
        left_out=left_out,
    )


def _evidence(
    ranked: Sequence[tuple[ComparedJob, Contender]],
    contenders: Sequence[tuple[ComparedJob, Contender]],
    languages: Sequence[str],
    max_growth: float | None,
    measure: Measure,
) -> str:
    if not languages:
        return "There is no language that every job evaluated: name the languages that the model has to serve."
    if not contenders:
        return f"No job with a checkpoint and comparable figures evaluated {listed(languages)}."
    figure = "perplexity grows" if measure == "perplexity" else "bits per byte grow"
    if not ranked:
        _, nearest = min(contenders, key=lambda entry: entry[1].growth)
        return (
            f"No job keeps {listed(languages)} within ×{max_growth:.15g}: the nearest, {nearest.job}, has "
            f"{_worst(nearest)}."
        )
    job, best = ranked[0]
    cost = f"where {figure} at most {_worst(best)}"
    follows = f"; {ranked[1][1].job} follows with {_worst(ranked[1][1])}" if len(ranked) > 1 else ""
    if max_growth is None and not follows:
        only = f"{best.job} is the only one of those that compare which has a checkpoint and evaluated"
        return f"{only} {listed(languages)}, {cost}."
    if max_growth is None:
        least = listed(languages) if len(languages) == 1 else f"Of {listed(languages)}, the one that loses most"
        return f"{least} loses least in {best.job}, {cost}{follows}."
    within = f"{listed(languages)} within ×{max_growth:.15g}"
    if not follows:
        return f"{best.job} is the only one that keeps {within}: {_sizes(job)}, {cost}."
    second = ranked[1][0]
    if (job.size_bytes, job.nonzero_parameters) == (second.size_bytes, second.nonzero_parameters):
        return f"{best.job} loses least of the smallest that keep {within}: {_sizes(job)}, {cost}{follows}."
    rank = f"the smallest of {len(ranked)} that keep"
    return f"{best.job} is {rank} {within}: {_sizes(job)}, {cost}{follows} and {_sizes(second)}."


def _mixes_without_effect(same: Sequence[str]) -> str:
    return (
        f"{listed(same)} are the same model: their method looks at the weights alone, and never at the mix. A method "
        "that does, such as wanda, can keep more of the languages of a mix."
    )


def _bounds(job: ComparedJob, contender: Contender) -> Interval | None:
    """The interval of the language that loses most."""
    return next(entry.interval for entry in job.languages if entry.language == contender.language)


def _worst(contender: Contender) -> str:
    return f"{times(contender.growth)} ({contender.language})"


def _sizes(job: ComparedJob) -> str:
    if job.nonzero_parameters == job.parameters:
        return size(job.size_bytes)
    return f"{size(job.size_bytes)} with {job.nonzero_parameters:,} weights that are not zero"


def _caveats(
    ranked: Sequence[tuple[ComparedJob, Contender]], languages: Sequence[str], measure: Measure
) -> Iterable[str]:
    if not ranked:
        return
    job, contender = ranked[0]
    yield _TASKS_NOT_WEIGHED if job.tasks else _NOT_TASKS
    bounds = _bounds(job, contender)
    yield _OTHER_TEXT if bounds else _ONE_RUN
    alike = []
    for other, _ in ranked[1:]:
        their_bounds = _bounds(other, contender)
        if bounds and their_bounds and bounds[0] <= their_bounds[1] and their_bounds[0] <= bounds[1]:
            alike.append(other.label)
    if alike:
        yield (
            f"{contender.language}, of which {job.label} loses most: {listed([job.label, *alike])} may have lost as "
            "much, by their confidence intervals."
        )
    if measure == "bits_per_byte":
        yield (
            "The jobs have different base models: each is measured in bits per byte against the dense model that "
            "needs the fewest for the language. Their text was chosen alike, but as many tokens are not as much text."
        )
    outside = [entry.language for entry in job.languages if entry.language in languages and not entry.in_mix]
    if outside:
        yield f"{job.label} was not calibrated on {listed(outside)}: what it kept, it kept by accident."
    if apart := _asked_otherwise(job for job, _ in ranked):
        yield f"{listed(apart)}: not all jobs were asked the same items, so these figures do not compare."
    for kind, told in (
        ("SAMPLE_TOO_SMALL", "few tokens were scored, and the figures are rough"),
        ("OTHER_LANGUAGE", "some of its text seems to be in another language"),
    ):
        named = [language for language in job.verdicts.get(kind, ()) if language in languages]
        if named:
            yield f"{listed(named)}: {told}."


def _asked_otherwise(jobs: Iterable[ComparedJob]) -> list[str]:
    """The tasks whose items are not the same in all jobs that say which they had."""
    items: dict[str, set[str]] = {}
    for job in jobs:
        for entry in job.tasks:
            if entry.items:
                items.setdefault(entry.task, set()).add(entry.items)
    return [task for task, digests in items.items() if len(digests) > 1]
