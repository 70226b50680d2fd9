"""The SDK's errors, one tree.

    SecateurError
    ├── ConfigError                  the endpoint, token or configuration file cannot be used
    ├── ClientClosedError            the client was closed before or during the call
    ├── RequestError                 the service refused a call or could not be reached
    │   ├── InvalidRequestError      the request breaks rules; lists every broken one
    │   │   └── InvalidSpecError     ... the rules of a specification; also raised before anything is sent
    │   ├── NotFoundError            no such job
    │   ├── AlreadyExistsError       the request id was already used for another request
    │   ├── PreconditionError        the service's state does not allow the call, and waiting does not help
    │   │   ├── NotReadyError        the job has no result, or none yet
    │   │   └── UnreachableError     the service cannot reach what a specification names: the hub, an object store
    │   ├── DamagedResultError       a published result is gone or was changed
    │   ├── SequenceExpiredError     a watch asked to resume after an event that the service does not have
    │   ├── UnauthenticatedError     no token, an invalid one, or an expired one
    │   ├── PermissionDeniedError    the token may not do this
    │   ├── OverloadedError          the service is at a limit; try again later
    │   ├── UnavailableError         the service cannot be reached or is stopping
    │   │   └── CertificateError     the server's certificate cannot be verified
    │   ├── DeadlineError            the service did not answer in time
    │   └── ServiceFaultError        a defect in the service or in something in between
    ├── JobError                     the job ended without a result
    │   ├── JobFailedError
    │   └── JobCancelledError
    ├── WaitTimeoutError             the job had not ended when the wait timed out
    └── DownloadError                a file could not be fetched
        └── IntegrityError           what arrived is not what was published

Each carries a stable ``reason`` (UPPER_SNAKE_CASE), whether it is ``retryable``, and ``metadata`` for machines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from secateur._redaction import redact_text

DOMAIN = "secateur"
_DETAILS_KEY = "grpc-status-details-bin"
_SPEC_PREFIX = "spec."
# gRPC on this side reports an untrusted certificate only in this text.
_NOT_TRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([\w ,.'-]{1,100})|(Hostname Verification Check failed)")
# And likewise that nobody is there: each address refused the connection, or there is none.
_NOBODY = re.compile(
    r"failed to connect to all addresses.*(?:(Connection refused)|(No such file))|(Domain name not found)", re.DOTALL
)
# And that something else listens: without TLS, or without gRPC.
_NO_TLS, _NO_GRPC = "WRONG_VERSION_NUMBER", "Failed parsing HTTP/2"
OTHER_NAMES = "CERTIFICATE_FOR_OTHER_NAMES"
"""Reason of a CertificateError: whom the certificate is for is somebody else."""
CONNECTION_REFUSED = "CONNECTION_REFUSED"
"""Reason of an UnavailableError: nothing listens where the service should be."""


class SecateurError(Exception):
    """Base of all errors that the SDK raises on purpose."""

    reason: str = "UNKNOWN"
    retryable: bool = False

    def __init__(self, message: str, *, reason: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason
        self.metadata: dict[str, str] = dict(metadata or {})


class ConfigError(SecateurError):
    """The endpoint, token or configuration file cannot be used."""

    reason = "CONFIG"


class ClientClosedError(SecateurError):
    """The client was closed before or during the call."""

    reason = "CLIENT_CLOSED"


class RequestError(SecateurError):
    """The service refused a call, or could not be reached.

    Attributes:
        code: The gRPC status code; None if nothing was sent.
        retry_after_seconds: How long the service asks callers to wait, if it says so.
    """

    code: grpc.StatusCode | None = None
    retry_after_seconds: float | None = None


@dataclass(frozen=True)
class FieldViolation:
    """One broken rule: the path of the field, what is wrong with it, and how to fix it."""

    field: str
    description: str

    def __str__(self) -> str:
        return f"{self.field}: {self.description}" if self.field else self.description


class _FieldsError(RequestError):
    """Lists fields, and what is wrong with each.

    Attributes:
        violations: The fields.
    """

    violations: tuple[FieldViolation, ...] = ()

    def rename(self, named: Callable[[str], str]) -> None:
        """Give the fields other names, those that the caller knows."""
        if self.violations:
            self.violations = tuple(FieldViolation(named(each.field), each.description) for each in self.violations)
            self.message = "; ".join(map(str, self.violations))
            self.args = (self.message,)


class InvalidRequestError(_FieldsError):
    """The request breaks rules.

    Attributes:
        violations: Every broken rule; a specification's fields are named as in its YAML form.
    """

    reason = "INVALID_REQUEST"

    def __init__(
        self,
        violations: Iterable[FieldViolation],
        message: str | None = None,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.violations = tuple(violations)
        text = "; ".join(str(violation) for violation in self.violations) or message or "the request breaks rules"
        super().__init__(text, reason=reason, metadata=metadata)


class InvalidSpecError(InvalidRequestError):
    """The specification breaks rules, in its shape (found here) or in its values (found by the service)."""

    reason = "INVALID_SPEC"


class NotFoundError(RequestError):
    """What the call names does not exist, or is not clear: an id's beginning of several jobs (reason JOB_AMBIGUOUS)."""

    reason = "NOT_FOUND"


class AlreadyExistsError(RequestError):
    """The request id was already used for another request."""

    reason = "REQUEST_ID_REUSED"


class PreconditionError(RequestError):
    """The service's state does not allow the call; `reason` and the message say why."""

    reason = "FAILED_PRECONDITION"


class NotReadyError(PreconditionError):
    """The job has no result, or none yet."""

    reason = "JOB_NOT_SUCCEEDED"


class UnreachableError(PreconditionError, _FieldsError):
    """The service itself is well, but cannot reach something that a specification names: the hub, an object store.

    Waiting may help; calls are not repeated by themselves, because each may have waited for a time limit already.

    Attributes:
        violations: The field, and what cannot be reached.
    """

    reason = "SOURCE_UNREACHABLE"
    retryable = True

    def __init__(
        self,
        violations: Iterable[FieldViolation],
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(map(str, self.violations)), reason=reason, metadata=metadata)


class DamagedResultError(RequestError):
    """A published result is gone, or is not what was published."""

    reason = "RESULT_DAMAGED"


class SequenceExpiredError(RequestError):
    """A watch asked to resume after an event that the service does not have."""

    reason = "SEQUENCE_OUT_OF_RANGE"


class UnauthenticatedError(RequestError):
    """There was no token (reason TOKEN_MISSING), an invalid one (TOKEN_INVALID), or an expired one (TOKEN_EXPIRED)."""

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(RequestError):
    """The token may not do this."""

    reason = "PERMISSION_DENIED"


class OverloadedError(RequestError):
    """The service is at a limit."""

    reason = "OVERLOADED"
    retryable = True


class UnavailableError(RequestError):
    """The service cannot be reached or is stopping; reason CONNECTION_REFUSED if nothing listens there."""

    reason = "UNAVAILABLE"
    retryable = True


class CertificateError(UnavailableError):
    """The server's certificate is not signed by a trusted authority, or is for others; nothing was sent.

    In the latter case the reason is CERTIFICATE_FOR_OTHER_NAMES.

    A service with several addresses may be reported as unavailable instead: gRPC gives only the last one's reason.
    """

    reason = "CERTIFICATE_NOT_TRUSTED"
    retryable = False


class ProtocolError(UnavailableError):
    """What answers at the endpoint does not speak as the client does: no TLS, TLS, or no gRPC."""

    reason = "WRONG_PROTOCOL"
    retryable = False


class DeadlineError(RequestError):
    """The service did not answer in time."""

    reason = "DEADLINE_EXCEEDED"
    retryable = True


class ServiceFaultError(RequestError):
    """A defect in the service or in something between it and us."""

    reason = "INTERNAL"


class JobError(SecateurError):
    """The job ended without a result.

    Attributes:
        job: The job's name.
        details: What the service recorded besides the message.
    """

    def __init__(
        self, message: str, *, job: str, reason: str, retryable: bool = False, details: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, reason=reason, metadata=details)
        self.job = job
        self.retryable = retryable
        self.details = self.metadata


class JobFailedError(JobError):
    """The job failed; `reason`, `message` and `details` say why, `retryable` whether to submit it again."""


class JobCancelledError(JobError):
    """The job was cancelled."""


class WaitTimeoutError(SecateurError):
    """The job had not ended when the wait timed out; it keeps running."""

    reason = "WAIT_TIMEOUT"
    retryable = True


class DownloadError(SecateurError):
    """A file could not be fetched; what has arrived stays in place for the next try."""

    reason = "DOWNLOAD_FAILED"
    retryable = True


class IntegrityError(DownloadError):
    """What arrived, or what the service said about it, is not what was published; nothing was put into place."""

    reason = "INTEGRITY"
    retryable = False


_CLASSES: Mapping[grpc.StatusCode, type[RequestError]] = {
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.DATA_LOSS: DamagedResultError,
    grpc.StatusCode.OUT_OF_RANGE: SequenceExpiredError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
}


def from_rpc_error(rpc_error: grpc.RpcError) -> RequestError:
    """The SDK's error for a gRPC error, chosen by status code and google.rpc details, never by the service's text.

    Certificate errors and refused connections are the exception: gRPC reports them only in a text, its own.
    """
    error = _from_status(
        rpc_error.code(), redact_text(rpc_error.details() or ""), _details(rpc_error.trailing_metadata() or ())
    )
    error.code = rpc_error.code()
    return error


def _from_status(code: grpc.StatusCode, message: str, details: Sequence[Any]) -> RequestError:
    info = _first(details, error_details_pb2.ErrorInfo)
    ours = info is not None and info.domain == DOMAIN
    reason = info.reason if ours else None
    metadata = dict(info.metadata) if ours else None
    error: RequestError
    bad_request = _first(details, error_details_pb2.BadRequest) or error_details_pb2.BadRequest()
    violations = [
        FieldViolation(entry.field.removeprefix(_SPEC_PREFIX), entry.description)
        for entry in bad_request.field_violations
    ]
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        kind = InvalidSpecError if reason == InvalidSpecError.reason else InvalidRequestError
        error = kind(violations, message, reason=reason, metadata=metadata)
    elif code is grpc.StatusCode.FAILED_PRECONDITION and violations:
        error = UnreachableError(violations, reason=reason, metadata=metadata)
    elif code is grpc.StatusCode.UNAVAILABLE and not details and (found := _NOT_TRUSTED.search(message)):
        error = _certificate_error(found[1])
    elif code is grpc.StatusCode.UNAVAILABLE and not details and _NO_TLS in message:
        error = ProtocolError("the service there speaks no TLS; use http://HOST:PORT")
    elif code is grpc.StatusCode.UNAVAILABLE and not details and _NO_GRPC in message:
        error = ProtocolError("that is not the gRPC port of a service; it may be that of its metrics")
    elif code is grpc.StatusCode.UNAVAILABLE and not details and (found := _NOBODY.search(message)):
        told = "nothing listens there (connection refused)" if found[1] else "there is no such socket"
        error = UnavailableError("there is no such host" if found[3] else told, reason=CONNECTION_REFUSED)
    else:
        not_ready = code is grpc.StatusCode.FAILED_PRECONDITION and reason == NotReadyError.reason
        kind_of_error = NotReadyError if not_ready else _CLASSES.get(code, ServiceFaultError)
        error = kind_of_error(message or code.name, reason=reason, metadata=metadata)
    retry = _first(details, error_details_pb2.RetryInfo)
    if retry is not None:
        error.retry_after_seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        error.retryable = True
    return error


def _certificate_error(fault: str | None) -> CertificateError:
    """For a certificate that has a fault, or for one of other names."""
    if fault is None:
        told = "it is for other names; reach the service by a name that is in the certificate, or have this one added"
        return CertificateError(f"the certificate of the service is trusted, but {told}", reason=OTHER_NAMES)
    return CertificateError(
        f"the certificate of the service is not trusted ({fault}); name the authority that issued it with ca_file "
        "(SECATEUR_CA_FILE)"
    )


def _details(metadata: Iterable[tuple[str, str | bytes]]) -> list[Any]:
    """The google.rpc details in a call's trailers; empty if something in between cut the trailers."""
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []


def _first(details: Sequence[Any], kind: Any) -> Any:
    for detail in details:
        if detail.Is(kind.DESCRIPTOR):
            message = kind()
            detail.Unpack(message)
            return message
    return None
