"""An attempt's figures, written at its end as one line of the job's log: this is how they reach the metrics.

A worker is a separate process, which nobody scrapes. Its line is an event like any other: people read it in the log,
and `job_figures` counts it, in every replica. A killed attempt writes none.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

MESSAGE = "what the attempt did"
REQUESTS = "object_store_requests"
BYTES = "object_store_bytes"
CALIBRATION_TOKENS = "calibration_tokens"
PEAK_DEVICE_BYTES = "peak_device_bytes"
DENSE_BLOCKS = "dense_blocks"


class AttemptFigures:
    """Collects an attempt's figures; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def count_request(self, operation: str, outcome: str) -> None:
        """Count a finished request to the object store."""
        with self._lock:
            self._requests[f"{operation} {outcome}"] += 1

    def count_bytes(self, direction: str, size_bytes: int) -> None:
        """Count bytes read or written."""
        with self._lock:
            self._bytes[direction] += size_bytes

    def fields(self, others: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of the log line, including other figures by name."""
        with self._lock:
            return {**others, REQUESTS: dict(self._requests), BYTES: dict(self._bytes)}
