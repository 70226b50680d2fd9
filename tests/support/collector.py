"""An OpenTelemetry collector in this process: takes spans by OTLP over HTTP and keeps them."""

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.waiting import until


@dataclass(frozen=True)
class CollectedSpan:
    service: str
    instance: str
    name: str
    trace: str
    id: str
    parent: str
    begin: int
    end: int
    attributes: dict
    error: str | None


class Collector:
    """Listens on a free port; `endpoint` is what OTEL_EXPORTER_OTLP_ENDPOINT takes."""

    def __init__(self):
        self.spans = []
        self.texts = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                collector._take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def named(self, name):
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.begin)

    def one(self, name):
        """The only span of a name, which may be on its way."""
        (span,) = until(lambda: self.named(name))
        return span

    def _take(self, request):
        self.texts.append(str(request))
        for resource in request.resource_spans:
            about = _plain(resource.resource.attributes)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        CollectedSpan(
                            about["service.name"],
                            about.get("service.instance.id", ""),
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            _plain(span.attributes),
                            span.status.message if span.status.code == 2 else None,
                        )
                    )


def _plain(attributes):
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in attributes}
