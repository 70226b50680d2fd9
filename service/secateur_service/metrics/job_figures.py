"""Derives the metrics of jobs from the store's event log.

Workers are separate processes, possibly on other machines; they record what they did in the event log. Reading it gives
the same figures whoever ran the job, and needs no second channel. What happened before this process started is not
counted; if a job was already under way, its earlier events are read once, so that its durations are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from secateur_service.jobs.filters import Filter
from secateur_service.jobs.job import Event, EventKind
from secateur_service.jobs.port import Jobs
from secateur_service.jobs.states import JobState
from secateur_service.metrics import attempt_figures
from secateur_service.metrics.registry import Metrics

FIRST_ATTEMPT = "FIRST"
_PAGE = 256


@dataclass
class _Timeline:
    """What is remembered of a job that has not yet ended."""

    created: datetime
    queued: datetime
    cause: str = FIRST_ATTEMPT
    stage: str | None = None
    stage_entered: datetime | None = None


class JobFigures:
    """Counts and times what the events report. Not thread-safe; the follower calls it from one thread at a time."""

    def __init__(self, metrics: Metrics, store: Jobs) -> None:
        self._metrics = metrics
        self._store = store
        self._timelines: dict[str, _Timeline] = {}

    def seed(self) -> None:
        """Read what is needed from the past: when a job last succeeded (the newest job that did)."""
        jobs, _ = self._store.list_jobs(Filter(states=(JobState.SUCCEEDED,)), limit=1)
        for job in jobs:
            if job.end_time is not None:
                self._metrics.last_success.set(job.end_time.timestamp())

    def consume(self, events: Sequence[Event]) -> None:
        """Count events, given in the order of their writing."""
        for event in events:
            if event.sequence > 1 and event.job_id not in self._timelines:
                self._recall(event)
            self._follow(event, counted=True)

    def _recall(self, event: Event) -> None:
        """Rebuild a job's timeline from the events before `event`, without counting them."""
        after = 0
        while after < event.sequence - 1:
            page = self._store.events(event.job_id, after=after, limit=min(_PAGE, event.sequence - 1 - after))
            if not page:
                return
            for earlier in page:
                self._follow(earlier, counted=False)
            after = page[-1].sequence

    def _follow(self, event: Event, *, counted: bool) -> None:
        timeline = self._timelines.setdefault(event.job_id, _Timeline(created=event.time, queued=event.time))
        if event.kind is EventKind.STATE:
            self._enter_state(timeline, event, counted=counted)
        elif event.kind is EventKind.STAGE:
            self._leave_stage(timeline, event.time, counted=counted)
            timeline.stage, timeline.stage_entered = event.body["stage"], event.time
        elif event.kind is EventKind.LOG and counted and event.body["message"] == attempt_figures.MESSAGE:
            self._count_attempt(event.body["fields"])
        elif event.kind is EventKind.BLOCK and counted:
            self._metrics.blocks_pruned.inc()
            self._metrics.block_duration.observe(event.body["seconds"])

    def _enter_state(self, timeline: _Timeline, event: Event, *, counted: bool) -> None:
        state = JobState(event.body["state"])
        failure = event.body.get("failure") or {}
        if state is JobState.QUEUED:
            self._leave_stage(timeline, event.time, counted=counted)
            timeline.queued = event.time
            timeline.cause = failure.get("reason", timeline.cause)
        elif state is JobState.RUNNING and counted:
            self._metrics.attempts.labels(cause=timeline.cause).inc()
            self._metrics.queue_wait.observe(_seconds(timeline.queued, event.time))
        elif state.is_terminal:
            self._leave_stage(timeline, event.time, counted=counted)
            self._timelines.pop(event.job_id)
            if counted:
                self._finish(timeline, state, failure.get("reason", ""), event.time)

    def _count_attempt(self, fields: Mapping[str, Any]) -> None:
        """Count what an attempt reports."""
        self._metrics.calibration_tokens.inc(fields.get(attempt_figures.CALIBRATION_TOKENS, 0))
        self._metrics.device_memory_peak.set(fields.get(attempt_figures.PEAK_DEVICE_BYTES, 0))
        for source, count in fields.get(attempt_figures.DENSE_BLOCKS, {}).items():
            self._metrics.dense_blocks.labels(source=source).inc(count)
        for request, count in fields.get(attempt_figures.REQUESTS, {}).items():
            operation, _, outcome = request.partition(" ")
            self._metrics.object_store_requests.labels(operation=operation, outcome=outcome).inc(count)
        for direction, size_bytes in fields.get(attempt_figures.BYTES, {}).items():
            self._metrics.count_bytes(direction, size_bytes)

    def _finish(self, timeline: _Timeline, state: JobState, reason: str, time: datetime) -> None:
        self._metrics.jobs_finished.labels(outcome=state.value.lower(), reason=reason).inc()
        self._metrics.job_duration.observe(_seconds(timeline.created, time))
        if state is JobState.SUCCEEDED:
            self._metrics.last_success.set(time.timestamp())

    def _leave_stage(self, timeline: _Timeline, time: datetime, *, counted: bool) -> None:
        if timeline.stage is not None and timeline.stage_entered is not None and counted:
            duration = _seconds(timeline.stage_entered, time)
            self._metrics.stage_duration.labels(stage=timeline.stage).observe(duration)
        timeline.stage = timeline.stage_entered = None


def _seconds(start: datetime, end: datetime) -> float:
    return max((end - start).total_seconds(), 0.0)
