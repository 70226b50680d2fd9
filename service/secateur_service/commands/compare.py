"""Compares results without a server, as `secateur compare` does with one: `secateur-service compare FOLDER...`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from secateur._comparison import comparison_of
from secateur._gate import growth_problem
from secateur._language_names import language_fault
from secateur._terminal import clean, say, write
from secateur.cli._comparing import comparison_text
from secateur.cli._render import to_json
from secateur_service.calibration.languages import parse_language
from secateur_service.errors import NotReadyError
from secateur_service.evaluation.comparison import MAX_JOBS, Candidate, compare, readable_report
from secateur_service.evaluation.comparison_page import render_comparison

EXIT_USAGE = 2
EXIT_PERMANENT = 10


def compare_folders(
    folders: Sequence[Path], languages: Sequence[str], max_growth: float | None, html: Path | None, *, as_json: bool
) -> int:
    """Compare the results in folders.

    Args:
        folders: what `run` wrote, or `secateur download` fetched.
        languages: what the recommended result has to serve; by default all that every one of them evaluated.
        max_growth: what each of them may lose at most, as a ratio.
        html: where to write the page.
        as_json: whether to print one line of JSON.

    Returns:
        The exit code: 0, 2 for a wrong argument, such as a folder without a report, or 10 for a report that cannot be
        compared.
    """
    faults = list(_faults(folders, languages, max_growth))
    if faults:
        say("\n".join(map(clean, faults)))
        return EXIT_USAGE
    try:
        candidates = [_candidate(folder) for folder in folders]
    except NotReadyError as error:
        say(f"error: {clean(error.message)}")
        return EXIT_USAGE if isinstance(error.__cause__, OSError) else EXIT_PERMANENT
    comparison = compare(candidates, [str(parse_language(tag)) for tag in languages], max_growth)
    content = comparison.model_dump(mode="json")
    write(to_json(content) if as_json else comparison_text(comparison_of(content)), stream=sys.stdout)
    if html is not None:
        try:
            html.write_bytes(render_comparison(comparison))
        except OSError as error:
            say(f"--html: {clean(str(html))} cannot be written: {error.strerror}")
            return EXIT_USAGE
        say(f"the page is in {clean(str(html))}")
    return 0


def _faults(folders: Sequence[Path], languages: Sequence[str], max_growth: float | None) -> Iterator[str]:
    if len(folders) > MAX_JOBS:
        yield f"{len(folders)} folders; at most {MAX_JOBS} can be compared"
    seen = set()
    for folder in folders:
        if folder.resolve() in seen:
            yield f"{folder} is there already; name each folder once"
        seen.add(folder.resolve())
    for tag in languages:
        if (fault := language_fault(tag)) is not None:
            yield f"--language: {fault}"
    if max_growth is not None and (problem := growth_problem(max_growth)) is not None:
        yield f"--max-growth: {problem}"


def _candidate(folder: Path) -> Candidate:
    path = folder / "report" / "report.json"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise NotReadyError(f"{path} cannot be read: {error.strerror}; name the --output of a run") from error
    except ValueError as error:
        raise NotReadyError(f"{path} is not JSON") from error
    return Candidate.of(str(folder), readable_report(str(folder), content), _seconds(folder))


def _seconds(folder: Path) -> float | None:
    """How long the run took; None if provenance.json does not say, or if blocks of an earlier attempt were reused."""
    try:
        provenance = json.loads((folder / "provenance.json").read_bytes())
        return None if provenance["resumed_blocks"] else float(provenance["seconds"]["total"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
