"""OpenTelemetry traces: follow a job from the client's call through the queue to the last upload.

The code is instrumented with OpenTelemetry's API, which does nothing unless the standard variables
(`OTEL_EXPORTER_OTLP_ENDPOINT` etc.) tell `exporting_spans` where spans go. A job keeps the W3C trace context of the
call that created it, so that every attempt, in whatever process, belongs to the same trace. Spans carry no exception
texts, which may hold secrets; the log has them, redacted, with the trace's id.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from secateur_service import __version__

ENVIRONMENT_PREFIX = "OTEL_"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
JOB, ATTEMPT, BLOCK, OBJECT = "secateur.job", "secateur.attempt", "secateur.block", "secateur.object"
"""Attribute names."""

# How long to keep trying to send the last spans to an unreachable collector.
_LAST_SPANS_SECONDS = 2.0

_log = structlog.get_logger(__name__)
_tracer = trace.get_tracer("secateur_service", __version__)
_propagator = TraceContextTextMapPropagator()


@contextmanager
def exporting_spans() -> Iterator[None]:
    """Export this process's spans by OTLP over HTTP, if the environment says to; sends the remaining ones at the end.

    Use once per process. The SDK reads sampling, headers, certificates and the rest from its own variables.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warning("no traces are exported: pip install 'secateur[traces]'")
        yield
        return

    ours = {
        "service.name": "secateur",
        "service.version": __version__,
        "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
    }
    resource = Resource.create().merge(Resource(ours)).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # A worker keeps its slot while this runs.
        no_longer = threading.Timer(_LAST_SPANS_SECONDS, exporter.shutdown)
        no_longer.start()
        provider.shutdown()
        no_longer.cancel()


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, AttributeValue] | None = None,
    *,
    parent: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> Iterator[Span]:
    """A span around the context; an error marks it with its reason, and propagates.

    Args:
        name: from a small set of values, as for metrics.
        attributes: what distinguishes this span from others of its name.
        parent: the parent span; by default the current span.
        kind: OpenTelemetry's kind of span.
    """
    with _tracer.start_as_current_span(
        name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_status(Status(StatusCode.ERROR, _reason(error)))
            raise


@contextmanager
def request_span(
    name: str, attributes: Mapping[str, AttributeValue], *, answers: Collection[str] = ()
) -> Iterator[None]:
    """A span for a request made as part of a larger operation; none if no larger operation is traced.

    It is never made the current span, so that generators may hold it.

    Args:
        name: as for `span`.
        attributes: as for `span`.
        answers: reasons of errors that count as normal answers.
    """
    if not trace.get_current_span().is_recording():
        yield
        return
    request = _tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
    try:
        yield
    except Exception as error:
        if _reason(error) not in answers:
            request.set_status(Status(StatusCode.ERROR, _reason(error)))
        raise
    finally:
        request.end()


def waited(name: str, since: datetime, carried: Mapping[str, str], attributes: Mapping[str, AttributeValue]) -> None:
    """Add a span for a wait that ends now to a trace that was carried here."""
    began, now = round(since.timestamp() * 1e9), time.time_ns()
    # The two clocks may differ.
    _tracer.start_span(name, parent_of(carried), attributes=attributes, start_time=began).end(max(began, now))


def carry() -> dict[str, str]:
    """The current trace in W3C form, to be stored or sent on; empty if there is none."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier


def parent_of(carried: Mapping[str, str]) -> Context:
    """The trace that was carried here; if there is none, a new one begins."""
    return _propagator.extract(carried, context=Context())


def trace_fields() -> dict[str, str]:
    """Log fields that identify the current trace."""
    current = trace.get_current_span().get_span_context()
    return {"trace_id": trace.format_trace_id(current.trace_id)} if current.is_valid else {}


def _reason(error: BaseException) -> str:
    """What a span records of an error; the error's text is only logged."""
    reason: str = getattr(error, "reason", type(error).__name__)
    return reason
