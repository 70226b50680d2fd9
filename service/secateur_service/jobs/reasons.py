"""Why queued jobs wait, in SQL: told where no agent has room for a job, taken back when one has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from sqlalchemy import and_, bindparam, func, insert, select, update

from secateur_service.jobs.access import IS_QUEUED, SqlAccess
from secateur_service.jobs.events import log_body
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.rows import NEED_COLUMNS, to_needs
from secateur_service.jobs.schema import events, jobs
from secateur_service.records.needs import Capacity, Needs

_AT_ONCE = 500  # rows of a transaction, so that nobody waits long for those locked in it
_SERVED = "an agent that this job fits has been seen; it waits for a free slot"


class SqlReasons(SqlAccess):
    """`port.Reasons` in SQL."""

    def explain_waiting(
        self, seen: Collection[Capacity], offered: Mapping[str, Capacity] = MappingProxyType({})
    ) -> int:
        """Write why queued jobs wait, each change with a line in the job's log; jobs that others change are left out.

        Args:
            seen: capacities of agents that count, see `needs.largest`.
            offered: of those that can be asked for, by class.

        Returns:
            The number of jobs that have another reason now, or none.
        """
        changed = 0
        for needs, told in self._told():
            reason = needs.waits(seen, offered)
            while reason != told and (count := self._tell(needs, told, reason)):
                changed += count
        return changed

    def unserved(self) -> list[tuple[Needs, int]]:
        """What the queued jobs need that have a reason to wait, and how many jobs each time."""
        count = func.count().label("count")
        query = select(*NEED_COLUMNS, count).where(IS_QUEUED, jobs.c.waiting.is_not(None)).group_by(*NEED_COLUMNS)
        with self._reading() as connection:
            return [(to_needs(row), row["count"]) for row in connection.execute(query).mappings()]

    def _told(self) -> list[tuple[Needs, str | None]]:
        """The different needs of queued jobs, with the different reasons that these have."""
        query = select(*NEED_COLUMNS, jobs.c.waiting).where(IS_QUEUED).group_by(*NEED_COLUMNS, jobs.c.waiting)
        with self._reading() as connection:
            return [(to_needs(row), row["waiting"]) for row in connection.execute(query).mappings()]

    def _tell(self, needs: Needs, told: str | None, reason: str | None) -> int:
        """Change the reason of some jobs that have these needs; returns their number."""
        same = [column == value for column, value in zip(NEED_COLUMNS, _values(needs), strict=True)]
        same.append(jobs.c.waiting.is_(None) if told is None else jobs.c.waiting == told)
        some = select(jobs.c.number, jobs.c.id, jobs.c.attempt, jobs.c.last_sequence).where(IS_QUEUED, and_(*same))
        some = some.order_by(jobs.c.not_before).limit(_AT_ONCE).with_for_update(skip_locked=True)
        level, message = ("info", _SERVED) if reason is None else ("warning", f"waits: {reason}")
        body = log_body(level, message, {})
        with self._writing() as connection:
            rows = connection.execute(some).all()
            if not rows:
                return 0
            now = self._now(connection)
            change = update(jobs).where(jobs.c.number == bindparam("of"))
            connection.execute(
                change.values(waiting=reason, last_event_time=now, last_sequence=bindparam("sequence")),
                [{"of": row.number, "sequence": row.last_sequence + 1} for row in rows],
            )
            self._database.order_events(connection)
            lines = [
                {
                    "job_id": row.id,
                    "sequence": row.last_sequence + 1,
                    "time": now,
                    "attempt": row.attempt,
                    "kind": EventKind.LOG.value,
                    "body": body,
                }
                for row in rows
            ]
            connection.execute(insert(events), lines)
            return len(rows)


def _values(needs: Needs) -> tuple[int, ...]:
    """In the order of `NEED_COLUMNS`."""
    return (needs.device_bytes, needs.host_bytes_beside_device, needs.disk_bytes, needs.host_bytes)
