"""OpenTelemetry: in a traced program, each SDK call is a span, and passes its trace to the service.

Only OpenTelemetry's API is used, which does nothing unless the program configures OpenTelemetry's SDK.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import grpc
from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_SERVICE = "secateur.v1.PruneService"
_tracer = trace.get_tracer("secateur")
_propagator = TraceContextTextMapPropagator()


@contextmanager
def traced_call(method: str, metadata: Metadata) -> Iterator[Metadata]:
    """A span around a call; yields the metadata to send with it.

    Watches have none: they last as long as their job.
    """
    attributes = {"rpc.system": "grpc", "rpc.service": _SERVICE, "rpc.method": method}
    with _tracer.start_as_current_span(
        f"{_SERVICE}/{method}",
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        try:
            yield (*metadata, *carrier.items())
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            span.set_attribute("rpc.grpc.status_code", code.value[0])
            span.set_status(Status(StatusCode.ERROR, code.name))
            raise
        span.set_attribute("rpc.grpc.status_code", 0)


@contextmanager
def trace_of_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Join the trace in the variables TRACEPARENT and TRACESTATE, which pipelines set."""
    carried = {name.lower(): environment[name] for name in ("TRACEPARENT", "TRACESTATE") if name in environment}
    token = context.attach(_propagator.extract(carried))
    try:
        yield
    finally:
        context.detach(token)
