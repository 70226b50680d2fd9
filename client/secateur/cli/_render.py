"""How jobs, events, plans and results look: as text for people, as one JSON object a line for machines."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

from ruamel.yaml import YAML

from secateur._artifact import CorpusPreset, ServiceInfo
from secateur._event import BlockEvent, Event, LogEvent, ProgressEvent, SnapshotEvent, StageEvent, StateEvent
from secateur._job import Failure, Job, JobStage, Plan, Progress, PublishedResult
from secateur._report import Report
from secateur._terminal import clean
from secateur._text import columns, duration, size

_MOST_LANGUAGES = 12


def to_json(value: Any) -> str:
    """A value as JSON on one line, of ASCII only, which no encoding and no terminal minds.

    Numbers that are not finite become the texts NaN, Infinity and -Infinity.
    """
    return json.dumps(_jsonable(value), allow_nan=False)


def event_json(event: Event) -> str:
    """An event as JSON on one line, its kind first."""
    return to_json({"event": event.kind, **_jsonable(event)})


def job_text(job: Job) -> str:
    """All that matters about a job."""
    rows = [("state", job.state.value)]
    if job.stage is not JobStage.UNSPECIFIED:
        rows.append(("stage", job.stage.value))
    if job.progress is not None and not job.state.is_terminal:
        rows.append(("progress", progress_text(job.progress)))
    rows.append(("attempt", f"{job.attempt} of {job.max_attempts}"))
    for title, time in (("created", job.create_time), ("started", job.start_time), ("ended", job.end_time)):
        if time is not None:
            rows.append((title, f"{time:%Y-%m-%d %H:%M:%S} UTC"))
    if job.retry_of is not None:
        rows.append(("retry of", job.retry_of))
    rows += [("label", f"{key}={value}") for key, value in sorted(job.labels.items())]
    if job.failure is not None:
        rows.append(("failure", failure_text(job.failure)))
    if job.result is not None:
        rows.append(("manifest", job.result.manifest_uri))
    text = f"{clean(job.name)}\n{columns(rows)}\n\n{yaml_text(job.resolved_spec)}"
    return f"{text}\n\n{result_text(job.result)}" if job.result is not None else text


def jobs_text(jobs: list[Job]) -> str:
    """A table of jobs."""
    titles = ["NAME", "STATE", "PROGRESS", "CREATED (UTC)", "MODEL", "LANGUAGES"]
    labelled = any(job.labels for job in jobs)
    rows = [[*titles, "LABELS"] if labelled else titles]
    for job in jobs:
        calibration = job.resolved_spec.get("calibration", {})
        done = f"{job.progress.fraction:.0%}" if job.progress is not None else "-"
        created = f"{job.create_time:%Y-%m-%d %H:%M:%S}" if job.create_time else "-"
        model = job.resolved_spec.get("model", {}).get("uri", "-")
        row = [job.name, job.state.value, done, created, model, ",".join(_languages(calibration))]
        labels = ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))
        rows.append([*row, labels] if labelled else row)
    return columns(rows, right=[2])


def plan_text(plan: Plan) -> str:
    """What a specification would do."""
    cost = plan.estimate
    rows = [
        ("checkpoint", size(cost.checkpoint_bytes)),
        ("host memory", size(cost.peak_host_bytes)),
        ("device memory", size(cost.peak_device_bytes) if cost.peak_device_bytes else "none, runs on the CPU"),
        ("disk", size(cost.disk_bytes)),
        ("operations", f"{cost.flops:.2e} FLOP"),
    ]
    shrink = plan.resolved_spec.get("shrink")
    if shrink and cost.parameters:
        most = "at most " if "budget" in shrink or cost.output_parameters >= cost.parameters else ""
        share = 1 - cost.output_parameters / cost.parameters
        less = f" of {cost.parameters:,} ({share:.1%} fewer)" if share else ""
        rows.append(("result", f"{most}{size(cost.output_bytes)}, {cost.output_parameters:,} parameters{less}"))
    return f"{yaml_text(plan.resolved_spec)}\n\n{_tokens_text(plan.resolved_spec)}\n\n{columns(rows)}"


def _tokens_text(spec: Mapping[str, Any]) -> str:
    """How many tokens of each language are calibrated on and evaluated, as a table."""
    mix, evaluation = spec["calibration"], spec["evaluation"]
    length = mix["sequence_length"]
    weights = mix["languages"]
    sequences = {language: mix["samples"] // len(weights) for language in weights}
    windows = dict.fromkeys(evaluation["languages"], evaluation["tokens_per_language"] // length)
    rows = [("LANGUAGE", "WEIGHT", "CALIBRATION TOKENS", "EVALUATION TOKENS")]
    rows += [
        (
            language,
            f"{weights.get(language, 0):.4f}",
            f"{sequences.get(language, 0) * length}",
            f"{windows.get(language, 0) * length}",
        )
        for language in {**weights, **windows}
    ]
    return columns(rows, right=[1, 2, 3])


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
            _figure(entry.perplexity_ratio),
            *([bands.get(entry.language, "-")] if bands else []),
            f"{entry.dense_bits_per_byte:.4f}",
            f"{entry.pruned_bits_per_byte:.4f}",
        ]
        for entry in result.languages.values()
    ]
    lines = [columns(rows, right=[1, 2, 3, len(rows[0]) - 2, len(rows[0]) - 1])]
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
    return [columns(rows, right=[3, 4, 5, 6, 7])]


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


def preset_text(preset: CorpusPreset) -> str:
    """A corpus with all its languages."""
    return columns(
        [
            ("title", preset.title),
            ("data set", f"hf://datasets/{preset.repository}"),
            ("license", preset.license),
            ("gated", "yes, the service's account has to accept its terms" if preset.gated else "no"),
            ("verified", "yes" if preset.verified else "no, `secateur-service presets --check` asks the hub"),
            ("languages", " ".join(preset.languages)),
        ]
    )


def event_text(event: Event) -> str:
    """An event on one line."""
    match event:
        case SnapshotEvent(job=job):
            details = [] if job.stage is JobStage.UNSPECIFIED else [job.stage.value]
            if job.progress is not None and not job.state.is_terminal:
                details.append(progress_text(job.progress))
            text = ", ".join([f"{job.name} is {job.state}", *details])
        case StateEvent(state=state, message=message, failure=failure):
            detail = failure_text(failure) if failure is not None else message
            text = f"{state}: {detail}" if detail else state.value
        case StageEvent(stage=stage):
            text = f"stage {stage}"
        case ProgressEvent(progress=progress):
            text = progress_text(progress)
        case BlockEvent(index=index, sparsity=sparsity, seconds=seconds, snr_db=snr_db):
            quality = "".join(f", {language} {value:.1f} dB" for language, value in sorted(snr_db.items()))
            text = f"block {index} pruned: sparsity {sparsity:.4f}, {seconds:.1f} s{quality}"
        case LogEvent():
            text = log_text(event)
        case _:
            text = event.kind
    return clean(text)


def log_text(event: LogEvent) -> str:
    """A log line."""
    fields = "".join(f" {key}={value}" for key, value in sorted(event.fields.items()))
    return clean(f"[{event.level}] {event.message}{fields}")


def progress_text(progress: Progress) -> str:
    """How far a job is."""
    text = f"{progress.fraction:.0%}"
    if progress.blocks_total:
        text += f", block {progress.blocks_done} of {progress.blocks_total}"
    if progress.eta_seconds is not None:
        text += f", about {duration(progress.eta_seconds)} left"
    return text


def failure_text(failure: Failure) -> str:
    """Why something failed."""
    return f"{failure.reason}: {failure.message}"


def yaml_text(spec: Mapping[str, Any]) -> str:
    """A specification in its YAML form."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(dict(spec), stream)
    return stream.getvalue().rstrip()


def _languages(calibration: Mapping[str, Any]) -> list[str]:
    mix = calibration.get("languages", {})
    return list(mix) if isinstance(mix, Mapping) else [entry["language"] for entry in mix]


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _jsonable(asdict(value))
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
