"""Following a sweep: a line for each job, then how the points ended. On a terminal the lines stay in their places."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn

from secateur._comparison import Comparison
from secateur._grid import grid_of
from secateur._job import Job, JobState, Plan
from secateur._sweep import Sweep
from secateur._terminal import clean, console, write
from secateur._text import columns, left_text, size
from secateur.cli._bar import Countdown, amount_text
from secateur.cli._comparing import comparison_text
from secateur.cli._exit import ExitCode
from secateur.cli._session import Session

_STEP = 0.1
_POINT_WIDTH = 48
_Show = Callable[[str, Job], None]


def run_sweep(
    session: Session, content: Mapping[str, Any], name: str | None, *, retry: bool
) -> tuple[Sweep, dict[str, Job]]:
    """Submit a sweep and show its jobs until all have ended; the jobs by point."""
    grid = grid_of(content, name)
    session.note(f"sweep {grid.name}: {len(grid.points)} points; checking those that have no job yet")
    try:
        sweep = session.client.sweep(content, name=name, retry=retry)
        jobs = {}
        with _view(session, list(sweep.jobs)) as show:
            for point, job in sweep.watch():
                jobs[point] = job
                show(point, job)
    except KeyboardInterrupt:
        session.note(
            "stopped; the jobs that were submitted keep running. The same command goes on from here, and with --cancel "
            f"it ends them. To see them: secateur list --label sweep={grid.name}"
        )
        raise
    return sweep, {point: jobs[point] for point in sweep.jobs}


def show_plans(session: Session, content: Mapping[str, Any], name: str | None) -> None:
    """Show the points of a sweep with what each would cost."""
    grid = grid_of(content, name)
    plans = session.client.plan_sweep(content, name=name)
    value = {
        "sweep": grid.name,
        "points": [{"point": point.name, "values": point.values, **vars(plans[point.name])} for point in grid.points],
    }
    session.show(f"sweep {grid.name}\n\n{_plans_text(plans)}", value)


def cancel_jobs(session: Session, content: Mapping[str, Any], name: str | None) -> None:
    """Ask the jobs of a sweep that have not ended to stop, and show all of them."""
    sweep = session.client.find_sweep(content, name=name)
    jobs = sweep.cancel()
    session.show(_points_text(sweep, jobs, None), sweep_value(sweep, jobs, None))


def sweep_text(sweep: Sweep, jobs: Mapping[str, Job], comparison: Comparison | None) -> str:
    """How the points ended, why some have no result, and the comparison of the others."""
    parts = [f"\nsweep {sweep.name}", _points_text(sweep, jobs, comparison)]
    failed = [clean(f"{point}: {job.failure}") for point, job in jobs.items() if job.failure is not None]
    if failed:
        parts.append("\n".join(failed))
    if comparison is not None:
        parts.append(comparison_text(comparison))
    if any(job.state is not JobState.SUCCEEDED for job in jobs.values()):
        parts.append("to retry what failed or was cancelled, run the same command with --retry")
    return "\n\n".join(parts)


def sweep_value(sweep: Sweep, jobs: Mapping[str, Job], comparison: Comparison | None) -> dict[str, Any]:
    """The same for programs."""
    points = []
    for point, values in sweep.points.items():
        job = jobs.get(point)
        points.append(
            {
                "point": point,
                "values": values,
                "job": job and job.name,
                "state": job and job.state,
                "failure": job and job.failure,
            }
        )
    return {"sweep": sweep.name, "points": points, "comparison": comparison and comparison.content}


def sweep_code(jobs: Mapping[str, Job], comparison: Comparison | None) -> ExitCode:
    """How the command ends: a job that failed counts more than one that was cancelled, and both more than the limit."""
    states = {job.state for job in jobs.values()}
    if JobState.FAILED in states:
        return ExitCode.JOB_FAILED
    if JobState.CANCELLED in states:
        return ExitCode.JOB_CANCELLED
    advice = None if comparison is None else comparison.recommendation
    if advice is not None and advice.max_growth is not None and advice.chosen is None:
        return ExitCode.GATE_FAILED
    return ExitCode.DONE


def _points_text(sweep: Sweep, jobs: Mapping[str, Job], comparison: Comparison | None) -> str:
    labels = {job.name: label for label, job in comparison.jobs.items()} if comparison is not None else {}
    rows = [("", "POINT", "JOB", "STATE")]
    for point in sweep.points:
        job = jobs.get(point)
        rows.append((labels.get(job.name, ""), point, job.name, job.state.value) if job else ("", point, "-", "-"))
    return columns(rows)


def _plans_text(plans: Mapping[str, Plan]) -> str:
    rows = [("POINT", "HOST MEMORY", "DEVICE MEMORY", "DISK", "OPERATIONS", "RESULT")]
    for point, plan in plans.items():
        cost = plan.estimate
        device = size(cost.peak_device_bytes) if cost.peak_device_bytes else "none"
        operations = f"{cost.flops:.2e} FLOP"
        result = size(cost.output_bytes) if cost.output_bytes else "-"
        rows.append((point, size(cost.peak_host_bytes), device, size(cost.disk_bytes), operations, result))
    total = sum(plan.estimate.flops for plan in plans.values())
    return f"{columns(rows, right=[1, 2, 3, 4, 5])}\n{len(plans)} jobs, {total:.2e} FLOP in all"


@contextmanager
def _view(session: Session, points: list[str]) -> Iterator[_Show]:
    """What shows jobs, in the way that suits where the output goes; programs want only the end."""
    if session.as_json:
        yield lambda _point, _job: None
    elif sys.stdout is not None and sys.stdout.isatty():
        with SweepBars(points, console()) as bars:
            yield bars.show
    else:
        yield _Lines().show


class _Lines:
    """A line when a job's state changes, and each tenth of a job."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[JobState, float]] = {}

    def show(self, point: str, job: Job) -> None:
        """Print a job, if that is news."""
        fraction = job.progress.fraction if job.progress is not None else 0.0
        state, shown = self._shown.get(point, (JobState.UNSPECIFIED, 0.0))
        if job.state is state and fraction < shown + _STEP:
            return
        self._shown[point] = job.state, fraction
        write(clean(f"{point}: {_state_text(job)}"), stream=sys.stdout)


class SweepBars:
    """A line for each job with its state, blocks and expected time, and one for all of them.

    Jobs are read seconds apart. In between the bars go on by the clock, as a single job's does.

    Args:
        points: The points, in their order.
        terminal: Where to draw.
        clock: Monotonic time in seconds.
    """

    def __init__(self, points: list[str], terminal: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._points = points
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._countdowns = {point: Countdown(clock) for point in points}
        self._progress = _Ticking(
            self._tick,
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[state]}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[details]}", markup=False),
            console=terminal,
        )
        self._tasks = {point: self._progress.add_task(_cut(point), total=1.0, state="", details="") for point in points}
        self._all = self._progress.add_task("all", total=float(len(points)), state="", details="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def drawn(self) -> Iterable[RenderableType]:
        """The bars as they are now."""
        return self._progress.get_renderables()

    def show(self, point: str, job: Job) -> None:
        """Take over how a job stands."""
        before = self._jobs.get(point)
        self._jobs[point] = job
        if before is None or (before.state, before.progress) != (job.state, job.progress):
            self._countdowns[point].report(_done(job), _left(job))

    def _tick(self) -> None:
        """Set the bars to where they are now."""
        for point, job in self._jobs.items():
            bar = self._countdowns[point]
            progress = job.progress if job.state is JobState.RUNNING else None
            amount = amount_text(progress) if progress else ""
            self._progress.update(
                self._tasks[point],
                completed=bar.fraction,
                state=job.state.value,
                details=_joined(amount, bar.left_seconds),
            )
        ended = sum(job.state.is_terminal for job in self._jobs.values())
        left = [
            self._countdowns[point].left_seconds
            for point in self._points
            if point not in self._jobs or not self._jobs[point].state.is_terminal
        ]
        is_known = all(seconds is not None for seconds in left)  # not while a job waits for its turn
        self._progress.update(
            self._all,
            completed=sum(bar.fraction for bar in self._countdowns.values()),
            state=f"{ended} of {len(self._points)} ended",
            details=_joined("", max(filter(None, left), default=None) if is_known else None),
        )


class _Ticking(Progress):
    """Bars that are set to the time at which they are drawn."""

    def __init__(self, tick: Callable[[], None], *columns: ProgressColumn, console: Console) -> None:
        self._tick = tick
        super().__init__(*columns, console=console, refresh_per_second=2)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars as they are now."""
        if len(self.tasks) > 0:
            self._tick()
        yield from super().get_renderables()


def _state_text(job: Job) -> str:
    if job.failure is not None:
        return f"{job.state}, {job.failure}"
    if job.progress is None or job.state is not JobState.RUNNING:
        return job.state.value
    return f"{job.state}, {job.progress}"


def _done(job: Job) -> float:
    if job.state.is_terminal:
        return 1.0
    return job.progress.fraction if job.progress is not None else 0.0


def _left(job: Job) -> float | None:
    return job.progress.eta_seconds if job.progress is not None and job.state is JobState.RUNNING else None


def _joined(blocks: str, left_seconds: float | None) -> str:
    left = "" if left_seconds is None else left_text(left_seconds)
    return " ".join(filter(None, [blocks, left]))


def _cut(point: str) -> str:
    shown = clean(point)
    return shown if len(shown) <= _POINT_WIDTH else f"{shown[: _POINT_WIDTH - 1]}…"
