"""The tables of the job store, in types that SQLite and PostgreSQL share.

Times are whole milliseconds since 1970 in UTC, taken from the database's clock: integers compare alike everywhere.
A change here needs a migration in `migrations/versions`, whose rules are in `migrations/env.py`; tests compare the two.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

from secateur_service.jobs.states import JobState

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

Plain = JSON(none_as_null=True)
# SQLite numbers rows automatically only in a column of type INTEGER.
Counter = BigInteger().with_variant(Integer, "sqlite")

jobs = Table(
    "jobs",
    metadata,
    Column("number", Counter, primary_key=True),  # order of creation; two jobs may be created within one millisecond
    Column("id", String(128), nullable=False, unique=True),
    Column("uid", String(64), nullable=False, unique=True),
    Column("request_id", String(64), unique=True),
    Column("request_digest", String(64)),
    Column("spec", Plain, nullable=False),
    Column("resolved", Plain, nullable=False),
    Column("labels", Plain, nullable=False),
    Column("estimate", Plain, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", String(16)),
    Column("progress", Plain),
    Column("attempt", Integer, nullable=False),
    Column("charged_attempts", Integer, nullable=False),
    Column("uncharged_attempts", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("owner", String(256)),
    Column("lease_end", BigInteger),
    Column("heartbeat", BigInteger),  # the latest from the current attempt's worker; none while it starts
    Column("not_before", BigInteger, nullable=False),  # the time from which a queued job may be claimed
    Column("failure", Plain),
    Column("result", Plain),
    Column("manifest_sha256", String(64)),
    Column("last_sequence", BigInteger, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("start_time", BigInteger),
    Column("end_time", BigInteger),
    Column("queue_deadline", BigInteger),  # for the first claim
    Column("run_deadline", BigInteger),  # for the end; set at the first claim
    Column("last_event_time", BigInteger),
    Column("retry_of", String(128)),  # the other job may have been deleted
    Column("short_of", Plain),  # memory that ran out in an attempt
    Column("swept_time", BigInteger),  # when its leftovers in the object store were removed
    Column("spec_format", Integer, nullable=False, server_default="1"),  # format of `resolved`
    Column("trace", Plain),  # W3C trace context of the call that created it
    Column("model_digest", String(64)),  # of the dense model; none before there is a report
    Column("worst_growth", Float(53)),  # `records.growth.worst_growth`; none before there is a result
    # `records.needs`; 0 for jobs of a release that did not know them.
    Column("need_host_bytes", BigInteger, nullable=False, server_default="0"),
    Column("need_disk_bytes", BigInteger, nullable=False, server_default="0"),
    Column("need_device_bytes", BigInteger, nullable=False, server_default="0"),
    Column("need_host_beside_device_bytes", BigInteger, nullable=False, server_default="0"),
    Column("waiting", String(512)),  # why a queued job waits although there may be free slots
    CheckConstraint("state IN ({})".format(", ".join(f"'{state}'" for state in JobState)), name="state"),
    Index(None, "state", "number"),
    Index(None, "model_digest", "number"),
    Index(None, "retry_of"),
    # Of the orders of lists, with what filters need: a page reads no row but its own, see `listing`.
    Index(None, "create_time", "number", "state"),
    Index(None, "end_time", "number", "state", "create_time"),
    Index(None, "worst_growth", "number", "state", "create_time"),
    sqlite_autoincrement=True,
)

# PostgreSQL's other index of ids does not serve prefixes, since it is in the order of the database's language.
Index("ix_jobs_id_prefix", jobs.c.id, postgresql_ops={"id": "varchar_pattern_ops"}).ddl_if(dialect="postgresql")

_QUEUED = text(f"state = '{JobState.QUEUED}'")


def _of_the_queue(name: str, *columns: str) -> Index:
    """An index of queued jobs alone: however many have ended, it is no larger than the queue.

    It begins with their state all the same, since SQLite would prefer the index of all states otherwise.
    """
    parts = (jobs.c[column] for column in ("state", *columns))
    return Index(name, *parts, sqlite_where=_QUEUED, postgresql_where=_QUEUED)


_NEEDS = ("need_device_bytes", "need_host_beside_device_bytes", "need_disk_bytes", "need_host_bytes")
# The queue in its order, with what a claim asks for: jobs that do not fit are passed over without reading them.
_of_the_queue("ix_jobs_queue", "create_time", "number", "not_before", "spec_format", *_NEEDS)
# The queue by what it needs: whether anything fits, at a glance; and the groups of equal needs.
_of_the_queue("ix_jobs_queue_needs", *_NEEDS, "waiting", "not_before")
_of_the_queue("ix_jobs_queue_host", "need_host_bytes", "need_disk_bytes", "not_before")

# Each label of each job, for lists. A trigger fills it, so that those of an older release's jobs are there, too.
job_labels = Table(
    "job_labels",
    metadata,
    Column("number", Counter, ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("key", String(128), primary_key=True),
    Column("value", String(128), nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Index(None, "key", "value", "create_time", "number"),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    # The order in which all events were written. Followers rely on it; numbers are never reused.
    Column("position", Counter, primary_key=True),
    Column("job_id", String(128), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("body", Plain, nullable=False),
    UniqueConstraint("job_id", "sequence"),
    sqlite_autoincrement=True,
)

blocks = Table(
    "blocks",
    metadata,
    Column("job_id", String(128), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("record", Plain, nullable=False),
)

# Who runs jobs, as they announced themselves last; see `agents`.
agents = Table(
    "agents",
    metadata,
    Column("id", String(256), primary_key=True),
    Column("node", String(256), nullable=False),
    Column("version", String(64), nullable=False),
    Column("slots", Integer, nullable=False),
    Column("busy", Integer, nullable=False),
    Column("devices", Integer, nullable=False),
    Column("device_bytes", BigInteger, nullable=False),
    Column("host_bytes", BigInteger, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),
    Column("heartbeat", BigInteger, nullable=False),
    Column("draining", Boolean, nullable=False),
)

# Who does at the moment what only one replica is to do; see `leases`.
leases = Table(
    "leases",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("owner", String(256), nullable=False),
    Column("lease_end", BigInteger, nullable=False),
)

# One row, which every migration keeps up to date: the oldest revision whose code may use this schema.
compatibility = Table("schema_compatibility", metadata, Column("oldest", String(32), nullable=False))
