"""A page of jobs in SQL, fast whatever the filter: neither database may read every job, whose rows are large.

The numbers of a page's jobs come from indexes alone. There are two ways to find them. If some part of the filter leaves
few jobs, these are looked up and sorted. Else the index of the order is walked until the page is full; it has what the
other parts need beside labels, which are probed. Which one, the database cannot know: SQLite has no statistics that say
how frequent a value is. So the parts are counted, up to `FEW`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, or_, select, tuple_, update
from sqlalchemy.engine import Connection

from secateur_service.jobs.database import Database
from secateur_service.jobs.filters import Filter, Order, OrderKey, Place
from secateur_service.jobs.job import Job, JobResult
from secateur_service.jobs.rows import to_job, to_milliseconds
from secateur_service.jobs.schema import job_labels, jobs
from secateur_service.jobs.states import JobState
from secateur_service.records.decoding import decode
from secateur_service.records.growth import growths_of_details, growths_of_result, worst_growth

FEW = 5000
_COLUMNS = {
    OrderKey.CREATE_TIME: jobs.c.create_time,
    OrderKey.END_TIME: jobs.c.end_time,
    OrderKey.WORST_GROWTH: jobs.c.worst_growth,
}


def page(
    connection: Connection,
    database: Database,
    wanted: Filter,
    order: Order,
    *,
    limit: int,
    after: Place | None,
    few: int = FEW,
) -> tuple[list[Job], Place | None]:
    """A page of a list, and the place after which the next one begins (None after the last).

    Args:
        connection: reads the store.
        database: what it is.
        wanted: which jobs.
        order: in which order.
        limit: the most jobs.
        after: the place where the page before it ended; None for the first page.
        few: the most jobs to look up.
    """
    column = _COLUMNS[order.key]
    place = tuple_(column, jobs.c.number)
    query = select(column, jobs.c.number).where(
        column.is_not(None), *_conditions(connection, database, wanted, order, few)
    )
    if after is not None:
        bound = tuple_(*after)
        query = query.where(place < bound if order.descending else place > bound)
    sorting = (column.desc(), jobs.c.number.desc()) if order.descending else (column, jobs.c.number)
    places = [(row[0], row[1]) for row in connection.execute(query.order_by(*sorting).limit(limit + 1))]
    found = _jobs(connection, [number for _, number in places[:limit]])
    return found, places[limit - 1] if len(places) > limit > 0 else None


def fill_growth(connection: Connection) -> None:
    """Write `worst_growth` of jobs that got their figures in a release without it."""
    exceeded = and_(jobs.c.state == JobState.FAILED.value, jobs.c.model_digest.is_not(None))
    lacking = select(jobs.c.number).where(
        or_(jobs.c.state == JobState.SUCCEEDED.value, exceeded), jobs.c.worst_growth.is_(None)
    )
    write = update(jobs).where(jobs.c.number == bindparam("of")).values(worst_growth=bindparam("growth"))
    numbers = connection.scalars(lacking).all()
    for start in range(0, len(numbers), FEW):
        some = jobs.c.number.in_(numbers[start : start + FEW])
        read = select(jobs.c.number, jobs.c.resolved, jobs.c.result, jobs.c.failure).where(some)
        growths = [
            {"of": row.number, "growth": worst_growth(row.resolved, _growths(row.result, row.failure))}
            for row in connection.execute(read)
        ]
        connection.execute(write, growths)


def _growths(result: Any, failure: Any) -> dict[str, float]:
    """The growth of each language, of a job that has a result or a failure with figures."""
    return growths_of_details(failure["details"]) if result is None else growths_of_result(decode(JobResult, result))


def _jobs(connection: Connection, numbers: Sequence[int]) -> list[Job]:
    """Jobs by their numbers, in that order, but for those that are gone meanwhile."""
    rows = {row["number"]: row for row in connection.execute(select(jobs).where(jobs.c.number.in_(numbers))).mappings()}
    return [to_job(rows[number]) for number in numbers if number in rows]


def _conditions(
    connection: Connection, database: Database, wanted: Filter, order: Order, few: int
) -> list[ColumnElement[bool]]:
    """The filter, in the form that is fast for these jobs."""
    parts: list[Select[tuple[int]]] = [
        select(job_labels.c.number).where(job_labels.c.key == key, job_labels.c.value == value)
        for key, value in wanted.labels.items()
    ]
    numbers = select(jobs.c.number)
    if wanted.states:
        parts.append(numbers.where(jobs.c.state.in_(wanted.states)))
    created = _created(jobs.c.create_time, wanted)
    if created is not None and order.key is not OrderKey.CREATE_TIME:
        parts.append(numbers.where(created))
    if wanted.id_prefix:
        parts.append(numbers.where(database.begins_with(jobs.c.id, wanted.id_prefix)))
    counts = [_count(connection, part, few) for part in parts]
    fewest = min(counts, default=few + 1)
    looked_up = parts[counts.index(fewest)] if fewest <= few else None

    conditions: list[ColumnElement[bool]] = []
    if looked_up is not None:
        conditions.append(jobs.c.number.in_(looked_up))
    elif wanted.id_prefix:
        conditions.append(jobs.c.number.in_(parts[-1]))
    for key, value in wanted.labels.items():
        conditions.append(_probe(key, value))
    if wanted.states:
        conditions.append(_unindexed(jobs.c.state, "").in_(wanted.states))
    if wanted.id_prefix and looked_up is not None:
        conditions.append(database.begins_with(_unindexed(jobs.c.id, ""), wanted.id_prefix))
    walks_it = looked_up is None and order.key is OrderKey.CREATE_TIME
    created = created if walks_it else _created(_unindexed(jobs.c.create_time, 0), wanted)
    return conditions if created is None else [*conditions, created]


def _count(connection: Connection, numbers: Select[tuple[int]], few: int) -> int:
    """How many there are, up to one more than few."""
    return connection.scalar(select(func.count()).select_from(numbers.limit(few + 1).subquery())) or 0


def _probe(key: str, value: str) -> ColumnElement[bool]:
    """Whether a job has a label.

    Written so that PostgreSQL looks it up job by job until the page is full. It takes the parts of a filter for rarer
    than they are, and would join all jobs with all labels first; an offset, even of 0, keeps it from that.
    """
    own = (job_labels.c.number == jobs.c.number, job_labels.c.key == key, job_labels.c.value == value)
    return select(job_labels.c.number).where(*own).offset(0).exists()


def _created(column: ColumnElement[int], wanted: Filter) -> ColumnElement[bool] | None:
    bounds: list[ColumnElement[bool]] = []
    if wanted.created_from is not None:
        bounds.append(column >= to_milliseconds(wanted.created_from))
    if wanted.created_before is not None:
        bounds.append(column < to_milliseconds(wanted.created_before))
    return and_(*bounds) if bounds else None


def _unindexed(column: ColumnElement[Any], absent: Any) -> ColumnElement[Any]:
    """A column that has a value, in a form that no index is used for: the planner is to use the one we chose."""
    return func.coalesce(column, absent)
