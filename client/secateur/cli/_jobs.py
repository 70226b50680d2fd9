"""How jobs look as text: in a list that fits the terminal, and one of them in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from secateur._job import Job, JobStage, JobState
from secateur._report import Report
from secateur._terminal import clean
from secateur._text import columns, duration
from secateur.cli._render import result_text, verdict_lines, yaml_text
from secateur.cli._table import Column, fitted

_EQUAL = 0.005
_DAY = 86_400


def jobs_text(jobs: Sequence[Job], width: int | None) -> str:
    """A table of jobs, as wide as the terminal at most; ids are never cut."""
    now = datetime.now(UTC)
    table = [
        Column("ID", [job.id for job in jobs], rank=0),
        Column("STATE", [_state(job) for job in jobs], rank=1),
        Column("CREATED (UTC)", [_created(job, now) for job in jobs], rank=5),
        Column("TIME", [_time(job, now) for job in jobs], rank=6, right=True),
        Column("MODEL", [model_of(job) for job in jobs], rank=3, least=12),
        Column("METHOD", [method_of(job) for job in jobs], rank=4, least=14),
        Column("GROWTH", [_growth(job) for job in jobs], rank=2, right=True),
        Column("MIX", [_mix(job) for job in jobs], rank=7, least=10),
    ]
    if any(job.waiting for job in jobs):
        table.append(Column("WAITS", [job.waiting or "" for job in jobs], rank=2, least=24))
    if any(job.labels for job in jobs):
        table.append(Column("LABELS", [_labels(job) for job in jobs], rank=8, least=12))
    return fitted(table, width)


def job_text(job: Job, report: Report | None = None) -> str:
    """All that matters about a job; with its report, what the figures mean."""
    now = datetime.now(UTC)
    rows = [("state", job.state.value)]
    if job.waiting is not None:
        rows.append(("waits", job.waiting))
    if job.stage is not JobStage.UNSPECIFIED:
        rows.append(("stage", job.stage.value))
    if job.progress is not None and not job.state.is_terminal:
        progress = job.progress if job.state is JobState.RUNNING else replace(job.progress, eta_seconds=None)
        rows.append(("progress", str(progress)))
    rows.append(("time", _time(job, now)))
    rows.append(("attempt", f"{job.attempt} of {job.max_attempts}"))
    for title, time in (("created", job.create_time), ("started", job.start_time), ("ended", job.end_time)):
        if time is not None:
            rows.append((title, f"{time:%Y-%m-%d %H:%M:%S} UTC"))
    rows += [
        ("model", job.resolved_spec.get("model", {}).get("uri", "-")),
        ("mix", ", ".join(f"{language} {weight:.0%}" for language, weight in _shares(job).items())),
        ("method", method_of(job)),
    ]
    if job.worst_growth is not None:
        language, growth = job.worst_growth
        rows.append(("worst growth", f"{_times(growth)} in {language}, perplexity against the dense model"))
    if job.retry_of is not None:
        rows.append(("retry of", job.retry_of))
    rows += [("label", f"{key}={value}") for key, value in sorted(job.labels.items())]
    if job.failure is not None:
        rows.append(("failure", str(job.failure)))
    if job.result is not None:
        rows.append(("manifest", job.result.manifest_uri))
    parts = [f"{clean(job.name)}\n{columns(rows)}"]
    if job.result is not None:
        parts.append(result_text(job.result))
    if report is not None and (told := verdict_lines(report)):
        parts.append("\n".join(told))
    return "\n\n".join([*parts, yaml_text(job.resolved_spec)])


def model_of(job: Job) -> str:
    """The short name of a job's model."""
    uri = str(job.resolved_spec.get("model", {}).get("uri", ""))
    return uri.rstrip("/").rpartition("/")[2] or "-"


def method_of(job: Job) -> str:
    """What a job does to the model, and how much goes: `sparsegpt 50%`, `wanda 2:4`, `vocabulary 64000 rows`."""
    parts = []
    pruning = job.resolved_spec.get("pruning")
    if pruning:
        amount = pruning.get("pattern") or f"{float(pruning.get('sparsity', 0)):.4g}"
        parts.append(f"{pruning.get('method', '')} {amount}".strip())
    shrink = job.resolved_spec.get("shrink")
    if shrink:
        parts += [_removal(part, value) for part, value in shrink.items() if part in _REMOVALS]
    return " + ".join(parts) or "-"


_REMOVALS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "budget": (("parameters", "to {:.4g} of the parameters"),),
    "vocabulary": (("rows", "vocabulary of {}"), ("extra_tokens", "vocabulary, {:.4g} more tokens")),
    "feed_forward": (("share", "feed-forward -{:.4g}"), ("channels", "feed-forward of {}")),
    "blocks": (("remove", "-{} blocks"),),
    "kv_heads": (("remove", "-{} kv heads"),),
    "plan": (),
}


def _removal(part: str, value: Any) -> str:
    if isinstance(value, Mapping):
        for field, form in _REMOVALS[part]:
            if value.get(field) is not None:
                return form.format(value[field])
    return "another job's plan" if part == "plan" else part.replace("_", " ")


def _state(job: Job) -> str:
    running = job.state is JobState.RUNNING and job.progress is not None
    return f"{job.state} {job.progress.fraction:.0%}" if running and job.progress else job.state.value


def _created(job: Job, now: datetime) -> str:
    if job.create_time is None:
        return "-"
    recent = (now - job.create_time).total_seconds() < 300 * _DAY
    return f"{job.create_time:%m-%d %H:%M}" if recent else f"{job.create_time:%Y-%m-%d}"


def _time(job: Job, now: datetime) -> str:
    """How long a job took, or takes by now."""
    if job.start_time is None:
        return "-"
    return duration(((job.end_time or now) - job.start_time).total_seconds())


def _growth(job: Job) -> str:
    if job.worst_growth is None:
        return "-"
    language, growth = job.worst_growth
    return f"{language} {_times(growth)}"


def _times(growth: float) -> str:
    return f"×{growth:.2e}" if growth >= 1e4 else f"×{growth:.3f}"


def _shares(job: Job) -> Mapping[str, float]:
    """The mix, as shares of one."""
    total = sum(job.mix.values()) or 1
    return {language: weight / total for language, weight in job.mix.items()}


def _mix(job: Job) -> str:
    shares = _shares(job)
    if max(shares.values(), default=1) - min(shares.values(), default=1) < _EQUAL:
        return ",".join(shares) or "-"
    return ",".join(f"{language}={share:.2g}" for language, share in shares.items())


def _labels(job: Job) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))
