"""Structured logs: JSON lines for machines, readable lines on a terminal, and no secrets in either.

Everything that is bound to the context (request id, job, attempt, stage) is on every line, those of libraries that use
the standard `logging` module included. Values are redacted by the name of their key, and tokens of known forms
wherever they stand in a text.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from secateur_service.telemetry.tracing import trace_fields

REDACTED = "[redacted]"

_SECRET_KEY = re.compile(
    r"(^|[_\-.])(password|passwd|secret|token|api_?key|access_?key|secret_?key|private_?key|credentials?|authorization"
    r"|cookie)([_\-.]|$)",
    re.IGNORECASE,
)
# `page_token`, `tokens_per_language` and the like are not secrets.
_NOT_SECRET_KEY = re.compile(r"(page_token|resume_token|change_token|tokens?_(per|total|count)\w*)$", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"\bsct_[A-Za-z0-9_-]{20,}"  # ours
    r"|\bhf_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS access keys
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}"  # GitHub
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # JSON web tokens
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # user:password in a URL
    r"|(?<=X-Amz-Signature=)[0-9A-Fa-f]+"
)


def redact(value: Any, key: str = "") -> Any:
    """A copy of plain data without secrets: by the name of the key, and by the form of the text."""
    if key and _SECRET_KEY.search(key) and not _NOT_SECRET_KEY.search(key) and value not in (None, ""):
        return REDACTED
    if isinstance(value, str):
        return _SECRET_TEXT.sub(REDACTED, value)
    if isinstance(value, Mapping):
        return {name: redact(entry, str(name)) for name, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(entry) for entry in value]
    return value


def configure_logging(
    *,
    level: str = "info",
    log_format: Literal["auto", "json", "console"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Send all logs of this process to `stream` (default: stderr); `auto` is console on a terminal, else JSON."""
    stream = stream or sys.stderr
    # Tracebacks without local variables, which may hold secrets and whole tensors; as text or data, so that they are
    # redacted like the rest.
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    format_exception: Processor = structlog.processors.ExceptionRenderer(tracebacks)
    render: Processor = structlog.processors.JSONRenderer()
    if log_format == "console" or (log_format == "auto" and stream.isatty()):
        format_exception = structlog.processors.format_exc_info
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
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                format_exception,
                _redact_secrets,
                render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**trace_fields(), **event}


def _redact_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: redact(entry, name) for name, entry in event.items()}
