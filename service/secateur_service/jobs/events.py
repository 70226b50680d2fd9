"""Bodies of the events that the store writes, and limits on those that workers append."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from secateur._redaction import redact, redact_text
from secateur_service.jobs.job import EventKind, Failure
from secateur_service.jobs.states import JobState
from secateur_service.records.blocks import BlockRecord
from secateur_service.records.progress import Progress

MAX_LOG_BYTES = 8192
"""A log event's text takes no more than this, nor do its fields; anything longer is cut."""

WORKER_KINDS = frozenset({EventKind.STAGE, EventKind.PROGRESS, EventKind.LOG})
"""Kinds that workers append themselves; the others are written together with the change that they record."""


def state_body(state: JobState, message: str, failure: Failure | None = None) -> dict[str, Any]:
    """Body of the event that the job entered a state."""
    body: dict[str, Any] = {"state": state.value, "message": message}
    if failure is not None:
        body["failure"] = asdict(failure)
    return body


def block_body(record: BlockRecord) -> dict[str, Any]:
    """Body of the event that a block is finished."""
    return {
        "index": record.index,
        "sparsity": record.sparsity,
        "seconds": record.seconds,
        "snr_db": dict(record.snr_db),
    }


def progress_body(progress: Progress) -> dict[str, Any]:
    """Body of the event that the job progressed."""
    return {name: value for name, value in asdict(progress).items() if value is not None}


def log_body(level: str, message: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """One log line, without secrets. Fields of types that JSON lacks become strings."""
    plain = json.loads(json.dumps(dict(fields), default=str))
    return {"level": level, "message": redact_text(message), "fields": redact(plain)}


def bounded(body: Mapping[str, Any]) -> dict[str, Any]:
    """A log event's body with its message and its fields each limited to `MAX_LOG_BYTES`."""
    fields = body.get("fields", {})
    size = len(json.dumps(fields))
    kept = fields if size <= MAX_LOG_BYTES else {"fields_left_out_bytes": size}
    return {**body, "message": _cut(str(body["message"])), "fields": kept}


def _cut(text: str) -> str:
    encoded = text.encode(errors="replace")
    if len(encoded) <= MAX_LOG_BYTES:
        return encoded.decode()
    mark = "…"
    return encoded[: MAX_LOG_BYTES - len(mark.encode())].decode(errors="ignore") + mark
