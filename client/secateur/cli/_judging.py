"""The commands that judge results: jobs side by side, sweeps of jobs, and the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur._errors import NotReadyError
from secateur._gate import GateLimits, growth_problem, read_report
from secateur._gate import gate as judge
from secateur._grid import grid_of
from secateur._language import canonical_tag
from secateur._language_names import in_words, language_fault
from secateur._operations import has_report
from secateur._terminal import clean
from secateur.cli._arguments import read_content
from secateur.cli._comparing import comparison_text, gate_text
from secateur.cli._exit import ExitCode
from secateur.cli._session import Session, connected
from secateur.cli._sweeping import cancel_jobs, run_sweep, show_plans, sweep_code, sweep_text, sweep_value

MaxGrowthOption = typer.Option(
    metavar="RATIO",
    help="What a language may lose at most, as the ratio of pruned to dense: 1.05 permits five per cent.",
)
TargetLanguageOption = typer.Option(
    "--language",
    "-l",
    metavar="TAG",
    help="Language that the recommended job has to serve; by default all that every job evaluated. Repeat it.",
)
PageOption = typer.Option(metavar="FILE", help="Also write the comparison as a page.")


@connected
def compare(
    session: Session,
    *,
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Names or IDs of up to 50 jobs.")],
    language: Annotated[list[str] | None, TargetLanguageOption] = None,
    max_growth: Annotated[float | None, MaxGrowthOption] = None,
    related: Annotated[
        bool, typer.Option("--related", help="Also compare the newest other jobs of the same model, at most 20.")
    ] = False,
    html: Annotated[Path | None, PageOption] = None,
) -> None:
    """Put jobs side by side: what each language lost in each, size, time, and which job to take.

    With --max-growth the smallest job in which no language loses more is recommended; without it, the job whose worst
    language loses least.

    \b
    Examples:
      secateur compare pruneJobs/ONE pruneJobs/TWO --language uk --language en
      secateur compare pruneJobs/ONE pruneJobs/TWO --max-growth 1.05 --html comparison.html
      secateur compare pruneJobs/ONE --related
    """  # noqa: D301 - \b keeps the lines of the examples
    found = session.client.compare(
        [session.job(job).name for job in jobs],
        target_languages=language or (),
        max_growth=max_growth,
        html=html is not None,
        related=related,
    )
    session.show(comparison_text(found), found.content)
    write_page(session, found.html, html)


@connected
def sweep(
    session: Session,
    *,
    spec: Annotated[
        Path,
        typer.Argument(metavar="SPEC.yaml", help="Specification with a section `sweep`; - reads the standard input."),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the sweep, and label of its jobs; by default derived from the specifications."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check every point and estimate its cost.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Retry points that failed or were cancelled.")] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Only ask the jobs of the sweep that have not ended to stop.")
    ] = False,
    language: Annotated[list[str] | None, TargetLanguageOption] = None,
    max_growth: Annotated[float | None, MaxGrowthOption] = None,
    html: Annotated[Path | None, PageOption] = None,
) -> None:
    """Submit a job for every combination of listed values, follow all of them, and compare them.

    The same command goes on after any interruption: what was submitted is not submitted again, and a job that has ended
    stays as it is. --retry retries those that failed or were cancelled. Ctrl-C leaves the jobs running.

    \b
    Examples:
      secateur sweep sweep.yaml --dry-run
      secateur sweep sweep.yaml --name mixes --language uk --max-growth 1.05 --html comparison.html
      secateur list --label sweep=mixes

    \b
    A sweep of four jobs:
      model: {uri: file:///models/m}
      calibration: {corpus: file:///corpora/c, samples: 128}
      pruning: {method: wanda}
      sweep:
        calibration.languages: [{de: 1}, {de: 0.5, uk: 0.5}]
        pruning.sparsity: [0.5, 0.6]
    """  # noqa: D301 - \b keeps the lines of the examples
    if dry_run + retry + cancel > 1:
        raise typer.BadParameter("--dry-run, --retry and --cancel do not go together; give one of them")
    if max_growth is not None and (problem := growth_problem(max_growth)) is not None:
        raise typer.BadParameter(f"--max-growth {problem}")
    for tag in language or ():  # the service would say so of the comparison, when all jobs have ended
        if (fault := language_fault(tag)) is not None:
            raise typer.BadParameter(f"--language {clean(fault)}")
    content = read_content(spec)
    evaluated = grid_of(content, name).evaluated
    if strange := [in_words(tag) for tag in language or () if canonical_tag(tag) not in evaluated]:
        known = ", ".join(map(in_words, evaluated))
        raise typer.BadParameter(
            f"--language: no point evaluates {clean(', '.join(strange))}; they have {clean(known)}"
        )
    if dry_run:
        show_plans(session, content, name)
    elif cancel:
        cancel_jobs(session, content, name)
    else:
        made, jobs = run_sweep(session, content, name, retry=retry)
        found = None
        if any(map(has_report, jobs.values())):
            found = made.compare(target_languages=language or (), max_growth=max_growth, html=html is not None)
        session.show(sweep_text(made, jobs, found), sweep_value(made, jobs, found))
        if found is not None:
            write_page(session, found.html, html)
        if (code := sweep_code(jobs, found)) is not ExitCode.DONE:
            raise typer.Exit(code)


@connected
def gate(
    session: Session,
    *,
    job: Annotated[
        str,
        typer.Argument(metavar="JOB", help="Name or ID of the job, or the folder of its files, or their report.json."),
    ],
    max_growth: Annotated[float | None, MaxGrowthOption] = None,
    max_task_loss: Annotated[
        float | None,
        typer.Option(
            metavar="AMOUNT",
            help="What a metric of a task may lose at most, as an amount of it: 0.02 permits two items of a hundred.",
        ),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(
            "--language",
            "-l",
            metavar="TAG",
            help="Language to check, with its tasks; by default all languages of the mix, and all tasks. Repeat it.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Task to check; by default all. Repeat it.")
    ] = None,
    bits_per_byte: Annotated[
        bool, typer.Option("--bits-per-byte", help="Check the growth of bits per byte, and not of perplexity.")
    ] = False,
    sure: Annotated[
        bool, typer.Option("--sure", help="The whole 95 % confidence interval has to be within the limit.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended.")] = False,
) -> None:
    """Check that no language and no task lost more than it may; ends with exit code 10 if one did.

    It reads report.json and nothing else: it neither evaluates anything anew nor looks at the checkpoint, whose bytes
    `secateur verify DIRECTORY` checks.

    \b
    Examples:
      secateur gate pruneJobs/ID --max-growth 1.05 --language de --language uk
      secateur gate pruneJobs/ID --max-growth 1.05 --max-task-loss 0.02 --sure
      secateur gate results/ --max-growth 1.01 --bits-per-byte
    """  # noqa: D301 - \b keeps the lines of the examples
    folder = Path(job)
    limits: GateLimits = {
        "max_growth": max_growth,
        "max_task_loss": max_task_loss,
        "languages": language or (),
        "tasks": task or (),
        "bits_per_byte": bits_per_byte,
        "sure": sure,
    }
    if max_growth is None and max_task_loss is None:
        raise typer.BadParameter("there is no limit; give --max-growth, --max-task-loss or both")
    if task and max_task_loss is None:
        raise typer.BadParameter("--task: there is no limit for tasks; give --max-task-loss, or leave --task out")
    if job and folder.exists():
        found = judge(read_report(folder), **limits)
    elif job.endswith((".json", "/")) or job.startswith((".", "/", "~")):
        raise typer.BadParameter(f"{clean(job)} is neither a folder nor a file here, and no name of a job")
    else:
        handle = session.job(job)
        state = (handle.wait() if wait else handle.get()).state
        if not state.is_terminal:
            raise NotReadyError(f"{handle.name} is {state} and has no result yet; give --wait, or watch it to its end")
        found = handle.gate(**limits)
    session.show(gate_text(found), found)
    if not found.passed:
        raise typer.Exit(ExitCode.GATE_FAILED)


def write_page(session: Session, page: str | None, html: Path | None) -> None:
    """Put a page where the caller wants it, if anywhere."""
    if html is not None and page is not None:
        try:
            html.write_text(page, encoding="utf-8")
        except OSError as error:
            raise typer.BadParameter(f"--html {html}: cannot be written: {error.strerror}") from error
        session.note(f"the page is in {html}")
