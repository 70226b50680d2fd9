"""How a comparison of jobs and the outcome of a gate look as text."""

from __future__ import annotations

from collections.abc import Sequence

from secateur._comparison import ComparedJob, Comparison, RelatedJobs
from secateur._gate import Gate, GateLanguage, GateTask
from secateur._language_names import in_words
from secateur._report import TaskReport
from secateur._task_loss import interval_in_words, loss_in_words
from secateur._terminal import clean
from secateur._text import columns, duration, grouped, size
from secateur.cli._languages import language_table, legend

_LANGUAGES_ACROSS = 8
_EQUAL = 0.005
_MOST_PAIRS = 12


def comparison_text(comparison: Comparison) -> str:
    """The jobs, what each language lost in each, and which one to take."""
    parts = [_jobs_text(list(comparison.jobs.values()))]
    parts += [_related_text(comparison.related)] if comparison.related else []
    languages = list(comparison.best)
    parts += [
        _growth_text(comparison, languages[start : start + _LANGUAGES_ACROSS])
        for start in range(0, len(languages), _LANGUAGES_ACROSS)
    ]
    mixes = (language for job in comparison.jobs.values() for language in job.mix)
    parts[-1] = "\n".join(filter(None, (parts[-1], legend([*languages, *mixes]))))
    if any(job.tasks for job in comparison.jobs.values()):
        parts.append(_tasks_text(comparison))
    if comparison.overlaps:
        parts.append(_overlaps_text(comparison))
    advice = comparison.recommendation
    differences = {label: "; ".join(job.differences) for label, job in comparison.jobs.items() if job.differences}
    for labels, reason in grouped(differences):
        parts.append(clean(f"{labels} {_verb(labels, 'does', 'do')} not compare: {reason}"))
    chosen = comparison.recommended
    targets = ", ".join(map(in_words, advice.languages))
    named = f"recommended for {targets}: {chosen.name} ({chosen.label})" if chosen else ""
    lines = [clean(named)] if named else []
    lines += [clean(advice.evidence), *(clean(f"- {caveat}") for caveat in advice.caveats)]
    left_out = {label: reason for label, reason in advice.left_out.items() if label not in differences}
    lines += [
        clean(f"- {labels} {_verb(labels, 'was', 'were')} not considered: {reason}")
        for labels, reason in grouped(left_out)
    ]
    return "\n\n".join([*parts, "\n".join(lines)])


def _verb(labels: str, one: str, several: str) -> str:
    return several if " " in labels else one


def _related_text(related: RelatedJobs) -> str:
    if not related.jobs and not related.unreadable:
        return "there is no other job of the same model with a report"
    lines = [f"{_range(related.jobs)}: the newest other jobs of the same model"] if related.jobs else []
    lines += [f"and {related.left_out} older, left out; name those that matter"] if related.left_out else []
    lines += [f"{name} is left out: {reason}" for name, reason in related.unreadable.items()]
    return clean("; ".join(lines))


def _range(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"


def gate_text(outcome: Gate) -> str:
    """A line for each language and for each metric of a task, then the reason."""
    parts = [_gate_of_languages(outcome)] if outcome.languages else []
    parts += [_gate_of_tasks(outcome)] if outcome.tasks else []
    if outcome.not_limited:
        parts.append(clean(f"not checked, since no amount limits it: {', '.join(outcome.not_limited)}"))
    return "\n".join([*parts, f"{'PASS' if outcome.passed else 'FAIL'}: {clean(outcome.reason)}"])


def _gate_of_languages(outcome: Gate) -> str:
    rows = [
        (
            "PASS" if entry.passed else "FAIL",
            entry.language,
            _times(entry.growth, 4),
            *([_between(entry)] if any(each.interval for each in outcome.languages) else []),
            f"{outcome.measure.replace('_', ' ')} {_figure(entry.dense)} -> {_figure(entry.pruned)}",
        )
        for entry in outcome.languages
    ]
    return language_table(rows, right=[2], tags=1)


def _gate_of_tasks(outcome: Gate) -> str:
    rows = [
        (
            "PASS" if entry.passed else "FAIL",
            entry.task,
            *_loss(entry),
            f"{entry.metric} {_score(entry.dense)} -> {_score(entry.pruned)}",
        )
        for entry in outcome.tasks
    ]
    return columns(rows, right=[2])


def _loss(entry: GateTask) -> tuple[str, str]:
    """The loss and its interval."""
    if entry.loss is None:
        return "-", ""
    between = interval_in_words(entry.loss, entry.interval, 4) if entry.interval else ""
    return loss_in_words(entry.loss, 4), between


def _between(entry: GateLanguage) -> str:
    return f"({entry.interval[0]:.4f} to {entry.interval[1]:.4f})" if entry.interval else ""


def _jobs_text(jobs: Sequence[ComparedJob]) -> str:
    rows = [("", "NAME", "MIX", "WHAT WAS DONE", "PARAMETERS", "NOT ZERO", "SIZE", "PER TOKEN", "TIME")]
    rows += [
        (
            job.label,
            job.name,
            _mix(job),
            "; ".join(job.recipe) + ("" if job.has_checkpoint else "; no checkpoint"),
            str(job.parameters),
            str(job.nonzero_parameters),
            size(job.size_bytes),
            size(job.decoding_bytes),
            "-" if job.seconds is None else duration(job.seconds),
        )
        for job in jobs
    ]
    return columns(rows, right=[4, 5, 6, 7, 8])


def _growth_text(comparison: Comparison, languages: Sequence[str]) -> str:
    rows = [("", *(f"{language}  " for language in languages))]
    for label, job in comparison.jobs.items():
        cells = []
        for language in languages:
            entry = job.languages.get(language)
            if entry is None:
                cells.append("-  ")
                continue
            marks = ("*" if label in comparison.best[language] else " ") + (" " if entry.in_mix else "~")
            cells.append(_times(entry.growth, 3) + marks)
        rows.append((label, *cells))
    measured = "perplexity" if comparison.measure == "perplexity" else "bits per byte, against the best dense model"
    told = f"growth of {measured}; * least of the language; ~ not in the job's mix"
    return f"{columns(rows, right=list(range(1, len(languages) + 1)))}\n{told}"


def _tasks_text(comparison: Comparison) -> str:
    first: dict[tuple[str, str], TaskReport] = {}
    for label, job in comparison.jobs.items():
        for entry in job.tasks:
            first.setdefault((entry.task, label), entry)
    rows = [("TASK", "METRIC", "", "DENSE", "PRUNED", "DIFFERENCE")]
    rows += [
        (task, entry.metric, label, _score(entry.dense), _score(entry.pruned), _change(entry))
        for (task, label), entry in sorted(first.items())
    ]
    return columns(rows, right=[3, 4, 5])


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _change(entry: TaskReport) -> str:
    if entry.difference is None:
        return "-"
    error = "" if entry.difference_stderr is None else f" ± {entry.difference_stderr:.3f}"
    return f"{entry.difference:+z.3f}{error}"


def _overlaps_text(comparison: Comparison) -> str:
    rows = [("", "SHARED", "BY CHANCE", "BEYOND CHANCE")]
    rows += [
        (" ".join(pair.jobs), f"{pair.shared:.3f}", f"{pair.chance:.3f}", f"{pair.beyond_chance:.3f}")
        for pair in sorted(comparison.overlaps, key=lambda pair: -pair.beyond_chance)[:_MOST_PAIRS]
    ]
    left = len(comparison.overlaps) - _MOST_PAIRS
    more = f"\nand {left} more pairs" if left > 0 else ""
    return f"{columns(rows, right=[1, 2, 3])}{more}\nweights that both removed, of those that one of two jobs removed"


def _mix(job: ComparedJob) -> str:
    if max(job.mix.values(), default=1) - min(job.mix.values(), default=1) < _EQUAL:
        return ",".join(job.mix)
    return ",".join(f"{language}={share:.2f}" for language, share in job.mix.items())


def _times(growth: float, digits: int) -> str:
    return f"×{growth:.2e}" if growth >= 1e6 else f"×{growth:.{digits}f}"


def _figure(value: float) -> str:
    return f"{value:.2e}" if value >= 1e6 else f"{value:.4f}"
