"""What the exit of a worker process says about its attempt, if the worker could not record it itself.

Two directions of one table (the exit codes of workers): an exception in the pipeline becomes an `AttemptError`,
whose class has the exit code; the exit code or signal of a worker that recorded no end becomes a `Failure`.
"""

from __future__ import annotations

import errno
import resource
import traceback
from dataclasses import dataclass

from secateur._foreign import detail_of
from secateur._redaction import redact
from secateur._text import size
from secateur_service.errors import (
    AttemptError,
    FencedError,
    InternalError,
    PermanentError,
    PreemptedError,
    ResourceError,
    ServiceError,
    TransientError,
)
from secateur_service.executors.port import WorkerExit
from secateur_service.jobs.job import Failure

_BY_EXIT_CODE: dict[int, type[AttemptError]] = {
    kind.exit_code: kind
    for kind in (PermanentError, TransientError, ResourceError, PreemptedError, FencedError, InternalError)
}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_STOPPED = {
    # Whoever sent it, such as a scheduler to all that it started: a worker that is up would release its job.
    "SIGTERM": "the worker was told to stop while it started",
    "SIGKILL": "the service killed the worker, which had not stopped in time",
}
_TRACEBACK_CHARACTERS = 2000
_TEXT_CHARACTERS = 4000


@dataclass(frozen=True)
class AttemptEnd:
    """A failure, and whether it costs the job one of its attempts."""

    failure: Failure
    charged: bool


def attempt_error(error: Exception) -> AttemptError:
    """Convert an exception from the pipeline to the matching class of failure."""
    if isinstance(error, AttemptError):
        return error
    if isinstance(error, ServiceError):
        return PermanentError(error.message, reason=error.reason, metadata=error.metadata)
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return ResourceError(f"the disk is full; free space or make it larger: {detail_of(error)}", reason="DISK_FULL")
    if _is_out_of_memory(error):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return ResourceError(
            f"host memory did not suffice, the worker took {size(peak)}",
            reason="OUT_OF_MEMORY",
            metadata={"peak_host_bytes": str(peak)},
        )
    if isinstance(error, (ConnectionError, TimeoutError)):
        return TransientError(f"a connection failed: {detail_of(error)}", reason="NETWORK")
    return InternalError(
        f"unexpected {type(error).__name__}; this is a defect, please report it with its details and what the log says",
        metadata={"traceback": _places(error)[-_TRACEBACK_CHARACTERS:]},
    )


def _places(error: BaseException) -> str:
    """Where an exception and its causes came from: classes and lines of code, but no messages: they may quote anything.

    The messages are in the log, redacted.
    """
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = f"{_places(cause)}from which came\n" if cause is not None else ""
    return f"{before}{''.join(traceback.format_tb(error.__traceback__))}{type(error).__name__}\n"


def _is_out_of_memory(error: Exception) -> bool:
    """Tell by type, by errno, or by message: torch's for the CPU, which must not be imported here, or a thread's."""
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    said = ("DefaultCPUAllocator: can't allocate memory", "can't start new thread")  # for lack of room for its stack
    return refused or isinstance(error, MemoryError) or any(words in str(error) for words in said)


def end_of_error(error: AttemptError) -> AttemptEnd:
    """How an attempt ended that raised an error."""
    details = {name: _shortened(text) for name, text in redact(error.metadata).items()}
    failure = Failure(error.reason, _shortened(redact(error.message)), error.retryable, details)
    return AttemptEnd(failure, charged=not isinstance(error, PreemptedError))


def end_of_process(ended: WorkerExit, output: str, *, stop_asked: bool) -> AttemptEnd:
    """How an attempt ended whose process exited without recording why.

    Args:
        ended: how it ended.
        output: the last lines it printed.
        stop_asked: whether the service had told it to stop; if so, the job is not at fault.
    """
    details = {"output": redact(output)} if output else {}
    if ended.signal is not None:
        details["signal"] = ended.signal
        if ended.signal == "SIGTERM" or (ended.signal == "SIGKILL" and stop_asked):
            message = _STOPPED[ended.signal]
            return AttemptEnd(Failure(PreemptedError.reason, message, retryable=True, details=details), charged=False)
        hint = "; most often the kernel does this when memory runs out" if ended.signal == "SIGKILL" else ""
        message = f"the worker was killed by {ended.signal}{hint}"
        return AttemptEnd(Failure("WORKER_KILLED", message, retryable=True, details=details), charged=True)
    details["exit_code"] = str(ended.exit_code)
    kind = _BY_EXIT_CODE.get(ended.exit_code or 0)
    if kind is None:
        message = f"the worker ended with exit code {ended.exit_code} and no result; see its output in the details"
        return AttemptEnd(Failure("WORKER_CRASHED", message, retryable=True, details=details), charged=True)
    message = f"the worker ended with exit code {ended.exit_code} ({kind.reason}) and could not tell the store why"
    # A worker that fenced itself while its attempt still owned the job had lost contact with the store.
    retryable = kind.retryable or kind is FencedError
    failure = Failure(kind.reason, message, retryable=retryable, details=details)
    return AttemptEnd(failure, charged=kind is not PreemptedError)


def _shortened(text: str) -> str:
    """Cut a text, which may quote model files at any length, so that it fits every response that shows the job."""
    return text if len(text) <= _TEXT_CHARACTERS else text[: _TEXT_CHARACTERS - 1] + "…"
