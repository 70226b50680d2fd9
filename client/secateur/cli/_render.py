"""How jobs, events, plans and results look: as text for people, as one JSON object a line for machines."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

from ruamel.yaml import YAML

from secateur._artifact import Architecture, CorpusPreset, ServiceInfo
from secateur._bands import growth_digits
from secateur._event import Event
from secateur._job import Bound, Estimate, Plan, PublishedResult, Slot
from secateur._language_names import in_words
from secateur._report import Report
from secateur._terminal import clean
from secateur._text import columns, duration, size
from secateur.cli._languages import language_table

_MOST_LANGUAGES = 12
_ESTIMATED_FROM_SECONDS = 60


def to_json(value: Any) -> str:
    """A value as JSON on one line, of ASCII only, which no encoding and no terminal minds.

    Numbers that are not finite become the texts NaN, Infinity and -Infinity.
    """
    return json.dumps(_jsonable(value), allow_nan=False)


def event_json(event: Event) -> str:
    """An event as JSON on one line, its kind first."""
    return to_json({"kind": event.kind, **_jsonable(event)})


def plan_text(plan: Plan) -> str:
    """What a specification would do."""
    cost = plan.estimate
    there = cost.slot or Slot(0, 0, 0)
    device = _of(cost.peak_device_bytes, there.device_bytes) if cost.peak_device_bytes else "none, runs on the CPU"
    rows = [
        ("checkpoint", size(cost.checkpoint_bytes)),
        ("host memory", _of(cost.peak_host_bytes, there.host_bytes)),
        ("device memory", device),
        ("disk", _of(cost.disk_bytes, there.disk_bytes)),
        ("operations", f"{cost.flops:.2e} FLOP"),
    ]
    rows += [("time", _time(cost, name)) for name in cost.seconds]
    if cost.growth_margin:
        margin = f"from short documents, the growth of perplexity is usually known to ±{cost.growth_margin:.1%}"
        enough = plan.resolved_spec["evaluation"].get("enough_documents")
        ends = f", fewer once these are {enough:,} documents" if enough else ""
        rows.append(("evaluation", f"{_evaluated(plan.resolved_spec)} tokens of each language{ends}; {margin}"))
    shrink = plan.resolved_spec.get("shrink")
    if shrink and cost.parameters:
        most = "at most " if "budget" in shrink or cost.output_parameters >= cost.parameters else ""
        share = 1 - cost.output_parameters / cost.parameters
        less = f" of {cost.parameters:,} ({share:.1%} fewer)" if share else ""
        rows.append(("result", f"{most}{size(cost.output_bytes)}, {cost.output_parameters:,} parameters{less}"))
    text = f"{yaml_text(plan.resolved_spec)}\n\n{_tokens_text(plan.resolved_spec)}\n\n{columns(rows)}"
    warnings = "\n".join(f"warning: {clean(warning)}" for warning in cost.warnings)
    return f"{text}\n\n{warnings}" if warnings else text


_BOUNDS = {
    Bound.COMPUTING: "bound by computing",
    Bound.READING: "bound by reading weights",
    Bound.WRITING: "bound by writing weights",
}


def _time(cost: Estimate, name: str) -> str:
    """The expected time on a class of device, and what bounds it."""
    bound = _BOUNDS.get(cost.bounds.get(name, Bound.UNSPECIFIED))
    return f"{_roughly(cost.seconds[name])} on {clean(name)}{f', {bound}' if bound else ''}"


def _roughly(seconds: float) -> str:
    """An expected time; below a minute, what is not estimated weighs more than what is."""
    return f"about {duration(seconds)}" if seconds >= _ESTIMATED_FROM_SECONDS else "a minute or less"


def _of(needed: int, there: int) -> str:
    """What is needed, of what a slot has if that is known."""
    return f"{size(needed)} of {size(there)}" if there else size(needed)


def _evaluated(spec: Mapping[str, Any]) -> str:
    """Tokens of each evaluated language, in whole sequences."""
    length, evaluation = spec["calibration"]["sequence_length"], spec["evaluation"]
    asked = evaluation["tokens_per_language"]
    most, least = (max(tokens // length, 1) * length for tokens in (asked, asked // 4))
    return f"{least:,} to {most:,}" if evaluation.get("enough_documents") and least < most else f"{most:,}"


def _tokens_text(spec: Mapping[str, Any]) -> str:
    """How many tokens of each language are calibrated on and evaluated, as a table."""
    mix, evaluation = spec["calibration"], spec["evaluation"]
    length = mix["sequence_length"]
    weights = mix["languages"]
    sequences = {language: mix["samples"] // len(weights) for language in weights}
    evaluated = dict.fromkeys(evaluation["languages"], _evaluated(spec))
    rows = [("LANGUAGE", "WEIGHT", "CALIBRATION TOKENS", "EVALUATION TOKENS")]
    rows += [
        (
            language,
            f"{weights.get(language, 0):.4f}",
            f"{sequences.get(language, 0) * length:,}",
            evaluated.get(language, "0"),
        )
        for language in {**weights, **evaluated}
    ]
    return language_table(rows, right=[1, 2, 3])


def _figure(value: float) -> str:
    return f"{value:.2e}" if abs(value) >= 1e6 else f"{value:.3f}"


def result_text(result: PublishedResult, bands: Mapping[str, str] | None = None) -> str:
    """What pruning cost each language, as a table; with how much that is in a word, if that is known."""
    loss = ["LOSS"] if bands else []
    rows = [["LANGUAGE", "DENSE PPL", "PRUNED PPL", "RATIO", *loss, "DENSE BITS/BYTE", "PRUNED BITS/BYTE"]]
    rows += [
        [
            entry.language,
            _figure(entry.dense_perplexity),
            _figure(entry.pruned_perplexity),
            growth_digits(entry.perplexity_ratio, 3),
            *([bands.get(entry.language, "-")] if bands else []),
            f"{entry.dense_bits_per_byte:.4f}",
            f"{entry.pruned_bits_per_byte:.4f}",
        ]
        for entry in result.languages.values()
    ]
    lines = [language_table(rows, right=[1, 2, 3, len(rows[0]) - 2, len(rows[0]) - 1])]
    if result.sparsity or result.parameters == result.dense_parameters:
        lines.append(f"sparsity {result.sparsity:.4f}")
    if result.parameters != result.dense_parameters:
        less = 1 - result.parameters / result.dense_parameters
        lines.append(f"parameters {result.parameters} of {result.dense_parameters}, {less:.1%} fewer")
    return "\n".join(lines)


def task_lines(report: Report) -> list[str]:
    """What pruning cost in every metric of the tasks, as a table; empty if the job had none."""
    if not report.tasks:
        return []

    def with_error(value: float | None, error: float | None) -> str:
        shown = "-" if value is None else _figure(value)
        return shown if error is None else f"{shown} ± {_figure(error)}"

    rows = [("TASK", "LANGUAGE", "METRIC", "ITEMS", "DENSE", "PRUNED", "DIFFERENCE", "FLIPS")]
    rows += [
        (
            clean(entry.task),
            clean(entry.language or "-"),
            clean(entry.metric),
            f"{entry.samples:.0f}",
            with_error(entry.dense, entry.dense_stderr),
            with_error(entry.pruned, entry.pruned_stderr),
            with_error(entry.difference, entry.difference_stderr),
            "-" if entry.flips is None else f"{entry.flips:.1%}",
        )
        for entry in report.tasks
    ]
    return [language_table(rows, right=[3, 4, 5, 6, 7], tags=1)]


def continuation_lines(report: Report) -> list[str]:
    """One line on how both models continue texts, over all languages; empty if the job was told not to.

    Off-language texts are counted, as a rate of so few would mislead, and only where both models have any to judge.
    """
    found = report.continuations.values()
    if not found:
        return []

    def mean(values: list[float | None]) -> str:
        known = [value for value in values if value is not None]
        return f"{sum(known) / len(known):.0%}" if known else "-"

    repeated = [mean([each.dense_repetition for each in found]), mean([each.pruned_repetition for each in found])]
    dense = [(each.dense_off_language, each.dense_judged) for each in found if each.dense_judged]
    pruned = [(each.pruned_off_language, each.pruned_judged) for each in found if each.pruned_judged]
    off = [
        f"{sum(round((rate or 0) * judged) for rate, judged in side)} of {sum(judged for _, judged in side)}"
        for side in (dense, pruned)
    ]
    texts = sum(len(each.texts) for each in found)
    rates = f"repetition {' -> '.join(repeated)}"
    if dense and pruned:
        rates += f", off-language {' -> '.join(off)} judged"
    return [f"{texts} texts continued, dense -> pruned: {rates}; report.html shows them"]


def verdict_lines(report: Mapping[str, Any]) -> list[str]:
    """What the figures of a report mean, one line each; first, whether the result may ship."""
    decision = report.get("decision")
    answer = [clean(decision["sentence"])] if decision else []
    return answer + [clean(f"- {verdict['message']}") for verdict in report.get("verdicts", ())]


def info_text(info: ServiceInfo) -> str:
    """What a service can do."""
    rows = [("version", info.version)]
    for title, values in (
        ("methods", info.methods),
        ("updates", info.updates),
        ("orders", info.orders),
        ("policies", info.policies),
        ("allocations", info.allocations),
        ("architectures", info.architectures),
        ("devices", info.devices),
        ("file roots", info.file_roots),
        ("destinations", info.destinations),
    ):
        rows.append((title, ", ".join(values) or "none"))
    rows.append(("largest request", size(info.max_request_bytes)))
    for preset in info.presets:
        languages = ", ".join(preset.languages[:_MOST_LANGUAGES])
        more = ", ..." if len(preset.languages) > _MOST_LANGUAGES else ""
        rows.append((f"corpus {preset.name}", f"{preset.title}, {len(preset.languages)} languages: {languages}{more}"))
    return columns(rows)


def architecture_text(found: Architecture) -> str:
    """What a service knows of an architecture."""
    name = clean(found.model_type)
    if found.supported:
        rows = [("class", found.class_name)]
        if found.text_models:
            rows += [("text models", ", ".join(found.text_models)), ("vision towers", ", ".join(found.towers))]
        rows += [("pruned", found.layers[0] if found.layers else "nothing")]
        rows += [("", layers) for layers in found.layers[1:]]
        rows.append(("left as it is", ", ".join(found.excluded_tensors) or "no matrix of a block"))
        rows.append(("shrink", ", ".join(found.axes)))
        excepted = f", except {found.excepted}\n" if found.excepted else "; "
        return f"{name} models can be pruned{excepted}layers of one line share an input\n{columns(rows)}"
    known = "" if found.known else ", and transformers has no such models either"
    lines = [f"{name} models cannot be pruned{known}"]
    if found.obstacles:
        lines.append("blocks run one at a time, on hidden states alone, and in these models")
        lines += [f"  {clean(obstacle)}" for obstacle in found.obstacles]
    if found.nearest and found.known:
        lines.append(f"nearest, by the fields of its configuration: {found.nearest}")
    elif found.nearest:
        lines.append(f"did you mean {found.nearest}?")
    if found.known:
        lines.append(
            "what it takes: a row that names the layers of a block by the input that they share, the shapes that its\n"
            "configuration implies, and a tiny model that all tests go over; 'An architecture' in docs/extending.md"
        )
    return "\n".join(lines)


def preset_text(preset: CorpusPreset) -> str:
    """A corpus with all its languages."""
    return columns(
        [
            ("title", preset.title),
            ("data set", f"hf://datasets/{preset.repository}"),
            ("license", preset.license),
            ("gated", "yes, the service's account has to accept its terms" if preset.gated else "no"),
            ("verified", "yes" if preset.verified else "no, `secateur-service presets --check` asks the hub"),
            ("languages", ", ".join(map(in_words, preset.languages))),
        ]
    )


def event_text(event: Event) -> str:
    """An event on one line."""
    return clean(str(event))


def yaml_text(spec: Mapping[str, Any]) -> str:
    """A specification in its YAML form."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(dict(spec), stream)
    return stream.getvalue().rstrip()


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: _jsonable(getattr(value, field.name)) for field in fields(value)}
        return own | {"growth": _jsonable(value.growth)} if isinstance(value, PublishedResult) else own
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
