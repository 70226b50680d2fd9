"""The commands that list jobs, show one, and delete them."""

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated

import typer

from secateur._errors import ConfigError, SecateurError
from secateur._job import Job, JobState
from secateur._operations import has_report, published_folder
from secateur._report import Report
from secateur._terminal import clean, say
from secateur.cli._arguments import labels_of
from secateur.cli._flags import shown
from secateur.cli._jobs import job_text, jobs_text, model_of
from secateur.cli._session import JobArgument, Session, connected
from secateur.cli._table import terminal_width

MOST_JOBS = 1_000_000
"""More than `list` is asked for; the sum of what is asked for stays far within what a request can say."""

_MOST_OF_A_PAGE = 100
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(\d{1,6})([mhdw])")


class ListedState(enum.StrEnum):
    """The states to list by: those of `JobState` that a service sends."""

    QUEUED = JobState.QUEUED.value
    RUNNING = JobState.RUNNING.value
    CANCELLING = JobState.CANCELLING.value
    SUCCEEDED = JobState.SUCCEEDED.value
    FAILED = JobState.FAILED.value
    CANCELLED = JobState.CANCELLED.value


class SortKey(enum.StrEnum):
    """What a list can be sorted by."""

    CREATED = "created"
    ENDED = "ended"
    GROWTH = "growth"


# Without --reverse, and with it.
_ORDERS = {
    SortKey.CREATED: ("create_time desc", "create_time"),
    SortKey.ENDED: ("end_time desc", "end_time"),
    SortKey.GROWTH: ("worst_growth", "worst_growth desc"),
}


@connected
def list_(
    session: Session,
    *,
    state: Annotated[
        list[ListedState] | None, typer.Option(case_sensitive=False, help="Only jobs in this state. Repeat it.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only jobs with this label. Repeat it.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Only jobs created since: 30m, 2h, 3d or 4w ago, or 2026-11-01, or 2026-11-01T08:30 (UTC).",
        ),
    ] = None,
    sort: Annotated[
        SortKey,
        typer.Option(
            case_sensitive=False,
            help="created, ended: the newest first; growth: the least first. Jobs that have not ended, or have no "
            "figures, are left out.",
        ),
    ] = SortKey.CREATED,
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="The other way round.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=MOST_JOBS, help="Most jobs to print.")] = 100,
) -> None:
    """List jobs, newest first, in as many columns as fit.

    GROWTH is by how much perplexity grew in the language of the mix that lost most: ×1.05 is five per cent. TIME is how
    long the job took, or takes by now. WAITS is there if a job waits for more than any agent has.

    \b
    Examples:
      secateur list --state running --state queued
      secateur list --label sweep=mixes --sort growth
      secateur list --since 3d --limit 20
    """  # noqa: D301 - \b keeps the lines of the examples
    labels = labels_of(label or ())
    moment = None if since is None else _moment(since)
    listed = session.client.list_jobs(
        states=[each.value for each in state or ()],
        labels=labels,
        since=moment,
        order_by=_ORDERS[sort][reverse],
        page_size=min(limit + 1, _MOST_OF_A_PAGE),
    )
    if session.as_json:
        for job in islice(listed, limit):
            session.show("", job)
        return
    jobs = list(islice(listed, limit + 1))
    if jobs:
        session.show(jobs_text(jobs[:limit], terminal_width()), None)
    else:
        session.note(_nothing(state or (), labels, since, sort))
    if len(jobs) > limit:
        session.note(f"these are the first {limit}; --limit shows more")


@connected
def get(session: Session, *, job: JobArgument) -> None:
    """Print a job: where it stands, what runs and what came of it."""
    handle = session.job(job)
    found = handle.get()
    report: Report | None = None
    if not session.as_json and has_report(found):
        try:
            report = handle.report()
        except SecateurError as error:
            session.note(f"the report cannot be read: {error.message}")
    session.show(job_text(found, report), found)


@connected
def delete(
    session: Session,
    *,
    jobs: Annotated[
        list[str], typer.Argument(metavar="JOB...", help="Names or IDs of the jobs, or what their IDs begin with.")
    ],
    artifacts: Annotated[
        bool, typer.Option("--artifacts", help="Also delete what they published: checkpoint, report, manifest.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask. Needed where there is no terminal to ask on.")
    ] = False,
) -> None:
    """Delete jobs that have ended, with their events, logs and what their attempts left.

    What they published stays, unless --artifacts is given. There is no way back.
    """
    if not yes and (sys.stdin is None or not sys.stdin.isatty()):
        raise ConfigError("without a terminal, delete needs --yes; nothing was deleted")
    for handle in [session.job(name) for name in jobs]:  # all are known before the first is gone
        job = handle.get()
        if not yes and not _confirmed(job, artifacts=artifacts):
            session.note(f"{handle.name} stays")
            continue
        files = handle.delete(artifacts=artifacts)
        session.show(_deleted(job, files, artifacts=artifacts), {"name": handle.name, "deleted_files": files})


def _confirmed(job: Job, *, artifacts: bool) -> bool:
    created = f", created {job.create_time:%Y-%m-%d %H:%M}" if job.create_time else ""
    folder = published_folder(job)
    if folder is not None and not artifacts:
        say(clean(f"its files stay in {folder}; --artifacts deletes them too"))
    too = f" and its files in {folder}" if folder is not None and artifacts else ""
    try:
        return typer.confirm(clean(f"delete {job.name} ({job.state}, {model_of(job)}{created}){too}?"), err=True)
    except typer.Abort:  # Ctrl-C, or the end of the input; the cursor is still behind the question
        say(f"\n{clean(job.name)} stays")
        raise KeyboardInterrupt from None


def _deleted(job: Job, files: int, *, artifacts: bool) -> str:
    """What was deleted, what the files were that went with it, and what stays."""
    folder = published_folder(job)
    told = f"deleted {job.name}"
    if files:
        what = "of its result and its attempts" if artifacts and folder is not None else "that its attempts left"
        told += f" and {files} file{'s' if files != 1 else ''} {what}"
    if folder is not None and not artifacts:
        told += f"; its files stay in {folder}"
    return clean(told)


def _moment(text: str) -> datetime | timedelta:
    """How long ago, or when."""
    if found := _AGO.fullmatch(text):
        return timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        raise typer.BadParameter(
            f"--since {clean(shown(text))}: neither a time nor how long ago; expected e.g. 2h, 3d or 2026-11-01"
        ) from None


def _nothing(states: Sequence[str], labels: Mapping[str, str], since: str | None, sort: SortKey) -> str:
    """That there are no such jobs, in words."""
    asked = [" or ".join(states)] if states else []
    asked += [f"{key}={value}" for key, value in labels.items()]
    asked += [f"since {since}"] if since else []
    if asked:
        return f"no jobs: {', '.join(asked)}"
    if sort is not SortKey.CREATED:
        return "no job has ended yet" if sort is SortKey.ENDED else "no job has figures yet"
    return "there are no jobs yet; submit one: secateur submit SPEC.yaml"
