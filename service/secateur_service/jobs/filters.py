"""Which jobs a list has, in which order, and where its next page begins."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from secateur_service.jobs.states import JobState


@dataclass(frozen=True)
class Filter:
    """Which jobs a list has: those that all of this is true of.

    Attributes:
        states: the state is one of these, each named once; any where there is none.
        labels: the job has all of these.
        created_from: the earliest time of creation; None for any.
        created_before: the time that creation has to be before; None for any.
        id_prefix: what the id begins with.
    """

    states: tuple[JobState, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    created_from: datetime | None = None
    created_before: datetime | None = None
    id_prefix: str = ""


class OrderKey(enum.StrEnum):
    """What a list can be ordered by. Jobs that have no such value are not in the list."""

    CREATE_TIME = "create_time"
    END_TIME = "end_time"
    WORST_GROWTH = "worst_growth"  # see `records.growth`


@dataclass(frozen=True)
class Order:
    """The order of a list; of equal jobs the newest is the greatest."""

    key: OrderKey = OrderKey.CREATE_TIME
    descending: bool = True


Place: TypeAlias = tuple[float, int]
"""The last job of a page: the value that the list is ordered by (times in milliseconds), and the job's number."""

ALL, NEWEST_FIRST = Filter(), Order()
