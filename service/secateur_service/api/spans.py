"""The span of a call, as part of the caller's trace; see `telemetry.tracing`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import grpc
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from secateur_service.telemetry import tracing

# The codes that are the server's fault, according to OpenTelemetry's semantic conventions for gRPC.
_SERVER_FAULTS = (
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
)


_tracer = trace.get_tracer(__name__)


@contextmanager
def call_span(method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[None]:
    """A span around answering a call, as part of the caller's trace if it sends one.

    Args:
        method: `/package.Service/Method`.
        metadata: the call's metadata.
    """
    name = method.removeprefix("/")
    service, _, called = name.partition("/")
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": called}
    sent = {key: value for key, value in metadata if isinstance(value, str)}
    parent = tracing.parent_of(sent)
    with _tracer.start_as_current_span(
        name, parent, SpanKind.SERVER, attributes, record_exception=False, set_status_on_exception=False
    ):
        yield


def tell_code(code: grpc.StatusCode) -> None:
    """Record on the current span how its call ended."""
    current = trace.get_current_span()
    current.set_attribute("rpc.grpc.status_code", code.value[0])
    if code in _SERVER_FAULTS:
        current.set_status(Status(StatusCode.ERROR, code.name))
