"""Leases on names, in SQL: one of several replicas does what only one is to do."""

from __future__ import annotations

from sqlalchemy import insert, or_, update
from sqlalchemy.exc import IntegrityError

from secateur_service.jobs.database import Database, transaction
from secateur_service.jobs.schema import leases


class SqlLeases:
    """`port.Leases` in SQL; safe to use from several threads and processes.

    Any method raises `TransientError` with reason STORE_UNAVAILABLE while the database does not answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, name: str, owner: str, seconds: float) -> bool:
        """Take or extend a lease for this long from now, by the database's clock.

        Returns:
            False while another owner has it.
        """
        now = self._database.now
        end = now + round(seconds * 1000)
        to_take = or_(leases.c.owner == owner, leases.c.lease_end < now)
        try:
            with transaction(self._database.writer) as connection:
                taken = update(leases).where(leases.c.name == name, to_take).values(owner=owner, lease_end=end)
                if connection.execute(taken).rowcount:
                    return True
            with transaction(self._database.writer) as connection:
                connection.execute(insert(leases).values(name=name, owner=owner, lease_end=end))
                return True
        except IntegrityError:  # somebody has it, or was quicker
            return False

    def release(self, name: str, owner: str) -> None:
        """Give up a lease, if this owner has it."""
        held = (leases.c.name == name, leases.c.owner == owner)
        with transaction(self._database.writer) as connection:
            connection.execute(update(leases).where(*held).values(lease_end=0))
