"""Who made a result, when and on what: enough to run it again, and everything that differs between runs."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from secateur_service.calibration.templates import TEMPLATE_DATE
from secateur_service.records.result import Estimate


@dataclass(frozen=True)
class Provenance:
    """The content of provenance.json.

    Attributes:
        seconds: wall seconds by kind of work.
        cpu_seconds: processor seconds by kind of work.
        short_of: kinds of memory that were short.
        peak_device_bytes: 0 on a CPU.
        rewritten: files of the model whose tensors were written again.
        published: files that go with the model.
        left_out: files of the model that are not published, each with the reason.
        fingerprint: everything that the result's bytes depend on.
    """

    job_id: str
    attempt: int
    resumed_blocks: int
    started: datetime
    packaged: datetime
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    short_of: Sequence[str]
    estimate: Estimate
    peak_host_bytes: int
    peak_device_bytes: int
    rewritten: Sequence[str]
    published: Sequence[str]
    left_out: Mapping[str, str]
    fingerprint: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """JSON, with this process's versions."""
        content = {
            "job_id": self.job_id,
            "attempt": self.attempt,
            "resumed_blocks": self.resumed_blocks,
            "started": self.started.isoformat(),
            "packaged": self.packaged.isoformat(),
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "short_of": self.short_of,
            "estimate": asdict(self.estimate),
            "measured": {"peak_host_bytes": self.peak_host_bytes, "peak_device_bytes": self.peak_device_bytes},
            "template_date": TEMPLATE_DATE,
            "model_files": {"rewritten": self.rewritten, "published": self.published, "left_out": self.left_out},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "fingerprint": self.fingerprint,
        }
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
