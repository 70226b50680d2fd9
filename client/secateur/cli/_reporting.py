"""How a job's report looks as text."""

from __future__ import annotations

from dataclasses import fields

from secateur._facts import Run, facts, in_language
from secateur._job import Job, LanguageResult, PublishedResult
from secateur._report import Report
from secateur._terminal import clean
from secateur._text import columns
from secateur.cli._render import continuation_lines, result_text, task_lines, verdict_lines


def report_text(report: Report, job: Job) -> str:
    """What pruning cost each language, how that was measured, and what to know before using the model."""
    run = None
    if job.start_time is not None and job.end_time is not None:
        run = Run(job.start_time, job.end_time, job.attempt)
    has_texts = "windows" in report  # reports of schema 1 do not say
    parts = [
        headline_lines(report),
        [result_text(job.result or reported_result(report), bands_of(report) if has_texts else {})],
        [*task_lines(report), *continuation_lines(report)],
        verdict_lines(report),
        [columns([(title.lower(), told) for title, told in facts(report, run)]), "", _texts_table(report)]
        if has_texts
        else [],
        [f"manifest {clean(job.result.manifest_uri)}"] if job.result else [],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def headline_lines(report: Report) -> list[str]:
    """What is to be said against the figures, what the mix lost, what others lost, what that does not show."""
    found = report.headline
    if found is None:
        return []
    return [clean(told) for told in (found.reservation, found.sentence, found.also_measured, found.caveat) if told]


def reported_result(report: Report) -> PublishedResult:
    """The headline figures of a report, for a job that has one and no result because it exceeds a limit."""
    names = [field.name for field in fields(LanguageResult)]
    languages = [LanguageResult(**{name: entry[name] for name in names}) for entry in report["evaluation"]]
    return PublishedResult(
        manifest_uri="",
        manifest_sha256="",
        sparsity=report["sparsity"]["pruned_layers"],
        languages={entry.language: entry for entry in languages},
        parameters=report["output"]["parameters"],
        dense_parameters=report["model"]["parameters"],
    )


def bands_of(report: Report) -> dict[str, str]:
    """How much each language lost, in a word; empty in reports of older releases."""
    return {entry.language: entry.band for entry in report.languages.values() if entry.band}


def _texts_table(report: Report) -> str:
    """The evaluation text of each language."""
    rows = [("LANGUAGE", "IN THE MIX", "DOCUMENTS", "WINDOWS", "SCORED TOKENS", "IN THE LANGUAGE", "DIGEST")]
    rows += [
        (
            entry["language"],
            "yes" if entry["in_mix"] else "no",
            "-" if entry.get("documents") is None else f"{entry['documents']:.0f}",
            f"{entry['windows']:.0f}",
            f"{entry['tokens']:.0f}",
            in_language(entry.get("identified")).replace("–", "-"),
            (entry.get("digest") or "-")[:12],
        )
        for entry in report["evaluation"]
    ]
    return columns(rows, right=[2, 3, 4, 5])
