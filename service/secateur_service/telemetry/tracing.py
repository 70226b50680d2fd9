"""OpenTelemetry traces: what a job went through, from the client's call through the queue to the last upload.

The code is instrumented with OpenTelemetry's API, which does nothing until `exporting_spans` is told by the standard
variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and its kin) where spans go. A job keeps the W3C trace context of the call that
created it, so that each attempt, in whatever process, belongs to the same trace. Spans carry no text of exceptions,
which may hold secrets; the log has it, redacted, with the id of the trace.
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
"""Names of attributes."""

# How long the last spans are tried to be sent to a collector that is away.
_LAST_SPANS_SECONDS = 2.0

_log = structlog.get_logger(__name__)
_tracer = trace.get_tracer("secateur_service", __version__)
_propagator = TraceContextTextMapPropagator()


@contextmanager
def exporting_spans() -> Iterator[None]:
    """Export this process's spans by OTLP over HTTP, where the environment says to; what is left goes out at the end.

    Once in a process. The SDK reads sampling, headers, certificates and the rest from its own variables.
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
        # A worker holds its slot meanwhile.
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
    """A span around what happens in the context; an error marks it with its reason, and passes.

    Args:
        name: of few different values, as metrics have.
        attributes: what tells this span from others of its name.
        parent: what it is part of; by default the current span.
        kind: by OpenTelemetry's meaning.
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
    """A span of a request that is made on the way of something larger; none where nothing larger is traced.

    It is nobody's parent, so that generators may hold it.

    Args:
        name: as of `span`.
        attributes: likewise.
        answers: reasons of errors that are answers like others.
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
    """Add a span of a wait that is over now to a trace that was carried here."""
    began, now = round(since.timestamp() * 1e9), time.time_ns()
    # The two clocks may differ.
    _tracer.start_span(name, parent_of(carried), attributes=attributes, start_time=began).end(max(began, now))


def carry() -> dict[str, str]:
    """The current trace in W3C form, for a place where others find it; empty where there is none."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier


def parent_of(carried: Mapping[str, str]) -> Context:
    """The trace that was carried here; a new one begins where nothing was."""
    return _propagator.extract(carried, context=Context())


def trace_fields() -> dict[str, str]:
    """What a log line says of the trace that it belongs to."""
    current = trace.get_current_span().get_span_context()
    return {"trace_id": trace.format_trace_id(current.trace_id)} if current.is_valid else {}


def _reason(error: BaseException) -> str:
    """What a span says of an error; its text is for the log."""
    reason: str = getattr(error, "reason", type(error).__name__)
    return reason
