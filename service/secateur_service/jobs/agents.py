"""Who runs jobs, in SQL: every process with slots announces itself, a server as well as an agent.

The announcements decide nothing about an attempt, which has its lease. They tell waiting jobs whether anybody has room
for them, capacity providers what there is already, and operators who is there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Row, delete, insert, select, update

from secateur_service.jobs.database import Database, transaction
from secateur_service.jobs.rows import to_time
from secateur_service.jobs.schema import agents
from secateur_service.records.needs import Capacity


@dataclass(frozen=True)
class AgentRecord:
    """A process that runs jobs, as it announced itself.

    Attributes:
        id: unique among those that run; the owner of the jobs that it claims.
        node: the machine.
        version: its release.
        slots: jobs that it runs at once; 0 once it has ended.
        busy: slots that are in use.
        capacity: of each slot.
        heartbeat: when it was last heard of, by the database's clock; None before it was announced.
        draining: whether it takes no more jobs.
    """

    id: str
    node: str
    version: str
    slots: int
    busy: int
    capacity: Capacity
    heartbeat: datetime | None = None
    draining: bool = False


class SqlAgents:
    """`port.Agents` in SQL; safe to use from several threads and processes.

    Any method raises `TransientError` with reason STORE_UNAVAILABLE while the database does not answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def announce(self, record: AgentRecord) -> None:
        """Write that an agent is there, and how it is; its heartbeat is the database's time."""
        values = {
            "node": record.node,
            "version": record.version,
            "slots": record.slots,
            "busy": record.busy,
            "draining": record.draining,
            "heartbeat": self._database.now,
            **asdict(record.capacity),
        }
        with transaction(self._database.writer) as connection:
            known = connection.execute(update(agents).where(agents.c.id == record.id).values(values))
            if not known.rowcount:
                connection.execute(insert(agents).values(id=record.id, **values))

    def withdraw(self, agent_id: str) -> None:
        """Write that an agent has ended. It still counts among those that were seen, without slots."""
        ended = {"slots": 0, "busy": 0, "draining": True, "heartbeat": self._database.now}
        with transaction(self._database.writer) as connection:
            connection.execute(update(agents).where(agents.c.id == agent_id).values(ended))

    def seen(self, since_seconds: float) -> list[AgentRecord]:
        """The agents that were heard of within this time, by id, also those that have ended."""
        since = self._database.now - round(since_seconds * 1000)
        query = select(agents).where(agents.c.heartbeat >= since).order_by(agents.c.id)
        with transaction(self._database.reader) as connection:
            return [_record(row) for row in connection.execute(query)]

    def forget(self, older_than_seconds: float) -> int:
        """Remove those that were not heard of for this long; returns their number."""
        before = self._database.now - round(older_than_seconds * 1000)
        with transaction(self._database.writer) as connection:
            return connection.execute(delete(agents).where(agents.c.heartbeat < before)).rowcount


def _record(row: Row[tuple[object, ...]]) -> AgentRecord:
    return AgentRecord(
        id=row.id,
        node=row.node,
        version=row.version,
        slots=row.slots,
        busy=row.busy,
        capacity=Capacity(row.devices, row.device_bytes, row.host_bytes, row.disk_bytes),
        heartbeat=to_time(row.heartbeat),
        draining=row.draining,
    )
