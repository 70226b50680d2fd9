import errno

import pytest

from secateur_service.control.exits import attempt_error, end_of_error, end_of_process
from secateur_service.errors import (
    CancelledError,
    FencedError,
    InternalError,
    InvalidSpecError,
    PermanentError,
    PreemptedError,
    ResourceError,
    TransientError,
)
from secateur_service.executors.port import WorkerExit


@pytest.mark.parametrize(
    ("error", "kind", "reason", "exit_code"),
    [
        (PermanentError("bad", reason="BAD_MODEL"), PermanentError, "BAD_MODEL", 10),
        (InvalidSpecError([]), PermanentError, "INVALID_SPEC", 10),
        (TransientError("gone"), TransientError, "TRANSIENT", 11),
        (ConnectionResetError("reset"), TransientError, "NETWORK", 11),
        (TimeoutError("late"), TransientError, "NETWORK", 11),
        (OSError(errno.ENOSPC, "full"), ResourceError, "DISK_FULL", 12),
        (OSError(errno.EDQUOT, "quota"), ResourceError, "DISK_FULL", 12),
        (MemoryError(), ResourceError, "OUT_OF_MEMORY", 12),
        (OSError(errno.ENOMEM, "no memory"), ResourceError, "OUT_OF_MEMORY", 12),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), ResourceError, "OUT_OF_MEMORY", 12),
        (RuntimeError("can't start new thread"), ResourceError, "OUT_OF_MEMORY", 12),
        (PreemptedError("stop"), PreemptedError, "PREEMPTED", 13),
        (FencedError("lost"), FencedError, "FENCED", 14),
        (RuntimeError("surprise"), InternalError, "INTERNAL", 15),
        (OSError(errno.EIO, "broken"), InternalError, "INTERNAL", 15),
        (CancelledError("stop"), CancelledError, "CANCELLED", 0),
    ],
)
def test_every_exception_has_a_class_a_reason_and_an_exit_code(error, kind, reason, exit_code):
    ended = attempt_error(error)
    assert (type(ended), ended.reason, ended.exit_code) == (kind, reason, exit_code)


def test_a_defect_carries_its_traceback_without_secrets():
    try:
        raise RuntimeError("cannot open https://user:hunter2@host/")
    except RuntimeError as error:
        ended = attempt_error(error)
    assert "cannot open" not in ended.message
    assert "RuntimeError" in ended.metadata["traceback"]
    assert "test_a_defect_carries" in ended.metadata["traceback"]
    assert "hunter2" not in str(end_of_error(ended))


def test_a_failure_stays_short_whatever_it_quotes():
    failure = end_of_error(PermanentError("é" * 10**6, metadata={"tensor": "x" * 10**6})).failure
    assert failure.message == "é" * 3999 + "…"
    assert failure.details == {"tensor": "x" * 3999 + "…"}


@pytest.mark.parametrize(
    ("error", "charged", "retryable"),
    [
        (PermanentError("bad"), True, False),
        (TransientError("gone"), True, True),
        (ResourceError("full"), True, True),
        (InternalError("defect"), True, True),
        (PreemptedError("stop"), False, True),
    ],
)
def test_only_preemptions_are_not_charged(error, charged, retryable):
    end = end_of_error(error)
    assert (end.charged, end.failure.retryable) == (charged, retryable)


@pytest.mark.parametrize(
    ("ended", "stop_asked", "reason", "charged", "retryable"),
    [
        (WorkerExit(exit_code=0), False, "WORKER_CRASHED", True, True),
        (WorkerExit(exit_code=1), False, "WORKER_CRASHED", True, True),
        (WorkerExit(exit_code=10), False, "PERMANENT", True, False),
        (WorkerExit(exit_code=11), False, "TRANSIENT", True, True),
        (WorkerExit(exit_code=12), False, "OUT_OF_RESOURCES", True, True),
        (WorkerExit(exit_code=13), True, "PREEMPTED", False, True),
        (WorkerExit(exit_code=14), False, "FENCED", True, True),
        (WorkerExit(exit_code=15), False, "INTERNAL", True, True),
        (WorkerExit(signal="SIGKILL"), False, "WORKER_KILLED", True, True),
        (WorkerExit(signal="SIGSEGV"), True, "WORKER_KILLED", True, True),
        (WorkerExit(signal="SIGKILL"), True, "PREEMPTED", False, True),
        (WorkerExit(signal="SIGTERM"), True, "PREEMPTED", False, True),
        (WorkerExit(signal="SIGTERM"), False, "PREEMPTED", False, True),  # a scheduler's, to all that it started
    ],
)
def test_the_end_of_a_process_tells_why_its_attempt_ended(ended, stop_asked, reason, charged, retryable):
    end = end_of_process(ended, "last line", stop_asked=stop_asked)
    assert (end.failure.reason, end.charged, end.failure.retryable) == (reason, charged, retryable)
    assert end.failure.details["output"] == "last line"
    told = end.failure.details.get("exit_code", end.failure.details.get("signal"))
    assert told in str(ended)
