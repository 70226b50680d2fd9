"""OpenTelemetry: each call is a span where the program that uses the SDK is traced, and tells the service its trace.

Only OpenTelemetry's API is used, which does nothing until the program configures its SDK.
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
    """A span around a call; gives what is to be sent with it.

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
    """Be part of the trace that the variables TRACEPARENT and TRACESTATE carry, as pipelines set them."""
    carried = {name.lower(): environment[name] for name in ("TRACEPARENT", "TRACESTATE") if name in environment}
    token = context.attach(_propagator.extract(carried))
    try:
        yield
    finally:
        context.detach(token)
