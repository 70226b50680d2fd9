"""How a result was made and measured, in a few lines: for the page of a report and for the model card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from secateur._text import span
from secateur_service.evaluation.parts import CalibrationLanguage, EvaluationLanguage, IdentifiedPart
from secateur_service.evaluation.report import Report

_UPDATES = {"none": "the weights that are kept stay as they were"}


@dataclass(frozen=True)
class Run:
    """What differs between attempts at one job.

    Attributes:
        started: when the attempt began.
        ended: when its report was written.
        attempt: its number, from 1.
        resumed_blocks: blocks that earlier attempts had finished.
    """

    started: datetime
    ended: datetime
    attempt: int
    resumed_blocks: int


def facts(report: Report, run: Run | None = None) -> list[tuple[str, str]]:
    """Titles and texts.

    Args:
        report: the figures.
        run: when and how often it ran; None where that must not matter, as in a checkpoint.
    """
    return [*_method(report), *_texts(report), *_machine(report), *(_when(report, run) if run else ())]


def in_language(found: IdentifiedPart | None) -> str:
    """The share of documents that seem to be in their language, with how many were looked at."""
    return f"{found.share:.0%} of {found.documents:,}" if found else "–"


def _method(report: Report) -> Iterator[tuple[str, str]]:
    pruning, training = report.spec.get("pruning"), report.spec.get("reconstruction")
    if pruning:
        order = f", order {pruning['order']}" if pruning.get("order") else ""
        yield "Method", f"{pruning['method']}{order}"
        update = pruning["update"]
        yield "Update", f"{update}: {_UPDATES[update]}" if update in _UPDATES else update
    if training:
        norms = "weights and norms" if training.get("norms") else "weights, not norms"
        yield "Training", f"{training['epochs']} epochs of each block: {norms}"


def _texts(report: Report) -> Iterator[tuple[str, str]]:
    calibration, evaluation = report.spec["calibration"], report.spec.get("evaluation") or {}
    corpus, other = calibration.get("corpus"), evaluation.get("corpus")
    yield "Windows", f"{report.windows.tokens:,} tokens, which do not overlap"
    drawn = sum(entry.sequences for entry in report.calibration)
    told = f"{drawn:,} windows, {_documents(report.calibration)}, seed {calibration.get('seed')}"
    yield "Calibrated on", f"{corpus}: {told}" if corpus else told
    measured = sum(entry.windows for entry in report.evaluation)
    told = f"{measured:,} windows, {_documents(report.evaluation)}"
    where = "documents of the same corpus that calibration does not see" if other == corpus else other
    yield "Measured on", f"{where}: {told}" if other else told


def _documents(texts: Sequence[CalibrationLanguage | EvaluationLanguage]) -> str:
    """How many documents, and how many of those that were looked at are in their language."""
    told = f"{sum(entry.documents or 0 for entry in texts):,} documents"
    found = [entry.identified for entry in texts if entry.identified]
    if found:
        total = sum(each.documents for each in found)
        sound = sum(round(each.share * each.documents) for each in found)
        told += f" ({sound:,} of {total:,} that were looked at seem to be in their language)"
    return told


def _machine(report: Report) -> Iterator[tuple[str, str]]:
    if report.job.device:
        yield "Computed on", report.job.device


def _when(report: Report, run: Run) -> Iterator[tuple[str, str]]:
    told = f"{run.started:%Y-%m-%d %H:%M} UTC, in {span((run.ended - run.started).total_seconds())}"
    if run.resumed_blocks:
        told += (
            f"; attempt {run.attempt}, to which earlier ones left {run.resumed_blocks} of {len(report.blocks)} blocks"
        )
    yield "Run", told
