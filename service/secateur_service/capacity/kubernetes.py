"""Agents as Jobs of Kubernetes (batch/v1), over its API server's REST interface; no client library is needed.

The pod of an agent is the operator's: a CronJob that is suspended for ever holds the template, as it does for
`kubectl create job --from=cronjob/…`. So its image, secrets and volumes are deployed, patched and rolled out like all
else, and no credential passes through here. What a ticket adds is in `_job`.

A Job runs one agent. What becomes of its pod decides `podFailurePolicy`: a pod that is preempted, drained or evicted is
replaced and not counted; an agent with an invalid setting fails its Job, and the loop asks again after a pause. If
the template has the label of a queue, the Job is created suspended, and Kueue admits it when its quota allows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secateur_service.agent_classes import AgentClass
from secateur_service.capacity.port import ALIVE, Ticket, TicketState
from secateur_service.capacity.rest import REFUSED, Rest
from secateur_service.errors import CapacityError, PreemptedError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the token, the authority and the namespace of its service account."""

SERVICE_LABEL = "secateur/service"
CLASS_LABEL = "secateur/agent-class"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
GPU = "nvidia.com/gpu"
INVALID_SETTING = 2
"""With which an agent ends that would end so again."""
_PAGE = "200"
_FORGET_SECONDS = 3600
_TRIES = 3
_SAID_CHARACTERS = 300


class KubernetesProvider:
    """Agents as Jobs of one namespace."""

    def __init__(self, rest: Rest, *, namespace: str, service: str, arguments: list[str]) -> None:
        """Prepare; nothing is asked yet.

        Args:
            rest: the API server.
            namespace: of the templates and the Jobs.
            service: name of this service among those of the namespace.
            arguments: of the image's entry point, to start an agent; `--name NAME` is added.
        """
        self._rest = rest
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._templates = f"/apis/batch/v1/namespaces/{namespace}/cronjobs"
        self._service = service
        self._arguments = arguments

    def tickets(self) -> list[Ticket]:
        """All Jobs of this service; Kubernetes forgets those that ended an hour ago."""
        found: list[Ticket] = []
        fields = {"labelSelector": f"{SERVICE_LABEL}={self._service}", "limit": _PAGE}
        while True:
            _, page = self._rest.call("GET", self._jobs, fields=fields)
            if not isinstance(page, dict) or not isinstance(page.get("items"), list):
                raise CapacityError("the list of Jobs has no items; is capacity_url the API server?", reason=REFUSED)
            found += [_ticket(job) for job in page["items"]]
            more = page.get("metadata", {}).get("continue")
            if not more:
                return found
            fields["continue"] = more

    def request(self, name: str, agent_class: str, wanted: AgentClass) -> Ticket:
        """Create a Job, unless there is one of that name."""
        template = self._template(wanted.template)
        job = self._job(template, name, agent_class, wanted)
        fields = {"fieldValidation": "Strict", "fieldManager": "secateur"}
        status, made = self._rest.call("POST", self._jobs, fields=fields, body=job, answers=(409,))
        if status == 409:
            _, made = self._rest.call("GET", f"{self._jobs}/{name}")
            if made["metadata"].get("labels", {}).get(SERVICE_LABEL) != self._service:
                raise CapacityError(
                    f"there is a Job {name} that is not of this service; set another capacity_name", reason=REFUSED
                )
        return _ticket(made)

    def withdraw(self, ticket: Ticket) -> None:
        """Delete the Job and its pods, whose agents get SIGTERM; unless it has changed since it was read."""
        uid, _, resource_version = ticket.version.partition("/")
        preconditions = {"uid": uid, "resourceVersion": resource_version} if ticket.state in ALIVE else {"uid": uid}
        options = {"propagationPolicy": "Background", "preconditions": preconditions}
        self._rest.call("DELETE", f"{self._jobs}/{ticket.name}", body=options, answers=(404, 409))

    def _template(self, name: str) -> dict[str, Any]:
        status, found = self._rest.call("GET", f"{self._templates}/{name}", answers=(404,))
        if status == 404:
            raise CapacityError(
                f"there is no CronJob {name} to take the template of agents from; deploy the component `agents`, or "
                "name another in capacity_classes",
                reason=REFUSED,
            )
        template: dict[str, Any] = copy.deepcopy(found["spec"]["jobTemplate"])
        return template

    def _job(self, template: dict[str, Any], name: str, agent_class: str, wanted: AgentClass) -> dict[str, Any]:
        """The template with what makes it the Job of one agent."""
        metadata, spec = template.get("metadata", {}), template["spec"]
        marks = {SERVICE_LABEL: self._service, CLASS_LABEL: agent_class}
        labels = {**metadata.get("labels", {}), **marks}
        if QUEUE_LABEL in labels:
            spec["suspend"] = True
        spec.setdefault("backoffLimit", _TRIES)
        spec.setdefault("ttlSecondsAfterFinished", _FORGET_SECONDS)
        pod = spec["template"]
        pod.setdefault("metadata", {}).setdefault("labels", {}).update(marks)
        pod["spec"]["restartPolicy"] = "Never"  # which podFailurePolicy asks for
        container = pod["spec"]["containers"][0]
        spec.setdefault("podFailurePolicy", _failure_policy(container["name"]))
        container["args"] = [*self._arguments, "--name", name]
        _ask_for(container, wanted)
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "labels": labels, "annotations": metadata.get("annotations", {})},
            "spec": spec,
        }


def _failure_policy(container: str) -> dict[str, Any]:
    def ended_with(exit_codes: list[int]) -> dict[str, Any]:
        return {"containerName": container, "operator": "In", "values": exit_codes}

    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "Ignore", "onExitCodes": ended_with([PreemptedError.exit_code])},
            {"action": "FailJob", "onExitCodes": ended_with([INVALID_SETTING])},
        ]
    }


def _ask_for(container: dict[str, Any], wanted: AgentClass) -> None:
    """Set what the class asks for; what else the template asks for stays."""
    own = {"memory": str(wanted.host_bytes)}
    extended = wanted.resources or ({GPU: wanted.devices} if wanted.devices else {})
    own |= {name: f"{amount:g}" for name, amount in extended.items()}
    resources = container.setdefault("resources", {})
    resources["limits"] = {**resources.get("limits", {}), **own}
    resources["requests"] = {**resources.get("requests", {}), **own, "cpu": f"{wanted.cpus:g}"}


def _ticket(job: dict[str, Any]) -> Ticket:
    metadata, status = job["metadata"], job.get("status", {})
    state, said = _state(status)
    return Ticket(
        metadata["name"],
        metadata.get("labels", {}).get(CLASS_LABEL, ""),
        state,
        said[:_SAID_CHARACTERS],
        f"{metadata.get('uid', '')}/{metadata.get('resourceVersion', '')}",
    )


def _state(status: dict[str, Any]) -> tuple[TicketState, str]:
    conditions = {condition["type"]: condition for condition in _true(status)}
    for name, state in (("Failed", TicketState.FAILED), ("FailureTarget", TicketState.FAILED)):
        if name in conditions:
            return state, f"{conditions[name].get('reason', '')}: {conditions[name].get('message', '')}"
    if conditions.keys() & {"Complete", "SuccessCriteriaMet"}:
        return TicketState.ENDED, ""
    if status.get("ready"):
        return TicketState.RUNNING, ""
    suspended = conditions.get("Suspended")
    return TicketState.WAITING, suspended.get("message", "") if suspended else ""


def _true(status: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for condition in status.get("conditions") or ():
        if condition.get("status") == "True":
            yield condition
