"""Tells queued jobs why they wait: a loop that compares what they need with the agents that were seen.

Every replica that serves the API has one. They find the same, and write only what has changed.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from secateur_service.control.rounds import Rounds
from secateur_service.errors import TransientError
from secateur_service.jobs.port import JobStore
from secateur_service.records.needs import SEEN_SECONDS, Capacity, largest

EXPLAIN_SECONDS = 3.0

_log = structlog.get_logger(__name__)


class Explainer:
    """Runs in its own thread.

    Args:
        store: the jobs and the agents.
        offered: what agents have that can be asked for, by class; alike on all replicas.
        pause_seconds: time between two rounds.
    """

    def __init__(
        self, store: JobStore, offered: Mapping[str, Capacity], *, pause_seconds: float = EXPLAIN_SECONDS
    ) -> None:
        self._store, self._offered = store, offered
        self._pause_seconds = pause_seconds
        self._rounds = Rounds("explainer", self._round, after_seconds=pause_seconds)

    def start(self) -> None:
        """Start; the first round is after a pause, when a server that starts with this one has announced itself."""
        self._rounds.start()

    def stop(self) -> None:
        """End the loop."""
        self._rounds.stop()

    def explain(self) -> None:
        """Run one round. A failure is logged; the next round sees the same difference again."""
        try:
            seen = self._store.agents.seen(SEEN_SECONDS)
            changed = self._store.explain_waiting(largest(agent.capacity for agent in seen), self._offered)
        except TransientError as error:
            _log.warning("could not tell jobs why they wait", error=error.message)
        except Exception:  # noqa: BLE001 - a defect must not end the only loop that tells them
            _log.exception("could not tell jobs why they wait")
        else:
            if changed:
                _log.info("told jobs why they wait, or no longer", jobs=changed, agents_seen=len(seen))

    def _round(self) -> float:
        self.explain()
        return self._pause_seconds
