"""How a result was made and measured, in a few lines: for the page of a report, the model card and the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from secateur._text import span

_UPDATES = {"none": "the weights that are kept stay as they were"}


@dataclass(frozen=True)
class Run:
    """What differs between attempts at one job.

    Attributes:
        started: When the job, or its last attempt, began.
        ended: When it ended, or had its files ready to publish.
        attempt: Its number, from 1.
        resumed_blocks: Blocks that earlier attempts had finished; None if that is not known.
        is_published: Whether the end is that of the job, rather than of the work before the publishing.
    """

    started: datetime
    ended: datetime
    attempt: int
    resumed_blocks: int | None = None
    is_published: bool = True


def facts(report: Mapping[str, Any], run: Run | None = None) -> list[tuple[str, str]]:
    """Titles and texts.

    Args:
        report: Content of report.json, perhaps of an older release.
        run: When and how often it ran; None where that must not matter, as in a checkpoint.
    """
    return [*_method(report["spec"]), *_texts(report), *_machine(report), *(_when(report, run) if run else ())]


def in_language(found: Mapping[str, Any] | None) -> str:
    """The share of documents that seem to be in their language, with how many were looked at."""
    return f"{found['share']:.0%} of {found['documents']:,.0f}" if found else "–"


def _method(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    pruning, training = spec.get("pruning"), spec.get("reconstruction")
    if pruning:
        order = f", order {pruning['order']}" if pruning.get("order") else ""
        yield "Method", f"{pruning['method']}{order}"
        if update := pruning.get("update"):  # one that was never resolved does not say
            yield "Update", f"{update}: {_UPDATES[update]}" if update in _UPDATES else update
    if training:
        norms = "weights and norms" if training.get("norms") else "weights, not norms"
        yield "Training", f"{training['epochs']:.0f} epochs of each block: {norms}"


def _texts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    calibration, evaluation = report["spec"]["calibration"], report["spec"].get("evaluation") or {}
    corpus, other = calibration.get("corpus"), evaluation.get("corpus")
    yield "Windows", f"{report['windows']['tokens']:,.0f} tokens, which do not overlap"
    yield "Calibrated on", _drawn(corpus, "sequences", report["calibration"], f", seed {calibration.get('seed')}")
    where = "documents of the same corpus that calibration does not see" if other == corpus and other else other
    yield "Measured on", _drawn(where, "windows", report["evaluation"])


def _drawn(where: str | None, windows: str, texts: Sequence[Mapping[str, Any]], more: str = "") -> str:
    """Where text is from, how much it is, and how much of what was looked at is in its language."""
    count = sum(entry[windows] for entry in texts)
    told = f"{count:,.0f} windows, {sum(entry.get('documents') or 0 for entry in texts):,.0f} documents"
    found = [entry["identified"] for entry in texts if entry.get("identified")]
    if found:
        total = sum(each["documents"] for each in found)
        sound = sum(round(each["share"] * each["documents"]) for each in found)
        told += f" ({sound:,.0f} of {total:,.0f} that were looked at seem to be in their language)"
    return f"{where}: {told}{more}" if where else f"{told}{more}"


def _machine(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if report["job"].get("device"):
        yield "Computed on", report["job"]["device"]


def _when(report: Mapping[str, Any], run: Run) -> Iterator[tuple[str, str]]:
    taken = span((run.ended - run.started).total_seconds())
    told = f"{run.started:%Y-%m-%d %H:%M} UTC, in {taken}{'' if run.is_published else ' without the publishing'}"
    if run.resumed_blocks:
        blocks = len(report["blocks"])
        told += f"; attempt {run.attempt}, to which earlier ones left {run.resumed_blocks} of {blocks} blocks"
    elif run.attempt > 1:
        told += f", at attempt {run.attempt}"
    yield "Run", told
