"""The report as a page, `report.html`: one file without scripts or external resources, readable on phones and on paper.

Everything that comes from a model, a specification or a text is escaped by the template, and wrapped in a bidirectional
isolate. Unlike report.json, it says when it was made and in what time.
"""

from __future__ import annotations

import functools
import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from secateur._bands import SCALE, growth_digits
from secateur._facts import Run, facts, in_language
from secateur._gravity import GRAVITY
from secateur._language_names import language_name
from secateur._terminal import clean_lines
from secateur._text import digits
from secateur_service.calibration.languages import is_right_to_left
from secateur_service.evaluation.block_parts import LayerPart, NarrowedPart
from secateur_service.evaluation.chart_tables import with_blocks, with_table
from secateur_service.evaluation.charts import (
    COLOURS,
    BarGroup,
    HeatRow,
    IntervalRow,
    grouped_bars,
    heat_map,
    intervals,
    lines,
    uses_log_scale,
)
from secateur_service.evaluation.decision import Statement, statements
from secateur_service.evaluation.language_parts import LanguageAffinityPart, LanguageSurvivalPart
from secateur_service.evaluation.report import Report
from secateur_service.evaluation.task_rows import task_rows
from secateur_service.pruning.methods import label
from secateur_service.records.blocks import Axis

FULL_RATIO_BAR = 2.0  # perplexity growth that fills the bar


def render_html(report: Report, run: Run | None = None) -> bytes:
    """Render the page.

    Args:
        report: The figures.
        run: When it ran; the page does not say without.
    """
    about = [
        entry for entry in report.evaluation if entry.language in (report.headline.languages if report.headline else ())
    ]
    page = environment().get_template("report.html.j2").render(
        report=report,
        name=model_name(report.model.uri),
        recipe=recipe(report),
        statements=_statements(report),
        facts=facts(report.model_dump(mode="json"), run),
        in_language=lambda found: in_language(found and found.model_dump()),
        about=about,
        worst=max(about, key=lambda entry: entry.perplexity_ratio, default=None),
        bands=SCALE,
        full_ratio_bar=FULL_RATIO_BAR,
        colours=_colours(report),
        verdicts=_verdicts(report),
        gravity=GRAVITY,
        has_likeness=all(entry.agreement is not None for entry in report.evaluation),
        log_bars=uses_log_scale(_bars(report)),
        perplexity_chart=grouped_bars(_bars(report), title="Perplexity per language, dense and pruned"),
        growth_chart=_growth_chart(report),
        snr_chart=_snr_chart(report),
        sparsity_chart=_sparsity_chart(report),
        layer_snr_chart=_layer_snr_chart(report),
        narrowed_charts=[
            ("attention layers", "heads", _narrowed_chart(report, "attention", "heads")),
            ("feed-forward layers", "channels", _narrowed_chart(report, "feed_forward", "channels")),
        ],
        training_chart=_training_chart(report),
        sizes=_sizes(report),
        direction=lambda language: "rtl" if is_right_to_left(language) else "ltr",
        tasks=task_rows(report),
        shared=_shared(report),
        not_calibrated=[entry.language for entry in report.evaluation if not entry.in_mix],
        sparsity_range=_range([layer.sparsity for block in report.blocks for layer in block.layers]),
        notes=[(layer.name, layer.notes) for block in report.blocks for layer in block.layers if layer.notes],
        spec_text=json.dumps(report.spec, indent=2, ensure_ascii=False, sort_keys=True),
    )  # fmt: skip
    return page.encode()


def model_name(uri: str) -> str:
    """The last part of a model's URI."""
    return uri.rstrip("/").rpartition("/")[2] or uri


def recipe(report: Report) -> list[str]:
    """What was done to the model, as display text, the most telling first."""
    pruning, found = report.spec["pruning"], []
    if report.vocabulary is not None:
        found.append(f"vocabulary of {report.vocabulary.rows:,} of {report.vocabulary.rows_before:,} tokens")
    if report.removed_blocks:
        found.append(f"{report.output.blocks} of {report.model.blocks} blocks")
    for units, part in narrowed_parts(report):
        found.append(f"{part.kept:,} of {part.before:,} {units}")
    if pruning:
        found.append(label(pruning["method"], pruning["update"]))
        if pruning.get("asymmetric"):
            found.append("towards the dense model's outputs")
        found.append(target(pruning))
    if report.spec.get("reconstruction"):
        norms = " of weights and norms" if report.spec["reconstruction"].get("norms") else ""
        improved = sum(bool(block.reconstruction and block.reconstruction.epoch) for block in report.blocks)
        found.append(f"{improved} of {_count(len(report.blocks), 'block')} improved by training{norms}")
    return found


def narrowed_parts(report: Report) -> Iterator[tuple[str, NarrowedPart]]:
    """What blocks have fewer of, in words, with the numbers; they are equal in all blocks that have the axis."""
    heads = [block.attention for block in report.blocks if block.attention]
    channels = [block.feed_forward for block in report.blocks if block.feed_forward]
    if heads:
        yield "key/value heads", heads[0]
    if channels:
        experts = any(".experts." in layer.name for block in report.blocks for layer in block.layers)
        yield "channels of each expert" if experts else "feed-forward channels", channels[0]


def target(pruning: Mapping[str, Any]) -> str:
    """The target of the pruning, as display text."""
    if pruning.get("pattern"):
        return f"{pruning['pattern']} pattern"
    return f"{100 * pruning['sparsity']:.4g} % sparse"


def row_label(layer: str, block: int) -> str:
    """A layer's name without its block: `model.layers.3.mlp.up_proj.weight` becomes `mlp.up_proj`.

    Experts of a mixture share a row: `mlp.experts.17.up_proj` becomes `mlp.experts.*.up_proj`.
    """
    name = re.sub(rf"^.*?\.{block}\.", "", layer).removesuffix(".weight")
    return re.sub(r"\.experts\.\d+\.", ".experts.*.", name)


def _statements(report: Report) -> list[Statement]:
    """Whether it may ship, in words."""
    if report.decision is None:
        return []
    limit = (report.spec.get("limits") or {}).get("task_loss")
    return statements(report.decision.languages, report.decision.tasks, report.tasks, limit)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _colours(report: Report) -> dict[str, int]:
    """The colour of each language, the same in all plots; languages of the mix come first."""
    languages = [entry.language for entry in report.calibration] + [entry.language for entry in report.evaluation]
    return {language: number % COLOURS for number, language in enumerate(dict.fromkeys(languages))}


def _verdicts(report: Report) -> dict[str, list[str]]:
    """Messages by kind, in the report's order."""
    grouped: dict[str, list[str]] = {}
    for verdict in report.verdicts:
        grouped.setdefault(verdict.kind, []).append(verdict.message)
    return grouped


def _range(values: Sequence[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if values else None


def _bars(report: Report) -> list[BarGroup]:
    return [
        BarGroup(entry.language, entry.dense_perplexity, entry.pruned_perplexity, faded=not entry.in_mix)
        for entry in report.evaluation
    ]


def _growth_chart(report: Report) -> Markup:
    """Growth of bits per byte with its confidence interval; empty where none is known."""
    limits = {found.language: found.limit for found in report.decision.languages} if report.decision else {}
    rows: list[IntervalRow] = []
    for entry in report.evaluation:
        if entry.intervals:
            low, high = entry.intervals.bits_per_byte_growth
            limit = 100 * limits[entry.language] if entry.language in limits else None
            interval = 100 * low, 100 * high
            rows.append(IntervalRow(entry.language, 100 * entry.growth, interval, limit, faded=not entry.in_mix))
    title = "Growth of bits per byte with its 95 % confidence interval, per language"
    figures = [
        (row.label, ["–" if value is None else f"{value:+.2f} %" for value in (row.value, *row.interval, row.limit)])
        for row in rows
    ]
    columns = ["Language", "Growth", "From", "To", "Limit"]
    return with_table(intervals(rows, title=title, unit="%"), title, columns, figures)


def _snr_chart(report: Report) -> Markup:
    series = {
        entry.language: [block.snr_db.get(entry.language) for block in report.blocks] for entry in report.evaluation
    }
    faded = [entry.language for entry in report.evaluation if not entry.in_mix]
    title = "Signal-to-noise ratio after each block, per language"
    return lines(series, _colours(report), title=title, unit="dB", dashed=faded)


def _sparsity_chart(report: Report) -> Markup:
    rows = _layer_rows(report, lambda layer: layer.sparsity)
    title = "Sparsity of every pruned layer"
    return with_blocks(heat_map(rows, title=title, x_label="block"), title, _series(rows), "{:.2%}".format)


def _layer_snr_chart(report: Report) -> Markup:
    rows = _layer_rows(report, lambda layer: min(layer.snr_db.values(), default=None))
    values = [value for row in rows for value in row.values if value is not None]
    if not values:
        return Markup("")
    title = "Signal-to-noise ratio of every pruned layer in the language that it serves worst"
    chart = heat_map(rows, title=title, x_label="block", full=max(1.0, *values), show=lambda value: f"{value:.0f} dB")
    return with_blocks(chart, title, _series(rows), "{:.1f} dB".format)


def _narrowed_chart(report: Report, axis: Axis, units: str) -> Markup:
    """What the projections that read heads or channels lose in each language with those that were removed."""
    narrowed = [getattr(block, axis) for block in report.blocks]
    rows = [
        HeatRow(entry.language, [part.errors.get(entry.language) if part else None for part in narrowed])
        for entry in report.calibration
        if entry.weight > 0
    ]
    values = [value for row in rows for value in row.values if value is not None]
    if not values:
        return Markup("")
    title = f"Error of every block's projection of {units}, per language"
    chart = heat_map(rows, title=title, x_label="block", full=max(1e-6, *values))
    return with_blocks(chart, title, _series(rows), "{:.2%}".format)


def _training_chart(report: Report) -> Markup:
    """How much closer training has brought each block to the dense model, on text that it was not trained on."""
    trained = [block.reconstruction for block in report.blocks]
    nearer = {
        entry.language: [
            100 * (1 - part.after[entry.language] / part.before[entry.language])
            if part and part.before.get(entry.language)
            else None
            for part in trained
        ]
        for entry in report.calibration
        if entry.weight > 0
    }
    title = "Share of the error of the hidden states that training has removed, per block and language"
    return with_blocks(lines(nearer, _colours(report), title=title, unit="%"), title, nearer, "{:.1f} %".format)


def _sizes(report: Report) -> list[tuple[str, int, int]]:
    """What the dense and the output model take, in words and numbers."""
    before, after = report.model, report.output
    found = [
        ("Parameters", before.parameters, after.parameters),
        ("Bytes on disk", before.size_bytes, after.size_bytes),
        ("Bytes of weights read per decoded token", before.decoding_bytes, after.decoding_bytes),
        ("Bytes of keys and values per token of context", before.cache_bytes, after.cache_bytes),
    ]
    return [entry for entry in found if entry[1]]


def _series(rows: Sequence[HeatRow]) -> dict[str, Sequence[float | None]]:
    return {row.label: row.values for row in rows}


def _shared(report: Report) -> list[tuple[str, LanguageAffinityPart | None, LanguageSurvivalPart | None]]:
    """What each evaluated language shares with the mix, and what became of its neurons; empty if neither is known."""
    if report.affinity is None and report.language_neurons is None:
        return []
    affinities = report.affinity.languages if report.affinity else {}
    neurons = {
        entry.language: entry for entry in (report.language_neurons.languages if report.language_neurons else ())
    }
    names = [entry.language for entry in report.evaluation]
    return [(name, affinities.get(name), neurons.get(name)) for name in names]


def _layer_rows(report: Report, figure: Callable[[LayerPart], float | None]) -> list[HeatRow]:
    """A figure for every layer, as rows of layers by blocks; layers that share a row are averaged."""
    cells: dict[str, dict[int, list[float]]] = {}
    for column, block in enumerate(report.blocks):
        for layer in block.layers:
            value = figure(layer)
            row = cells.setdefault(row_label(layer.name, block.index), {})
            if value is not None:
                row.setdefault(column, []).append(value)
    columns = range(len(report.blocks))
    return [
        HeatRow(label, [statistics.fmean(row[column]) if column in row else None for column in columns])
        for label, row in cells.items()
    ]


@functools.cache
def environment() -> Environment:
    """The templates of this package, with the filters that they use."""
    made = Environment(
        loader=PackageLoader("secateur_service.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    made.filters["number"] = lambda value: f"{value:,}"
    made.filters["percent"] = lambda value, digits=2: f"{100 * value:.{digits}f}\u202f%"
    made.filters["digits"] = digits
    made.filters["growth_digits"] = growth_digits
    made.filters["metric"] = _metric
    made.filters["breakable"] = _breakable
    made.filters["signed"] = functools.partial(_metric, sign="+")
    made.filters["language_name"] = language_name
    made.filters["growth"] = lambda share: f"{100 * share:+z.2f}\u202f%"
    return made


def _shown(value: Any) -> Any:
    """Show control characters in untrusted text as escapes, so that it cannot change direction or hide anything."""
    return clean_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(name: str) -> Markup:
    """A long name that a narrow column may break after its underscores."""
    return Markup("_<wbr>").join(clean_lines(name).split("_"))


def _metric(value: float | None, sign: str = "-") -> str:
    """A figure of a task; with sign `+` a difference."""
    return "–" if value is None else digits(value, 3, sign=sign)
