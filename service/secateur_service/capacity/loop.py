"""The capacity loop: asks a cluster for agents when jobs wait, and takes requests back when none do.

Every replica has one, and a lease in the store elects the one that acts. It keeps nothing that must survive: queue,
agents and requests are read anew in each round, and their names keep a request that is repeated from asking twice. What
it remembers (requests that failed, agents that have less than their class says) only spares the cluster requests that
are of no use. A failure costs a pause and is never fatal: jobs wait, and agents that run go on.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from secateur_service.agent_classes import AgentClass
from secateur_service.capacity.plan import Offer, Plan, plan
from secateur_service.capacity.port import Provider, Ticket, TicketState, numbered, ticket_name, ticket_of
from secateur_service.control.backoff import Backoff
from secateur_service.control.rounds import Rounds
from secateur_service.errors import CapacityError, ServiceError, TransientError
from secateur_service.jobs.agents import AgentRecord
from secateur_service.jobs.port import JobStore
from secateur_service.records.capacity import CapacityRound
from secateur_service.records.needs import Needs

LEASE = "capacity"
_PAUSE_SECONDS = 10.0
_LEASE_SECONDS = 60.0
_SEEN_SECONDS = 45.0
_FORGET_SECONDS = 3600.0
_AFTER_FAILURE = Backoff(base_seconds=20.0, max_seconds=600.0)
_AFTER_LOST_ROUND = Backoff(base_seconds=20.0, max_seconds=60.0)

_log = structlog.get_logger(__name__)


@dataclass
class _Failures:
    """Requests of a class that failed one after another."""

    count: int = 0
    until: float = 0.0


class CapacityLoop:
    """Asks for agents, in rounds, in its own thread."""

    def __init__(
        self,
        store: JobStore,
        provider: Provider,
        *,
        service: str,
        owner: str,
        classes: Mapping[str, AgentClass],
        start_seconds: float,
        pause_seconds: float = _PAUSE_SECONDS,
        on_round: Callable[[CapacityRound], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare; nothing happens before `start` or `act`.

        Args:
            store: what waits, who runs jobs, and who may act.
            provider: the system that starts agents.
            service: begins the names of requests.
            owner: names this replica in the store.
            classes: what may be asked for, by name; the first that fits a job is.
            start_seconds: how long an agent may take from its start until it announces itself.
            pause_seconds: time between two rounds.
            on_round: called after every round.
            monotonic: clock for grace periods.
            rng: source of the jitter.
        """
        self._store, self._provider = store, provider
        self._service, self._owner, self._classes = service, owner, classes
        self._start_seconds = start_seconds
        self._pause_seconds = pause_seconds
        self._on_round = on_round
        self._monotonic = monotonic
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._offers = {name: Offer.of(kind) for name, kind in classes.items()}
        self._first_seen: dict[tuple[str, TicketState], float] | None = None
        self._failures: dict[str, _Failures] = {}
        self._withdrawn: set[str] = set()
        self._announced: set[str] = set()
        self._led = False
        self._unserved = 0
        self._lost_rounds = 0
        self._rounds = Rounds("capacity", self.act)

    def start(self) -> None:
        """Start the first round."""
        self._rounds.start()

    def stop(self) -> None:
        """Ask for nothing more; requests stay, and another replica goes on. A call that hangs is not waited for."""
        if self._rounds.stop() and self._led:
            with contextlib.suppress(TransientError):  # it ends by itself
                self._store.leases.release(LEASE, self._owner)

    def act(self) -> float:
        """Run one round; returns the time until the next, which grows while rounds fail."""
        outcomes: Counter[str] = Counter()
        try:
            done = self._round(outcomes)
            self._lost_rounds = 0
        except ServiceError as error:
            outcomes[error.reason] += 1
            _log.warning("no agents can be asked for at the moment", reason=error.reason, error=error.message)
            done = CapacityRound(leads=self._led, outcomes=outcomes, unserved=self._unserved if self._led else 0)
            self._lost_rounds += 1
        except Exception:  # noqa: BLE001 - a defect here must not end the only loop that asks
            outcomes["INTERNAL"] += 1
            _log.exception("no agents can be asked for at the moment")
            done = CapacityRound(leads=self._led, outcomes=outcomes, unserved=self._unserved if self._led else 0)
            self._lost_rounds += 1
        self._on_round(done)
        if not self._lost_rounds:
            return self._pause_seconds
        return max(self._pause_seconds, _AFTER_LOST_ROUND.delay_seconds(self._lost_rounds - 1, self._rng))

    def _round(self, outcomes: Counter[str]) -> CapacityRound:
        leads = self._store.leases.take(LEASE, self._owner, _LEASE_SECONDS)
        if leads is not self._led:
            _log.info("this replica asks for agents" if leads else "another replica asks for agents")
        self._led = leads
        if not leads:
            self._first_seen = None
            return CapacityRound()
        agents = self._store.agents.seen(_SEEN_SECONDS)
        waiting = self._store.waiting()
        self._unserved = self._plan(waiting, agents, []).unserved  # also known where the cluster does not answer
        tickets = self._provider.tickets()
        self._look_at(tickets)
        self._learn(agents, tickets)
        planned = self._plan(waiting, agents, tickets)
        self._withdraw(planned, outcomes)
        made = self._request(planned, self._numbers(agents, tickets), outcomes)
        self._forget(tickets)
        counts = Counter((ticket.agent_class, ticket.state.value) for ticket in [*tickets, *made])
        return CapacityRound(
            leads=True,
            tickets=counts,
            outcomes=outcomes,
            unserved=planned.unserved,
            held_back=planned.held_back,
        )

    def _look_at(self, tickets: Sequence[Ticket]) -> None:
        """Note when each state of a ticket was first seen, and what failed since the last look."""
        now, before = self._monotonic(), self._first_seen
        self._withdrawn &= {ticket.name for ticket in tickets}  # Ray stops what waits only once it has a place
        self._first_seen = {(ticket.name, ticket.state): now for ticket in tickets}
        if before is None:  # what failed earlier, another replica has seen
            return
        for ticket in tickets:
            key = ticket.name, ticket.state
            if key in before:
                self._first_seen[key] = before[key]
            elif ticket.state is TicketState.FAILED:
                self._note_failure(ticket.agent_class)
                _log.warning("an agent that was asked for failed", agent=ticket.name, said=ticket.said)
            elif ticket.state is TicketState.ENDED:
                self._failures.pop(ticket.agent_class, None)

    def _note_failure(self, agent_class: str) -> None:
        """Ask for no agent of the class for a while, which grows with each failure."""
        failures = self._failures.setdefault(agent_class, _Failures())
        failures.until = self._monotonic() + _AFTER_FAILURE.delay_seconds(failures.count, self._rng)
        failures.count += 1

    def _learn(self, agents: Sequence[AgentRecord], tickets: Sequence[Ticket]) -> None:
        """Take agents that announced themselves for what they are, if that is less than their class says."""
        classes = {ticket.name: ticket.agent_class for ticket in tickets}
        for agent in agents:
            name = classes.get(ticket_of(agent.id))
            if name not in self._offers:
                continue
            if agent.id not in self._announced:
                self._failures.pop(name, None)
            limited = self._offers[name].limited_to(agent.capacity)
            if limited != self._offers[name]:
                _log.warning(
                    "an agent has less than capacity_classes says; jobs that need more get none of its class",
                    agent=agent.id,
                    agent_class=name,
                    has=str(agent.capacity),
                )
                self._offers[name] = limited
        self._announced = {agent.id for agent in agents}

    def _plan(
        self, waiting: Sequence[tuple[Needs, int]], agents: Sequence[AgentRecord], tickets: Sequence[Ticket]
    ) -> Plan:
        taking = [agent for agent in agents if not agent.draining]
        return plan(
            waiting,
            idle=[agent.capacity for agent in taking for _ in range(agent.slots - agent.busy)],
            busy={agent.capacity for agent in agents},
            tickets=tickets,
            uncounted={ticket_of(agent.id) for agent in agents} | self._withdrawn | self._overdue(),
            offers=self._offers,
        )

    def _overdue(self) -> set[str]:
        """Tickets whose agents have run for long without announcing themselves."""
        return self._in_state_for(self._start_seconds, (TicketState.RUNNING,))

    def _in_state_for(self, seconds: float, states: Collection[TicketState]) -> set[str]:
        limit, seen = self._monotonic() - seconds, self._first_seen or {}
        return {name for (name, state), since in seen.items() if state in states and since <= limit}

    def _numbers(self, agents: Sequence[AgentRecord], tickets: Sequence[Ticket]) -> Counter[str]:
        """The highest number in use in each class, also by agents whose system has forgotten them."""
        highest = Counter[str]()
        for name in {ticket.name for ticket in tickets} | {ticket_of(agent.id) for agent in agents}:
            agent_class, number = numbered(name, self._service)
            highest[agent_class] = max(highest[agent_class], number)
        return highest

    def _request(self, planned: Plan, highest: Counter[str], outcomes: Counter[str]) -> list[Ticket]:
        """Ask for agents. A class that is refused leaves the others their turn."""
        made = []
        for agent_class in planned.request:
            if self._monotonic() < self._failures.get(agent_class, _Failures()).until:
                continue
            highest[agent_class] += 1
            name = ticket_name(self._service, agent_class, highest[agent_class])
            try:
                made.append(self._provider.request(name, agent_class, self._classes[agent_class]))
            except CapacityError as error:
                self._note_failure(agent_class)
                outcomes[error.reason] += 1
                _log.warning("an agent is refused", agent=name, reason=error.reason, error=error.message)
            else:
                outcomes["requested"] += 1
                _log.info("an agent is asked for", agent=name, agent_class=agent_class)
        return made

    def _withdraw(self, planned: Plan, outcomes: Counter[str]) -> None:
        for ticket in planned.withdraw:
            try:
                self._provider.withdraw(ticket)
            except CapacityError as error:
                outcomes[error.reason] += 1
                _log.warning(
                    "a request cannot be withdrawn", agent=ticket.name, reason=error.reason, error=error.message
                )
            else:
                self._withdrawn.add(ticket.name)
                outcomes["withdrawn"] += 1
                _log.info("a request for an agent is withdrawn, because no job waits for it", agent=ticket.name)

    def _forget(self, tickets: Sequence[Ticket]) -> None:
        """Have nothing kept of agents that ended an hour ago."""
        old = self._in_state_for(_FORGET_SECONDS, (TicketState.ENDED, TicketState.FAILED))
        for ticket in tickets:
            if ticket.name in old:
                self._provider.withdraw(ticket)
