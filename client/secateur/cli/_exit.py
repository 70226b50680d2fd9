"""Exit codes, and how an error ends the command: one readable message, no traceback."""

from __future__ import annotations

import enum
import json

from secateur._errors import (
    CONNECTION_REFUSED,
    CertificateError,
    ConfigError,
    DamagedResultError,
    DeadlineError,
    DownloadError,
    InvalidRequestError,
    InvalidSpecError,
    JobCancelledError,
    JobFailedError,
    NotFoundError,
    OverloadedError,
    ProtocolError,
    SecateurError,
    UnauthenticatedError,
    UnavailableError,
    UnreachableError,
    WaitTimeoutError,
)
from secateur._terminal import EXIT_OUTPUT_LOST, clean


class ExitCode(enum.IntEnum):
    """How the command ended."""

    DONE = 0
    JOB_FAILED = 1
    USAGE = 2
    INVALID_SPEC = 3
    NOT_FOUND = 4
    UNAVAILABLE = 5
    JOB_CANCELLED = 6
    REFUSED = 7
    DOWNLOAD_FAILED = 8
    UNAUTHENTICATED = 9
    GATE_FAILED = 10
    TIMED_OUT = 124
    INTERRUPTED = 130
    OUTPUT_LOST = EXIT_OUTPUT_LOST


MEANINGS = {
    ExitCode.DONE: "done; where a job was watched: it succeeded",
    ExitCode.JOB_FAILED: "the job failed; of a sweep: one did; of `gate`: it failed and has no report",
    ExitCode.USAGE: "the command line or the configuration is wrong, or names a file or folder that cannot be read, or "
    "a language or task that was not evaluated",
    ExitCode.INVALID_SPEC: "the specification breaks rules",
    ExitCode.NOT_FOUND: "there is no such job",
    ExitCode.UNAVAILABLE: "the service, or the store that its results go to, cannot be reached, is overloaded or did "
    "not answer in time",
    ExitCode.JOB_CANCELLED: "the job was cancelled; of a sweep: one was, and none failed",
    ExitCode.REFUSED: "refused for another reason, such as a job that has not ended, a hub that the service cannot "
    "reach, or a disk without room for the output; `info --architecture`: such models cannot be pruned",
    ExitCode.DOWNLOAD_FAILED: "a file could not be downloaded, or is not what was published",
    ExitCode.UNAUTHENTICATED: "the service requires a token, or does not take the one that it was shown",
    ExitCode.GATE_FAILED: "`gate`: a language or a task lost more than it may, or the job exceeded a limit of its own; "
    "`sweep`: no job is within `--max-growth`",
    ExitCode.TIMED_OUT: "a watch ended before the job, after its `--timeout`; the job goes on",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C; jobs that were watched go on",
    ExitCode.OUTPUT_LOST: "whoever was to read the output has gone, as in `secateur list | head`",
}
"""What each code says, for the documentation."""

_CODES: tuple[tuple[type[SecateurError], ExitCode], ...] = (
    (ConfigError, ExitCode.USAGE),
    (InvalidSpecError, ExitCode.INVALID_SPEC),
    (InvalidRequestError, ExitCode.USAGE),
    (NotFoundError, ExitCode.NOT_FOUND),
    (UnauthenticatedError, ExitCode.UNAUTHENTICATED),
    (UnavailableError, ExitCode.UNAVAILABLE),
    (DeadlineError, ExitCode.UNAVAILABLE),
    (OverloadedError, ExitCode.UNAVAILABLE),
    (WaitTimeoutError, ExitCode.TIMED_OUT),
    (JobFailedError, ExitCode.JOB_FAILED),
    (JobCancelledError, ExitCode.JOB_CANCELLED),
    (DownloadError, ExitCode.DOWNLOAD_FAILED),
    (DamagedResultError, ExitCode.DOWNLOAD_FAILED),
)


def exit_code(error: SecateurError) -> ExitCode:
    """The exit code of an error; the first class that fits decides."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.REFUSED)


def error_text(error: SecateurError, endpoint: str) -> str:
    """An error for people: what is wrong, field by field, and what to do."""
    if isinstance(error, InvalidRequestError | UnreachableError) and error.violations:
        return "\n".join(clean(str(violation)) for violation in error.violations)
    message, endpoint = clean(error.message), clean(endpoint)
    if isinstance(error, CertificateError | ProtocolError):
        return f"{endpoint}: {message}"
    if isinstance(error, UnavailableError) and error.reason not in (UnavailableError.reason, CONNECTION_REFUSED):
        return f"{message}\nthe service at {endpoint} is up, but cannot do this now; try again later"
    if error.reason == CONNECTION_REFUSED:
        return f"no service at {endpoint}: {message}\n{_remedy(endpoint)}"
    if isinstance(error, UnavailableError | DeadlineError):
        return f"the service at {endpoint} does not answer: {message}\n{_remedy(endpoint)}"
    return message


def _remedy(endpoint: str) -> str:
    if endpoint.startswith("https://"):
        return (
            "check --endpoint, that the service runs and uses TLS, that SECATEUR_CA_FILE names its authority, and "
            "whether it asks for a certificate of yours (SECATEUR_CERTIFICATE_FILE, SECATEUR_KEY_FILE)"
        )
    return "check --endpoint and that the service runs; where it uses TLS the endpoint is https://HOST:PORT"


def error_json(error: SecateurError) -> str:
    """An error for machines, on one line."""
    content: dict[str, object] = {
        "reason": error.reason,
        "message": error.message,
        "retryable": error.retryable,
        "metadata": error.metadata,
    }
    if isinstance(error, InvalidRequestError | UnreachableError):
        content["violations"] = [
            {"field": violation.field, "description": violation.description} for violation in error.violations
        ]
    return json.dumps({"error": content})
