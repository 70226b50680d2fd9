"""Following a job: a progress bar on a terminal, plain lines elsewhere, JSON for programs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

import typer
from rich.text import Text

from secateur._errors import JobError, SecateurError, SequenceExpiredError
from secateur._event import Event, LogEvent, ProgressEvent, SnapshotEvent, StageEvent, StateEvent, ends_watch
from secateur._gravity import GRAVITY
from secateur._handle import JobHandle
from secateur._job import Job, JobStage, JobState
from secateur._operations import has_report, published_result
from secateur._terminal import clean, console, write
from secateur.cli._bar import JobBar
from secateur.cli._exit import exit_code
from secateur.cli._render import event_json, event_text, result_text
from secateur.cli._session import Session

_STEP = 0.1
_STYLES = {"bad": "red", "warn": "yellow", "info": ""}
_ANSWERS = {"PASS": "bold green", "FAIL": "bold red", "CANNOT_TELL": "bold yellow"}


def follow(
    session: Session, job: JobHandle, after_sequence: int | None = None, timeout_seconds: float | None = None
) -> None:
    """Show a job's events until it has ended, then what it cost each language and what to know of it.

    Raises:
        JobFailedError, JobCancelledError: it has no result.
        WaitTimeoutError: it has not ended in time; it keeps running.
    """
    last, said = after_sequence or 0, False
    try:
        with _view(session, job, after_sequence) as show:
            for event in job.watch(after_sequence, timeout_seconds=timeout_seconds):
                last = event.sequence
                show(event)
                said = ends_watch(event)
    except KeyboardInterrupt:
        again = f"secateur watch {job.name} --after {last}"
        session.note(f"stopped watching; the job keeps running. To watch again: {again}")
        raise
    except SequenceExpiredError as error:
        if session.as_json:
            raise
        newest = error.metadata.get("last_sequence", "0")
        raise SequenceExpiredError(
            f"--after {after_sequence}: {job.name} has {newest} events so far; give {newest} at most, or leave "
            "--after out"
        ) from error
    ended = job.get()
    try:
        result = published_result(ended)
    except JobError as error:
        if session.as_json or not said:
            raise
        session.note(_without_result(ended))
        raise typer.Exit(exit_code(error)) from None
    if session.as_json:
        return
    session.show(f"\n{result_text(result)}\n\nmanifest {clean(result.manifest_uri)}", None)
    _show_verdicts(session, job)
    session.note(f"fetch the files with: secateur download {job.name} DIRECTORY")


def _without_result(job: Job) -> str:
    """How a job ended, and what to do now; why, its last event has said."""
    if job.state is JobState.CANCELLED or job.failure is None:
        return f"{job.name} was cancelled; to go on with it: secateur retry {job.name}"
    told = f"{job.name} failed with {job.failure.reason}"
    if has_report(job):
        return f"{told}; what it lost: secateur report {job.name}"
    remedy = "to go on with it: secateur retry" if job.failure.retryable else "its log: secateur logs"
    return f"{told}; {remedy} {job.name}"


def _show_verdicts(session: Session, job: JobHandle) -> None:
    """What the result's figures mean, last, as it matters most; coloured on a terminal."""
    try:
        report = job.report()
    except SecateurError as error:
        session.note(f"the report cannot be read now: {error.message}; try again: secateur report {job.name}")
        return
    lines = verdict_texts(report)
    if lines:
        write("", stream=sys.stdout)
    terminal = console()
    for line in lines:
        if terminal.is_terminal:
            terminal.print(line, soft_wrap=True)
        else:
            write(line.plain, stream=sys.stdout)


def verdict_texts(report: Mapping[str, Any]) -> list[Text]:
    """Whether a result may ship, and what its figures mean, each in the colour of its weight."""
    decision = report.get("decision")
    lines = [Text(clean(decision["sentence"]), _ANSWERS.get(decision["answer"], ""))] if decision else []
    return lines + [
        Text(clean(f"- {verdict['message']}"), _STYLES[GRAVITY.get(verdict["kind"], "info")])
        for verdict in report.get("verdicts", ())
    ]


@contextmanager
def _view(session: Session, job: JobHandle, after_sequence: int | None) -> Iterator[Callable[[Event], None]]:
    """What shows events, in the way that suits where the output goes."""
    if session.as_json:
        yield lambda event: _print_line(event_json(event))
    elif sys.stdout is not None and sys.stdout.isatty():
        # A watch that resumes begins with no snapshot.
        with _Bar(session, None if after_sequence is None else job.get()) as bar:
            yield bar.show
    else:
        yield _Lines().show


def _is_told(event: Event) -> bool:
    """Whether people want to read it: not what is for those who look for a fault, nor what the end says again."""
    if not isinstance(event, LogEvent):
        return True
    says_verdict = "verdict" in event.fields or "decision" in event.fields
    return event.level != "debug" and not (event.level == "info" and says_verdict)


class LogLevel(StrEnum):
    """How much a line of a log matters, least first."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFilter:
    """Passes the lines of a level and above, without those that say a verdict again.

    Args:
        level: The least; at `debug` everything passes.
    """

    def __init__(self, level: LogLevel) -> None:
        self._level = level
        self._warned: set[object] = set()

    def passes(self, event: LogEvent) -> bool:
        """Whether a line, the next of its log, is to be shown."""
        if self._level is LogLevel.DEBUG:
            return True
        verdict = event.fields.get("verdict")
        if event.level == "info" and verdict in self._warned:
            return False
        if event.level == "warning" and verdict is not None:
            self._warned.add(verdict)
        levels = [level.value for level in LogLevel]
        return event.level not in levels or levels.index(event.level) >= levels.index(self._level)


class _Lines:
    """A line per event; of the many progress events only one each tenth of the job."""

    def __init__(self) -> None:
        self._shown = -1.0

    def show(self, event: Event) -> None:
        """Print an event."""
        if isinstance(event, ProgressEvent):
            if event.progress.fraction < self._shown + _STEP:
                return
            self._shown = event.progress.fraction
        if _is_told(event):
            _print_line(f"{event.time:%H:%M:%S} {event_text(event)}")


class _Bar:
    """The job's bar, below what there is to say of it.

    Args:
        session: Its messages, such as that the connection is lost, are shown below the bar.
        job: The job as it is, unless a snapshot will tell.
    """

    def __init__(self, session: Session, job: Job | None) -> None:
        self._bar = JobBar(console())
        self._session = session
        self._told = session.messages.show
        # How far this machine's clock is ahead of the service's, or less where events are old.
        self._ahead: float | None = None
        self._known = 0
        self._began: datetime | None = None
        self._has_started = False
        if job is not None:
            self._known = job.last_sequence
            self._take(job)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        self._session.messages.show = self._notice
        return self

    def __exit__(self, *_: object) -> None:
        self._session.messages.show = self._told
        self._bar.__exit__()

    def _notice(self, level: int, text: str) -> None:
        self._bar.notice(text if level >= logging.WARNING else None)

    def show(self, event: Event) -> None:
        """Move the bar, and print an event above it unless it is only progress."""
        self._bar.notice(None)
        age = self._age(event)
        if event.sequence > self._known or isinstance(event, SnapshotEvent):
            self._move(event, age)
        if not isinstance(event, ProgressEvent) and _is_told(event):
            self._bar.print(event_text(event))

    def _move(self, event: Event, age: float) -> None:
        if isinstance(event, ProgressEvent):
            self._bar.report(event.progress, age)
        elif isinstance(event, StageEvent):
            self._bar.doing = event.stage.value
        elif isinstance(event, SnapshotEvent):
            self._take(event.job)
        elif isinstance(event, StateEvent):
            if event.state is JobState.RUNNING and not self._has_started:
                self._began, self._has_started = event.time, True
                self._set_clock()
            self._state(event.state)

    def _take(self, job: Job) -> None:
        """Show a job as it is."""
        self._began, self._has_started = job.start_time or job.create_time, job.start_time is not None
        self._set_clock(job.end_time)
        if job.progress is not None:
            self._bar.report(job.progress)
        self._bar.doing = job.stage.value
        if job.stage is JobStage.UNSPECIFIED or job.state is not JobState.RUNNING:
            self._state(job.state)

    def _state(self, state: JobState) -> None:
        self._bar.doing = state.value
        if state.is_terminal:
            self._bar.end(is_done=state is JobState.SUCCEEDED)

    def _age(self, event: Event) -> float:
        """How long ago an event was written, as far as is known: the youngest so far was written just now."""
        ahead = time.time() - event.time.timestamp()
        if self._ahead is None or ahead < self._ahead:
            self._ahead = ahead
            self._set_clock()
        return ahead - self._ahead

    def _set_clock(self, end: datetime | None = None) -> None:
        """Let the bar count from the job's own beginning, by the service's clock; or to its end."""
        if self._began is not None:
            now = time.time() - (self._ahead or 0.0) if end is None else end.timestamp()
            self._bar.began(now - self._began.timestamp())


def _print_line(line: str) -> None:
    write(line, stream=sys.stdout)
