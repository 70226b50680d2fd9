"""A small API server of Kubernetes: Jobs and the templates of CronJobs, as strict with objects as a real one is.

Every object that is created is checked against Kubernetes' own schemas, strictly, and against the rules of its
validation and of Kueue that matter for a Job of ours and that no schema has. What a cluster's controllers would do,
tests do: they say that a pod started, or how it ended, and the Job's own failure policy decides what follows.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kubernetes_validate

from servers import http_server, send

VERSION = "1.34"
TOKEN = "token-of-the-service-account"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")

_DELETE_OPTIONS = {"apiVersion", "kind", "dryRun", "gracePeriodSeconds", "preconditions", "propagationPolicy"}


class RefusedError(Exception):
    def __init__(self, status: int, reason: str, message: str):
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


class KubernetesApi:
    """`jobs` are those of the namespace, by name; so many further calls as `failing` says are answered with a fault."""

    def __init__(self, namespace: str, templates: Sequence[dict[str, Any]] = ()):
        self.namespace = namespace
        self.templates = {template["metadata"]["name"]: template for template in templates}
        for template in templates:
            self.check(template)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.failing = 0
        self._versions = itertools.count(1)
        self._lock = threading.Lock()
        self.url = ""

    @contextlib.contextmanager
    def serving(self) -> Iterator[KubernetesApi]:
        """Answer at `url` meanwhile."""
        with http_server(self._handle) as self.url:
            yield self

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        body = json.loads(request.rfile.read(length)) if length else None
        with self._lock:
            try:
                status, content = self.answer(request.command, request.path, request.headers, body)
            except RefusedError as refused:
                status = refused.status
                content = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
                content |= {"reason": refused.reason, "message": refused.message}
            data = json.dumps(content).encode()
        send(request, status, data, "application/json")

    def answer(self, method: str, target: str, headers: Any, body: Any) -> tuple[int, Any]:
        parts = urlsplit(target)
        if self.failing:
            self.failing -= 1
            raise RefusedError(503, "ServiceUnavailable", "the server is currently unable to handle the request")
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            raise RefusedError(401, "Unauthorized", "Unauthorized")
        fields = {name: values[0] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        prefix = f"/apis/batch/v1/namespaces/{self.namespace}/"
        kind, _, name = unquote(parts.path.removeprefix(prefix)).partition("/")
        allowed = {("GET", "jobs"), ("POST", "jobs"), ("DELETE", "jobs"), ("GET", "cronjobs")}
        if not parts.path.startswith(prefix) or (method, kind) not in allowed or (kind == "cronjobs" and not name):
            raise RefusedError(403, "Forbidden", f'cannot {method} "{parts.path}"')
        if kind == "cronjobs":
            return 200, self._one(self.templates, name, "cronjobs.batch")
        if method == "POST" and not name:
            return 201, self._create(body, fields)
        if method == "GET" and not name:
            return 200, self._list(fields)
        if method == "GET":
            return 200, self._one(self.jobs, name, "jobs.batch")
        return self._delete(name, body or {})

    def check(self, thing: dict[str, Any]) -> None:
        """Refuse what Kubernetes refuses of such an object."""
        try:
            kubernetes_validate.validate(thing, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            raise RefusedError(400, "BadRequest", f"strict decoding error: {path}: {error.message}") from error
        if not _NAME.fullmatch(thing["metadata"]["name"]):
            raise RefusedError(422, "Invalid", "metadata.name: must be no more than 63 characters of a DNS label")
        spec = thing["spec"]["jobTemplate"]["spec"] if thing["kind"] == "CronJob" else thing["spec"]
        pod = spec["template"]
        for labels in (thing["metadata"].get("labels", {}), pod.get("metadata", {}).get("labels", {})):
            for key, value in labels.items():
                if not (_LABEL_KEY.fullmatch(key) and _LABEL.fullmatch(value)):
                    raise RefusedError(422, "Invalid", f"metadata.labels: Invalid value: {key}={value}")
        self._check_job(spec, pod["spec"])

    @staticmethod
    def _check_job(spec: dict[str, Any], pod: dict[str, Any]) -> None:
        if pod.get("restartPolicy") not in ("Never", "OnFailure"):
            raise RefusedError(422, "Invalid", "spec.template.spec.restartPolicy: Required value: OnFailure, Never")
        names = {container["name"] for container in pod["containers"]}
        for rule in spec.get("podFailurePolicy", {}).get("rules", []):
            if pod["restartPolicy"] != "Never":
                raise RefusedError(422, "Invalid", "restartPolicy: only Never is supported with podFailurePolicy")
            codes = rule.get("onExitCodes")
            if codes and (
                not codes["values"] or 0 in codes["values"] or codes["values"] != sorted(set(codes["values"]))
            ):
                raise RefusedError(422, "Invalid", "podFailurePolicy: values must be ordered, unique and not 0")
            if codes and codes.get("containerName") not in (None, *names):
                raise RefusedError(422, "Invalid", "podFailurePolicy: containerName must be one of the containers")
        for container in pod["containers"]:
            resources = container.get("resources", {})
            limits, requests = resources.get("limits", {}), resources.get("requests", {})
            for resource in limits.keys() | requests.keys():
                if "/" in resource and limits.get(resource) != requests.get(resource, limits.get(resource)):
                    raise RefusedError(422, "Invalid", f"{resource}: requests must be equal to limits")
                if "/" in resource and not str(limits.get(resource)).isdigit():
                    raise RefusedError(422, "Invalid", f"{resource}: must be an integer, and limited")

    def _create(self, job: dict[str, Any], fields: dict[str, str]) -> dict[str, Any]:
        if fields.get("fieldValidation") != "Strict":
            raise RefusedError(400, "BadRequest", "this server takes only what asks for strict validation")
        self.check(job)
        name = job["metadata"]["name"]
        if name in self.jobs:
            raise RefusedError(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
        number = next(self._versions)
        job["metadata"] |= {"namespace": self.namespace, "uid": f"uid-{number}", "resourceVersion": str(number)}
        job["status"] = {}
        if job["spec"].get("suspend"):
            self._condition(job, "Suspended", "JobSuspended", "Job suspended")
        self.jobs[name] = job
        return job

    def _list(self, fields: dict[str, str]) -> dict[str, Any]:
        key, _, value = fields["labelSelector"].partition("=")
        found = [job for job in self.jobs.values() if job["metadata"].get("labels", {}).get(key) == value]
        begin, limit = int(fields.get("continue", 0)), int(fields["limit"])
        more = {"continue": str(begin + limit)} if len(found) > begin + limit else {}
        items = [{name: part for name, part in job.items() if name not in ("kind", "apiVersion")} for job in found]
        return {"kind": "JobList", "apiVersion": "batch/v1", "metadata": more, "items": items[begin : begin + limit]}

    @staticmethod
    def _one(things: dict[str, dict[str, Any]], name: str, kind: str) -> dict[str, Any]:
        if name not in things:
            raise RefusedError(404, "NotFound", f'{kind} "{name}" not found')
        return things[name]

    def _delete(self, name: str, options: dict[str, Any]) -> tuple[int, Any]:
        job = self._one(self.jobs, name, "jobs.batch")
        preconditions = options.get("preconditions", {})
        if options.keys() - _DELETE_OPTIONS or preconditions.keys() - {"uid", "resourceVersion"}:
            raise RefusedError(400, "BadRequest", "strict decoding error: unknown field")
        if options.get("propagationPolicy") not in ("Background", "Foreground"):
            raise RefusedError(400, "BadRequest", "the pods would be left behind")
        for part, value in preconditions.items():
            if job["metadata"][part] != value:
                raise RefusedError(409, "Conflict", f"the {part} in the precondition does not match")
        del self.jobs[name]
        return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _condition(self, job: dict[str, Any], kind: str, reason: str, message: str, status: str = "True") -> None:
        conditions = job["status"].setdefault("conditions", [])
        conditions[:] = [condition for condition in conditions if condition["type"] != kind]
        conditions.append({"type": kind, "status": status, "reason": reason, "message": message})
        job["metadata"]["resourceVersion"] = str(next(self._versions))

    def admit(self, name: str) -> None:
        """Kueue has room for it."""
        job = self.jobs[name]
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
        job["spec"]["suspend"] = False
        self._condition(job, "Suspended", "JobResumed", "Job resumed", "False")

    def start(self, name: str) -> None:
        """Its pod runs."""
        job = self.jobs[name]
        assert not job["spec"].get("suspend"), "a suspended Job has no pods"
        job["status"] |= {"active": 1, "ready": 1}
        job["metadata"]["resourceVersion"] = str(next(self._versions))

    def end(self, name: str, exit_code: int | None) -> None:
        """Its pod ended with this code, or None: it was evicted. What follows is up to the Job's failure policy."""
        job = self.jobs[name]
        job["status"] |= {"active": 0, "ready": 0}
        job["metadata"]["resourceVersion"] = str(next(self._versions))
        if exit_code == 0:
            self._condition(job, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")
            return
        rule = next(
            (r for r in job["spec"]["podFailurePolicy"]["rules"] if _matches(r, exit_code)), {"action": "Count"}
        )
        if rule["action"] == "FailJob":
            message = f"Container agent for pod {self.namespace}/{name}-x failed with exit code {exit_code}"
            self._condition(job, "Failed", "PodFailurePolicy", message)
            return
        if rule["action"] == "Count":
            job["status"]["failed"] = job["status"].get("failed", 0) + 1
        if job["status"].get("failed", 0) > job["spec"].get("backoffLimit", 6):
            self._condition(job, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        else:
            job["status"]["active"] = 1  # a new pod is to start


def _matches(rule: dict[str, Any], exit_code: int | None) -> bool:
    if "onPodConditions" in rule:
        return exit_code is None and any(one["type"] == "DisruptionTarget" for one in rule["onPodConditions"])
    return exit_code in rule["onExitCodes"]["values"]
