"""Following a job: a progress bar on a terminal, plain lines elsewhere, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from secateur._event import Event, ProgressEvent, SnapshotEvent, StageEvent, StateEvent
from secateur._handle import JobHandle
from secateur._job import JobStage
from secateur._job import Progress as JobProgress
from secateur._operations import published_result
from secateur._terminal import clean, console, write
from secateur._text import duration
from secateur.cli._render import event_json, event_text, result_text
from secateur.cli._session import Session

_STEP = 0.1


def follow(session: Session, job: JobHandle, after_sequence: int | None = None) -> None:
    """Show a job's events until it has ended, then what it cost each language.

    Raises:
        JobFailedError, JobCancelledError: it has no result.
    """
    last = after_sequence or 0
    try:
        with _view(session) as show:
            for event in job.watch(after_sequence):
                last = event.sequence
                show(event)
    except KeyboardInterrupt:
        again = f"secateur watch {job.name} --after {last}"
        session.note(f"stopped watching; the job keeps running. To watch again: {again}")
        raise
    result = published_result(job.get())
    if not session.as_json:
        session.show(f"\n{result_text(result)}\n\nmanifest {clean(result.manifest_uri)}", None)
        session.note(f"fetch the files with: secateur download {job.name} DIRECTORY")


@contextmanager
def _view(session: Session) -> Iterator[Callable[[Event], None]]:
    """What shows events, in the way that suits where the output goes."""
    if session.as_json:
        yield lambda event: _print_line(event_json(event))
    elif sys.stdout is not None and sys.stdout.isatty():
        with _Bar() as bar:
            yield bar.show
    else:
        yield _Lines().show


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
        _print_line(f"{event.time:%H:%M:%S} {event_text(event)}")


class _Bar:
    """A progress bar with stage, blocks and expected time, below what there is to say."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[blocks]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=console(),
        )
        self._task = self._progress.add_task("QUEUED", total=1.0, blocks="", left="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Move the bar, or print an event above it."""
        if isinstance(event, ProgressEvent):
            self._move(event.progress)
            return
        if isinstance(event, StageEvent):
            self._progress.update(self._task, description=event.stage.value)
        elif isinstance(event, StateEvent):
            self._progress.update(self._task, description=event.state.value)
        elif isinstance(event, SnapshotEvent):
            stage = event.job.stage
            shown = event.job.state.value if stage is JobStage.UNSPECIFIED else stage.value
            self._progress.update(self._task, description=shown)
            if event.job.progress is not None:
                self._move(event.job.progress)
        self._progress.console.print(Text(event_text(event)), soft_wrap=True)

    def _move(self, progress: JobProgress) -> None:
        blocks = f"block {progress.blocks_done}/{progress.blocks_total}" if progress.blocks_total else ""
        left = f"{duration(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
        self._progress.update(self._task, completed=progress.fraction, blocks=blocks, left=left)


def _print_line(line: str) -> None:
    write(line, stream=sys.stdout)
