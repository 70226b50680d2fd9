"""How the service's errors look on the wire: one table from error class to gRPC code, and google.rpc details.

Every error carries `google.rpc.ErrorInfo` with domain ``secateur``, so that clients decide by ``reason`` and never by
the text; all of its text is redacted. An error that the service did not raise on purpose becomes INTERNAL with an
incident id; its cause goes to the log only, because a traceback may hold paths and secrets.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Mapping, Sequence

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from secateur._redaction import redact, redact_text
from secateur_service import errors
from secateur_service.errors import FieldViolation, InvalidRequestError, ServiceError

DOMAIN = "secateur"
DETAILS_KEY = "grpc-status-details-bin"
RETRY_DELAY_SECONDS = 1

GRPC_CODES: Mapping[type[ServiceError], grpc.StatusCode] = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.RequestIdReusedError: grpc.StatusCode.ALREADY_EXISTS,
    errors.NotReadyError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DamagedResultError: grpc.StatusCode.DATA_LOSS,
    errors.SequenceExpiredError: grpc.StatusCode.OUT_OF_RANGE,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DrainingError: grpc.StatusCode.UNAVAILABLE,
    errors.CapacityError: grpc.StatusCode.UNAVAILABLE,
    errors.TransientError: grpc.StatusCode.UNAVAILABLE,
    # Clients repeat UNAVAILABLE by themselves; each of these calls may already have waited for a time limit.
    errors.UnreachableError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.PermanentError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CancelledError: grpc.StatusCode.CANCELLED,
    errors.PreemptedError: grpc.StatusCode.UNAVAILABLE,
    errors.FencedError: grpc.StatusCode.ABORTED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}
"""The code of each class; a class that is not listed has its nearest ancestor's."""

# A status is sent in HTTP/2 trailers, of which a stock client accepts 8 KiB in all (base64 adds a third). If it did
# not fit, the client would lose the whole error.
_MAX_VIOLATIONS_BYTES = 3584
_MAX_MESSAGE_BYTES = 400
_MAX_METADATA_BYTES = 200
_VIOLATIONS_IN_MESSAGE = 3

_NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS)
"""Errors of a machine that is out of descriptors, memory, threads or buffers."""

_log = structlog.get_logger(__name__)


def grpc_code(error: ServiceError) -> grpc.StatusCode:
    """The gRPC code for a service error."""
    for kind in type(error).__mro__:
        if kind in GRPC_CODES:
            return GRPC_CODES[kind]
    return grpc.StatusCode.INTERNAL


def status_of(error: ServiceError) -> status_pb2.Status:
    """The full status of an error: code, message, ErrorInfo, and BadRequest or RetryInfo where they apply."""
    details: list[Message] = [_error_info(error.reason, error.metadata)]
    message = error.message
    if isinstance(error, InvalidRequestError):
        details.append(_bad_request(error.violations))
        message = _summary(error.violations)
    if isinstance(error, errors.UnreachableError):
        details.append(_bad_request([error.violation]))
    if error.retryable:
        delay = duration_pb2.Duration(seconds=RETRY_DELAY_SECONDS)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(grpc_code(error), message, details)


def status_of_any(error: Exception) -> status_pb2.Status:
    """The status of an error that was not raised on purpose: the machine is out of resources, or there is a defect."""
    if isinstance(error, OSError) and error.errno in _NONE_LEFT:
        _log.warning("the machine has no more to give", error=os.strerror(error.errno))
        problem = f"the server has too much to do at the moment: {os.strerror(error.errno)}; try again later"
        return status_of(errors.OverloadedError(problem))
    return status_of_defect(error)


def status_of_defect(error: Exception) -> status_pb2.Status:
    """The status of an unexpected error; logs the traceback under the incident id that the caller gets."""
    incident = uuid.uuid4().hex
    _log.error("incident", incident_id=incident, exc_info=error)
    message = f"internal error; the service's log has the details under incident {incident}"
    info = _error_info(errors.InternalError.reason, {"incident_id": incident})
    return _status(grpc.StatusCode.INTERNAL, message, [info])


def code_of(status: status_pb2.Status) -> grpc.StatusCode:
    """The gRPC code of a status message."""
    return next(code for code in grpc.StatusCode if code.value[0] == status.code)


def _status(code: grpc.StatusCode, message: str, details: Sequence[Message]) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=_shortened(redact_text(message), _MAX_MESSAGE_BYTES))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _error_info(reason: str, metadata: Mapping[str, str]) -> error_details_pb2.ErrorInfo:
    shortened = {
        redact_text(key): _shortened(str(redact(value, key)), _MAX_METADATA_BYTES) for key, value in metadata.items()
    }
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=shortened)


def _bad_request(violations: Sequence[FieldViolation]) -> error_details_pb2.BadRequest:
    """All violations, or as many as fit into the trailers and a last entry that counts the rest."""
    request = error_details_pb2.BadRequest()
    for position, violation in enumerate(violations):
        request.field_violations.add(field=redact_text(violation.field), description=redact_text(violation.description))
        if request.ByteSize() > _MAX_VIOLATIONS_BYTES:
            del request.field_violations[-1]
            left_out = len(violations) - position
            request.field_violations.add(description=f"and {left_out} more; correct these first")
            break
    return request


def _summary(violations: Sequence[FieldViolation]) -> str:
    """The first violations, and the number of those left out."""
    room = _MAX_MESSAGE_BYTES - len(f"; and {len(violations)} more")
    text = _shortened(redact_text(str(violations[0])), room)
    shown = 1
    for violation in violations[1:_VIOLATIONS_IN_MESSAGE]:
        longer = f"{text}; {redact_text(str(violation))}"
        if len(longer.encode()) > room:
            break
        text, shown = longer, shown + 1
    left_out = len(violations) - shown
    return f"{text}; and {left_out} more" if left_out else text


def _shortened(text: str, limit: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= limit else encoded[: limit - 3].decode(errors="ignore") + "…"
