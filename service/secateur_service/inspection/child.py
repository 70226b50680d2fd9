"""What a child does: it answers one request after the other, within its budget, and notes what it is inspecting.

A request is `{"spec": …, "cpu_seconds": …, "passed": …, "elsewhere": …}`, or `{"architecture": …, "cpu_seconds": …}`.
Before the child inspects something, it notes the field in a file, which the server reads if there is no answer. An
answer has the outcome and the requests made to object stores. The outcome is one of

    {"resolved": …, "estimate": …, "needs": …, "model_identity": …}
    {"support": …}                                                      what is known of an architecture
    {"violations": [[field, description], …]}
    {"error": {"kind": …, "message": …, "reason": …, "metadata": …}}    an error of the service's tree
    {"exhausted": true}                                                 memory ran out
    {"defect": traceback}
"""

from __future__ import annotations

import os
import socket
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from secateur_service.admission import AccessPolicy, LastModel, admit
from secateur_service.errors import InvalidSpecError, ServiceError
from secateur_service.inspection.budget import limit_processor_time
from secateur_service.inspection.frames import encode, receive
from secateur_service.models.support import support_of
from secateur_service.records.decoding import decode
from secateur_service.records.needs import Capacity
from secateur_service.settings import Settings

NOTE_BYTES = 64


class Requests:
    """Counts requests to object stores until the server collects the counts."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[str] = Counter()

    def count_request(self, operation: str, outcome: str) -> None:
        """Count a finished request."""
        self._requests[operation, outcome] += 1

    def count_bytes(self, direction: str, size_bytes: int) -> None:
        """Count bytes; `direction` is `read` or `written`."""
        self._bytes[direction] += size_bytes

    def take(self) -> dict[str, Any]:
        """What was counted since the last call."""
        taken = {
            "requests": [[*key, count] for key, count in self._requests.items()],
            "bytes": [[*item] for item in self._bytes.items()],
        }
        self._requests.clear()
        self._bytes.clear()
        return taken


def serve(channel: socket.socket, notes: int, settings: Settings) -> None:
    """Answer requests until the server is gone or a budget is used up.

    Args:
        channel: connection to the server.
        notes: descriptor of the file in which to note the current field.
        settings: what may be named, and how to reach it.
    """
    requests = Requests()
    access = AccessPolicy.from_settings(settings, requests)
    last = LastModel()

    def report(field: str) -> None:
        os.pwrite(notes, field.encode().ljust(NOTE_BYTES), 0)

    while True:
        try:
            request = receive(channel)
        except EOFError:
            return
        limit_processor_time(request["cpu_seconds"])
        answer = _answer(request, access, report, last)
        channel.sendall(encode({**answer, **requests.take()}))
        if "exhausted" in answer:
            return  # the remaining memory is fragmented


def _answer(
    request: dict[str, Any], access: AccessPolicy, report: Callable[[str], None], last: LastModel
) -> dict[str, Any]:
    try:
        if "architecture" in request:
            return {"support": asdict(support_of(request["architecture"]))}
        known = replace(access, elsewhere=[decode(Capacity, capacity) for capacity in request["elsewhere"]])
        admission = admit(request["spec"], known, at=report, passed=request["passed"], last=last)
    except InvalidSpecError as error:
        return {"violations": [[violation.field, violation.description] for violation in error.violations]}
    except ServiceError as error:
        kind = type(error).__name__
        return {"error": {"kind": kind, "message": error.message, "reason": error.reason, "metadata": error.metadata}}
    except MemoryError:
        return {"exhausted": True}
    except Exception as error:  # noqa: BLE001 - the last frame of a child: the server reports it as a defect
        if isinstance(error, RuntimeError) and "start new thread" in str(error):
            return {"exhausted": True}
        return {"defect": traceback.format_exc()}
    return {
        "resolved": admission.resolved.model_dump(mode="json"),
        "estimate": asdict(admission.estimate),
        "needs": asdict(admission.needs),
        "model_identity": admission.model_identity,
    }
