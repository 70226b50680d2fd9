"""The service's errors, one tree.

    ServiceError
    ├── InvalidRequestError      the request breaks rules; lists every broken one
    │   └── InvalidSpecError     the specification in it does
    ├── UnauthenticatedError     the call has no valid token
    ├── NotFoundError            no such job, report or page
    ├── RequestIdReusedError     a request id was used again for another request
    ├── NotReadyError            the job is not in the state the call needs
    ├── DamagedResultError       a published result is gone or was changed
    ├── SequenceExpiredError     the watch asks for events that do not exist
    ├── OverloadedError          the service is at a limit; try again later
    ├── CapacityError            the system that starts agents does not do as it is asked
    ├── DrainingError            this replica is stopping; another one, or its successor, will answer
    └── AttemptError             an attempt to run a job ended without a result
        ├── PermanentError       trying again cannot help: bad model, bad text, non-finite values
        ├── TransientError       trying again later may help: store, network
        │   └── UnreachableError     what a field of a specification names cannot be reached
        ├── ResourceError        out of memory or disk
        │   └── NoSuchDeviceError    this machine does not have the device
        ├── PreemptedError       the worker was told to stop, or its place is taken; the job resumes later
        ├── CancelledError       the job's owner cancelled it
        ├── FencedError          another attempt has taken over the job; this one must write nothing more
        └── InternalError        a defect in the service or in something below it

Each carries a stable ``reason`` (UPPER_SNAKE_CASE), whether it is ``retryable``, and ``metadata`` for machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self


def _characters(text: str) -> str:
    """Escape lone surrogates in a text that may quote untrusted JSON: no message can carry them."""
    return text.encode("utf-8", "backslashreplace").decode()


class ServiceError(Exception):
    """Base of all errors that the service raises on purpose."""

    reason: str = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, reason: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        self.message = _characters(message)
        super().__init__(self.message)
        if reason is not None:
            self.reason = reason
        self.metadata = {name: _characters(text) for name, text in (metadata or {}).items()}


@dataclass(frozen=True)
class FieldViolation:
    """One broken rule: the path of the field, and how to fix it."""

    field: str
    description: str

    def __post_init__(self) -> None:
        for name in ("field", "description"):
            object.__setattr__(self, name, _characters(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.field}: {self.description}"


class InvalidRequestError(ServiceError):
    """The request breaks rules; ``violations`` lists all of them, with paths from the root of the request."""

    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[FieldViolation], *, reason: str | None = None) -> None:
        super().__init__("; ".join(str(violation) for violation in violations), reason=reason)
        self.violations = tuple(violations)

    def renamed(self, named: Callable[[str], str]) -> Self:
        """The same with other names of the fields, those that the caller knows."""
        violations = [FieldViolation(named(violation.field), violation.description) for violation in self.violations]
        return type(self)(violations, reason=self.reason)


class InvalidSpecError(InvalidRequestError):
    """The specification breaks rules; ``violations`` lists all of them, with paths from the specification's root."""

    reason = "INVALID_SPEC"


class UnauthenticatedError(ServiceError):
    """The call has no token (TOKEN_MISSING), an unknown one (TOKEN_INVALID), or an expired one (TOKEN_EXPIRED)."""

    reason = "TOKEN_INVALID"


class NotFoundError(ServiceError):
    """What the call names does not exist."""

    reason = "NOT_FOUND"


class RequestIdReusedError(ServiceError):
    """A request id was already used for another request."""

    reason = "REQUEST_ID_REUSED"


class NotReadyError(ServiceError):
    """The job is not in the state that the call needs."""

    reason = "JOB_NOT_SUCCEEDED"


class DamagedResultError(ServiceError):
    """A published result is gone, or is not what was published."""

    reason = "RESULT_DAMAGED"


class SequenceExpiredError(ServiceError):
    """A watch asked to resume after an event that the job does not have."""

    reason = "SEQUENCE_OUT_OF_RANGE"


class OverloadedError(ServiceError):
    """The service is at a limit; the same call may succeed later."""

    reason = "OVERLOADED"
    retryable = True


class DrainingError(ServiceError):
    """This replica is stopping."""

    reason = "DRAINING"
    retryable = True


class CapacityError(ServiceError):
    """The system that starts agents does not answer (CAPACITY_UNREACHABLE), or refuses (CAPACITY_REFUSED)."""

    reason = "CAPACITY_UNREACHABLE"
    retryable = True


class AttemptError(ServiceError):
    """An attempt to run a job ended without a result; ``exit_code`` is the worker's."""

    exit_code: ClassVar[int]


class PermanentError(AttemptError):
    """Running the same job again cannot succeed."""

    reason = "PERMANENT"
    exit_code = 10


class TransientError(AttemptError):
    """Running the job again later may succeed."""

    reason = "TRANSIENT"
    retryable = True
    exit_code = 11


class UnreachableError(TransientError):
    """What a field of the specification names does not answer the service: the hub, or an object store.

    The service itself is well, so a caller that repeats the call at once only waits in vain.

    The message begins with the field, a colon and a space.
    """

    reason = "SOURCE_UNREACHABLE"

    @property
    def violation(self) -> FieldViolation:
        """The field, and what cannot be reached."""
        field, _, problem = self.message.partition(": ")
        return FieldViolation(field, problem)


class ResourceError(AttemptError):
    """There was not enough memory or disk."""

    reason = "OUT_OF_RESOURCES"
    retryable = True
    exit_code = 12


class NoSuchDeviceError(ResourceError):
    """This machine does not have the device that a slot or a command names."""

    reason = "NO_SUCH_DEVICE"


class PreemptedError(AttemptError):
    """The worker was told to stop, or its place is still taken; the job resumes later, and no attempt is charged."""

    reason = "PREEMPTED"
    retryable = True
    exit_code = 13


class CancelledError(AttemptError):
    """The job was cancelled."""

    reason = "CANCELLED"
    exit_code = 0


class FencedError(AttemptError):
    """Another attempt owns the job; nothing more may be written."""

    reason = "FENCED"
    exit_code = 14


class InternalError(AttemptError):
    """A defect."""

    reason = "INTERNAL"
    retryable = True
    exit_code = 15
