"""Which jobs a list has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from secateur._arguments import texts
from secateur._errors import FieldViolation, InvalidRequestError
from secateur._job import Job, JobState
from secateur._suggestions import did_you_mean, word_for


@dataclass(frozen=True)
class JobFilter:
    """Jobs that all of this is true of; see `Client.list_jobs`."""

    states: tuple[JobState, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    before: datetime | None = None
    id_prefix: str = ""

    def has(self, job: Job) -> bool:
        """Whether a job is wanted, as far as a service of an older release does not look at it."""
        created = job.create_time
        return (
            self.labels.items() <= job.labels.items()
            and job.id.startswith(self.id_prefix)
            and (self.since is None or (created is not None and created >= self.since))
            and (self.before is None or (created is not None and created < self.before))
        )


def job_filter(
    states: Collection[JobState | str],
    labels: Mapping[str, str] | None,
    since: datetime | timedelta | None,
    before: datetime | timedelta | None,
) -> JobFilter:
    """What the arguments of `Client.list_jobs` ask for."""
    return JobFilter(
        states=tuple(_state(state, f"states[{position}]") for position, state in enumerate(texts(states, "states"))),
        labels=labels or {},
        since=_moment(since),
        before=_moment(before),
    )


def _state(text: str, field: str) -> JobState:
    known = [state.value for state in JobState if state is not JobState.UNSPECIFIED]
    try:
        return JobState(text)
    except ValueError:
        meant = word_for(text, known)
        remedy = did_you_mean([meant]) if meant else f"expected one of {', '.join(known)}"
        raise InvalidRequestError([FieldViolation(field, f"{text!r} is no state of a job; {remedy}")]) from None


def _moment(time: datetime | timedelta | None) -> datetime | None:
    """A point in time in UTC, whole milliseconds, which is what the service keeps."""
    if time is None:
        return None
    moment = (datetime.now(UTC) - time if isinstance(time, timedelta) else time).astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
