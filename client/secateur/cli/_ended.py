"""Commands for jobs that have ended: try again, fetch the files, check them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from secateur._download import DownloadProgress
from secateur._errors import PreconditionError
from secateur._job import Job
from secateur._terminal import clean, console
from secateur._verify import verify as verify_folder
from secateur.cli._arguments import changes_of, check_folder
from secateur.cli._exit import ExitCode
from secateur.cli._session import JobArgument, Session, connected

_SHOWN = 10


@connected
def retry(
    session: Session,
    *,
    job: JobArgument,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field of the specification, with a value in YAML, e.g. pruning.sparsity=0.4; without a "
            "value the field is left out. Repeat it.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Retry also what fails again unless the cause was mended elsewhere.")
    ] = False,
) -> None:
    """Make a new job out of one that failed or was cancelled; finished blocks are not computed again.

    Finished blocks are kept as long as nothing changes that their bytes depend on: model, text, pruning, what is
    removed, reconstruction, evaluation. Limits, destination and execution may change.

    \b
    Examples:
      secateur retry pruneJobs/ID
      secateur retry pruneJobs/ID --set limits.languages='{uk: 0.05}'
      secateur retry pruneJobs/ID --set pruning.pattern= --set pruning.sparsity=0.4
    """  # noqa: D301 - \b keeps the lines of the examples
    changes = changes_of(set_ or ())
    handle = session.job(job)
    old = handle.get()
    failure = old.failure
    if failure is not None and not failure.retryable and not (changes or force):
        raise PreconditionError(
            f"{handle.name} failed with {failure.reason}, and the same will happen again: change the specification "
            "with --set FIELD=VALUE, or give --force once the cause was mended elsewhere. What the job said: "
            f"{failure.message}",
            reason="FAILS_AGAIN",
        )
    found = handle.retry(changes).get()
    session.show(clean(found.name), found)
    session.note(_of_retry(old, found))


_FREE = ("limits", "output", "execution")
"""Sections of a specification on which no byte of a finished block depends."""


def _of_retry(old: Job, new: Job) -> str:
    """Whether the new job keeps what the old one had finished."""
    changed = [
        section
        for section in sorted(old.resolved_spec.keys() | new.resolved_spec.keys())
        if section not in _FREE and old.resolved_spec.get(section) != new.resolved_spec.get(section)
    ]
    if not changed:
        return f"resumes {old.name}"
    return f"a new attempt of {old.name}, from the beginning: {', '.join(changed)} changed, so no block is kept"


@connected
def download(
    session: Session,
    *,
    job: JobArgument,
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where to put the files; created if needed.")],
    local_files: Annotated[
        bool,
        typer.Option(
            "--local-files",
            help="Read results that the service keeps in a folder from this machine's folder of that name, although "
            "the endpoint is another machine.",
        ),
    ] = False,
) -> None:
    """Fetch all files of a job: checkpoint, report, manifest.

    Continues what an interrupted download has left, verifies every file by its SHA-256, and repairs those that are
    damaged. A folder with the result of another job is refused. A job that exceeded a limit has no checkpoint; its
    report is fetched, and why there is no more is said.
    """
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console(),
        disable=session.as_json or sys.stdout is None or not sys.stdout.isatty(),
    ) as bar:
        task = bar.add_task("", total=None)

        def advanced(progress: DownloadProgress) -> None:
            bar.update(
                task,
                description=clean(Path(progress.path).name[:40]),
                completed=progress.bytes_done,
                total=progress.bytes_total,
            )

        handle = session.job(job)
        paths = handle.download(directory, progress=advanced, local_files=True if local_files else None)
    repaired = [str(path) for path in paths.repaired]
    told = f"; repaired, as they were damaged: {', '.join(repaired)}" if repaired else ""
    session.show(
        clean(f"{len(paths) - 1} files verified in {directory} by its manifest.json{told}"),
        {"directory": str(directory), "files": [str(path) for path in paths], "repaired": repaired},
    )
    if (failure := handle.get().failure) is not None:
        session.note(f"no checkpoint was published: {failure}")


@connected
def verify(
    session: Session,
    *,
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="Where a job was downloaded to, or the --output of a local run.")
    ],
    manifest: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="Digest that manifest.json has to have, as `secateur get` shows it."),
    ] = None,
) -> None:
    """Check every file of a result by its SHA-256, without the service; ends with exit code 8 if one is not intact.

    Lists files that are damaged, missing or extra. Extra files do not count against the result.
    """
    check_folder(directory)
    found = verify_folder(directory, manifest_sha256=manifest)
    lines = [f"{clean(str(directory))}: {found}"]
    for word, paths in (("damaged", found.damaged), ("missing", found.missing), ("extra", found.extra)):
        lines += [f"{word:<8} {clean(path)}" for path in paths[:_SHOWN]]
        lines += [f"{word:<8} and {len(paths) - _SHOWN} more"] if len(paths) > _SHOWN else []
    session.show(
        "\n".join(lines),
        {
            "directory": str(directory),
            "intact": found.intact,
            "job": found.job,
            "manifest_sha256": found.manifest_sha256,
            "files": found.files,
            "damaged": found.damaged,
            "missing": found.missing,
            "extra": found.extra,
        },
    )
    if not found.intact:
        raise typer.Exit(ExitCode.DOWNLOAD_FAILED)
