"""A comparison as a page: one file without scripts or external resources, readable on phones, on paper and in the dark.

Everything that comes from a report is escaped by the template, and wrapped in a bidirectional isolate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from secateur._gravity import GRAVITY
from secateur._text import duration, grouped, listed, size
from secateur_service.evaluation.charts import Point, scatter
from secateur_service.evaluation.comparison_parts import Axis, ComparedJob, ComparedLanguage, Comparison, Tradeoff
from secateur_service.evaluation.html import environment, model_name
from secateur_service.evaluation.parts import TaskPart
from secateur_service.evaluation.recommendation import times

EQUAL = 0.005
FULL_GROWTH = 2.0
"""The growth from which a cell's colour is as strong as can be."""

_AXES: dict[Axis, tuple[str, str, str]] = {
    "size_bytes": (
        "Against the size of the checkpoint",
        "bytes of all tensors",
        "Zeros take as much room as any other weight.",
    ),
    "nonzero_parameters": (
        "Against the weights that are left",
        "parameters that are not zero",
        "What counts where zeros are made use of: in sparse kernels, or in compression.",
    ),
    "seconds": ("Against the time that the job took", "time", "From its first start to its end."),
}
_MEASURES = {
    "perplexity": "pruned divided by dense perplexity: ×1 means that nothing was lost",
    "bits_per_byte": "bits per byte divided by the fewest that any of the dense models needs for the language, since "
    "perplexity does not compare between base models",
}


OTHERS_HERE = "<!-- other jobs -->"
"""Where a report's page has a place for a section about other jobs; its texts are escaped and cannot hold this."""


def render_comparison(comparison: Comparison) -> bytes:
    """Render the page."""
    return _render("comparison.html.j2", comparison, heading="h2").encode()


def with_others(page: str, comparison: Comparison) -> str:
    """The page of a report with a section that compares it with others; the report is the comparison's first job.

    Args:
        page: As it was published, perhaps by another release.
        comparison: With `related`.
    """
    style = environment().get_template("comparison.css").render()
    section = _render("others.html.j2", comparison, heading="h3")
    page = page.replace("</style>", f"{style}</style>", 1)
    before, place, after = page.rpartition(OTHERS_HERE if OTHERS_HERE in page else "</main>")
    return f"{before}{section}{place}{after}"


def _render(template: str, comparison: Comparison, *, heading: str) -> str:
    advice = comparison.recommendation
    by_label = {job.label: job for job in comparison.jobs}
    several = len({job.model_digest for job in comparison.jobs}) > 1
    recipes = {job.label: [*([model_name(job.model)] if several else []), *job.recipe] for job in comparison.jobs}
    return environment().get_template(template).render(
        comparison=comparison,
        heading=heading,
        advice=advice,
        chosen=by_label[advice.chosen.job] if advice.chosen else None,
        measure=_MEASURES[comparison.measure],
        models=[model_name(uri) for uri in dict.fromkeys(job.model for job in comparison.jobs)],
        recipes=recipes,
        cells={job.label: {entry.language: entry for entry in job.languages} for job in comparison.jobs},
        tasks=first_metrics(comparison),
        best={column.language: set(column.best) for column in comparison.columns},
        apart=any(job.differences for job in comparison.jobs),
        not_considered=not_considered(comparison),
        plots=[(*_AXES[tradeoff.axis], plot(tradeoff)) for tradeoff in comparison.tradeoffs],
        pairs={pair: entry for entry in comparison.overlaps for pair in (entry.jobs, entry.jobs[::-1])},
        paired=[job.label for job in comparison.jobs if any(job.label in entry.jobs for entry in comparison.overlaps)],
        any_verdicts=any(job.verdicts for job in comparison.jobs),
        gravity=GRAVITY,
        depth=depth,
        mix_parts=mix_parts,
        duration=duration,
        size=size,
        times=times,
        listed=listed,
    )  # fmt: skip


def first_metrics(comparison: Comparison) -> dict[str, dict[str, TaskPart]]:
    """The first metric of each task, by task and job; jobs without the task are left out."""
    found: dict[str, dict[str, TaskPart]] = {}
    for job in comparison.jobs:
        for entry in job.tasks:
            found.setdefault(entry.task, {}).setdefault(job.label, entry)
    return found


def not_considered(comparison: Comparison) -> list[tuple[str, str]]:
    """The jobs that the recommendation leaves out, those with equal reasons together, and the reason."""
    differences = {job.label: "; ".join(job.differences) for job in comparison.jobs}
    reasons = {label: differences[label] or reason for label, reason in comparison.recommendation.left_out.items()}
    return grouped(reasons)


def mix_parts(job: ComparedJob) -> list[str]:
    """The calibration languages, with their shares unless these are equal."""
    if max(job.mix.values(), default=1) - min(job.mix.values(), default=1) < EQUAL:
        return list(job.mix)
    return [f"{language} {share:.0%}" for language, share in job.mix.items()]


def depth(entry: ComparedLanguage) -> float:
    """How strong a cell's colour is: from 0 where nothing was lost to 1, by the logarithm of the growth."""
    return min(max(math.log(max(entry.growth, 1.0)) / math.log(FULL_GROWTH), 0.0), 1.0)


def plot(tradeoff: Tradeoff) -> Markup:
    """What the jobs lost against what they take."""
    heading, label, _ = _AXES[tradeoff.axis]
    return scatter(
        [Point(point.job, point.amount, point.growth, point.optimal) for point in tradeoff.points],
        title=f"Growth in the worst language. {heading}",
        x_label=label,
        y_label="growth, worst language",
        show_x=_SHOW[tradeoff.axis],
        show_y=times,
    )


def _scaled(number: float, units: Sequence[str]) -> str:
    """A number with four digits, so that neighbouring ticks of an axis do not look alike."""
    for unit in units[:-1]:
        if number < 1000:
            return f"{number:.4g}{unit}"
        number /= 1000
    return f"{number:.4g}{units[-1]}"


_SHOW: dict[Axis, Callable[[float], str]] = {
    "size_bytes": lambda number: _scaled(number, (" B", " kB", " MB", " GB")),
    "nonzero_parameters": lambda number: _scaled(number, ("", "k", "M", "B")),
    "seconds": lambda number: f"{number:.4g} s" if number < 60 else duration(number),
}
