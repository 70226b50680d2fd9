"""Structured logs: JSON lines for machines, readable lines on a terminal, and no secrets in either.

Everything bound to the context (request id, job, attempt, stage) is on every line, including those of libraries that
use the standard `logging` or `warnings` module. An exception that ends the process is logged in the same way. Secrets
are redacted as everywhere (`secateur._redaction`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from secateur._redaction import redact
from secateur._terminal import clean, clean_lines
from secateur_service.telemetry.tracing import trace_fields

_log = structlog.get_logger(__name__)

# Libraries that write to standard error through a handler of their own unless prevented.
_SELF_LOGGING = ("transformers", "huggingface_hub")


def configure_logging(
    *,
    level: str = "info",
    log_format: Literal["auto", "json", "console"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Send all logs of this process to `stream` (default: stderr); `auto` means console on a terminal, else JSON."""
    stream = stream or sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - there may be no stderr
    # Tracebacks without local variables, which may hold secrets and whole tensors. Rendered as text or data, they are
    # redacted like the rest.
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    format_exception: Processor = structlog.processors.ExceptionRenderer(tracebacks)
    render: Processor = structlog.processors.JSONRenderer()  # ASCII only
    after: list[Processor] = []
    if log_format == "console" or (log_format == "auto" and stream.isatty()):
        format_exception = structlog.processors.format_exc_info
        after = [_clean_texts]
        render = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                format_exception,
                _redact_secrets,
                *after,
                render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.captureWarnings(capture=True)
    for name in _SELF_LOGGING:
        _pass_on(logging.getLogger(name))
    root.setLevel(level.upper())
    sys.excepthook = _log_exception
    threading.excepthook = lambda ended: _log_exception(ended.exc_type, ended.exc_value, ended.exc_traceback)


class _PassingLogger(logging.Logger):
    """Passes its lines to the root logger, whatever its library sets."""

    propagate = property(lambda _: True, lambda *_: None)

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 - the base class names it so
        """Do nothing: the root logger's handler is the only one."""


def _pass_on(logger: logging.Logger) -> None:
    """Pass a library's lines on, even if it is imported later and configures its logger then."""
    logger.__class__ = _PassingLogger
    logger.__dict__.pop("propagate", None)
    logger.handlers.clear()


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class names it so
        """Report that a line is lost, and where it came from; the base class would print its arguments as well."""
        error = type(sys.exception()).__name__
        with contextlib.suppress(OSError, ValueError):  # there may be nowhere to report it
            print(f"a log line of {record.pathname}:{record.lineno} is lost: {error}", file=sys.__stderr__)


def _log_exception(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Log an uncaught exception as a line like any other."""
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    _log.critical("unhandled exception", exc_info=(kind, error, trace))


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**trace_fields(), **event}


def _redact_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: redact(entry, name) for name, entry in event.items()}


def _clean_texts(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep texts from controlling the terminal. A traceback keeps its line breaks."""
    return {
        name: (clean_lines if name == "exception" else clean)(entry) if isinstance(entry, str) else entry
        for name, entry in event.items()
    }
