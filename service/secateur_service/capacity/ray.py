"""Agents as jobs of a Ray cluster, over its Jobs REST API. No package of Ray is needed, so versions need not agree.

What Ray 2.60 does, and what follows (measured):

- It shows the environment variables of a job to every user of its dashboard, and writes them into its logs. So a ticket
  carries none of ours: agents read their settings and secrets from the environment or a file of their own node.
- A submission id that is known is refused with status 500, not 409. So it is looked up before it is used.
- Jobs are forgotten when the head is replaced, while their processes run for another minute. An agent that is asked for
  again then runs beside the old one; which of them may write to a job, the job store decides.
- A job that is stopped gets SIGTERM, and SIGKILL three seconds later, unless its environment says otherwise.
- A job that has no place for 15 minutes fails. That is no failure of an agent; it is asked for again if it is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from secateur_service.agent_classes import AgentClass
from secateur_service.capacity.port import ALIVE, Ticket, TicketState
from secateur_service.capacity.rest import REFUSED, Rest
from secateur_service.errors import CapacityError, PreemptedError

_STATES = {
    "PENDING": TicketState.WAITING,
    "RUNNING": TicketState.RUNNING,
    "SUCCEEDED": TicketState.ENDED,
    "STOPPED": TicketState.ENDED,
    "FAILED": TicketState.FAILED,
}
_NO_PLACE = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
_SERVICE, _CLASS = "secateur-service", "secateur-class"
_JOBS = "/api/jobs/"
_SAID_CHARACTERS = 300


class RayProvider:
    """Agents as jobs of Ray."""

    def __init__(self, rest: Rest, *, service: str, command: str, stop_seconds: float) -> None:
        """Prepare; nothing is asked yet.

        Args:
            rest: the head's dashboard, `http://head:8265`.
            service: name of this service among those that share the cluster.
            command: starts an agent on a node of the cluster; `--name NAME` is added.
            stop_seconds: how long an agent that is told to stop may take.
        """
        self._rest = rest
        self._service = service
        self._command = command
        self._stop_seconds = stop_seconds

    def tickets(self) -> list[Ticket]:
        """All requests of this service that Ray knows; after a replacement of the head, only those made since."""
        _, jobs = self._rest.call("GET", _JOBS)
        if not isinstance(jobs, list):
            raise CapacityError(
                "Ray's list of jobs is no list; is capacity_url the address of a Ray dashboard?", reason=REFUSED
            )
        return list(self._own(jobs))

    def request(self, name: str, agent_class: str, wanted: AgentClass) -> Ticket:
        """Submit a job, unless there is one of that name."""
        found = self._find(name)
        if found is not None:
            return found
        status, _ = self._rest.call("POST", _JOBS, body=self._job(name, agent_class, wanted), answers=(500,))
        if status == 500:  # another replica was quicker, or something else is wrong
            found = self._find(name)
            if found is None:
                raise CapacityError(f"Ray failed to take {name} (status 500); its dashboard's log says why")
            return found
        return Ticket(name, agent_class, TicketState.WAITING)

    def withdraw(self, ticket: Ticket) -> None:
        """Stop the job, or forget one that has ended."""
        path = f"{_JOBS}{quote(ticket.name, safe='')}"
        if ticket.state in ALIVE:
            self._rest.call("POST", f"{path}/stop", answers=(404,))
        else:
            self._rest.call("DELETE", path, answers=(404,))

    def _find(self, name: str) -> Ticket | None:
        status, job = self._rest.call("GET", f"{_JOBS}{quote(name, safe='')}", answers=(404,))
        if status == 404 or not isinstance(job, dict):
            return None
        found = next(self._own([job]), None)
        if found is None:
            raise CapacityError(
                f"Ray has a job {name} that is not of this service; set another capacity_name", reason=REFUSED
            )
        return found

    def _own(self, jobs: list[Any]) -> Iterator[Ticket]:
        for job in jobs:
            marks = job.get("metadata") or {}
            name, state = job.get("submission_id"), _STATES.get(str(job.get("status")))
            if job.get("error_type") == _NO_PLACE or job.get("driver_exit_code") == PreemptedError.exit_code:
                state = TicketState.ENDED
            if name and state and marks.get(_SERVICE) == self._service:
                said = " ".join(str(job.get("message") or "").split())[:_SAID_CHARACTERS]
                yield Ticket(name, str(marks.get(_CLASS, "")), state, said)

    def _job(self, name: str, agent_class: str, wanted: AgentClass) -> dict[str, Any]:
        return {
            "submission_id": name,
            # exec: the agent takes the place of Ray's shell, and gets its signals
            "entrypoint": f"exec {self._command} --name {name}",
            "entrypoint_num_cpus": wanted.cpus,
            "entrypoint_num_gpus": wanted.devices,
            "entrypoint_memory": wanted.host_bytes,
            "entrypoint_resources": wanted.resources,
            "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": f"{self._stop_seconds:.0f}"}},
            "metadata": {_SERVICE: self._service, _CLASS: agent_class},
        }
