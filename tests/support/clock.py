"""Time that tests move: the clock of the code under test, and that of the job store."""

from sqlalchemy import update

from secateur_service.jobs.schema import agents, events, jobs, leases

_TIMES = {
    table: [column for column in table.columns if column.name.endswith(("time", "_deadline", "_end"))]
    + [table.c[name] for name in others]
    for table, others in ((jobs, ("heartbeat", "not_before")), (events, ()), (agents, ("heartbeat",)), (leases, ()))
}


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def let_pass(store, seconds):
    """Let time pass in a job store, for all its processes at once: everything in it becomes so much older.

    What a process counts by a clock of its own, such as a worker's silence, is not moved.
    """
    with store._database.writer.begin() as connection:
        for table, columns in _TIMES.items():
            older = {column: column - round(seconds * 1000) for column in columns}
            connection.execute(update(table).values(older))
