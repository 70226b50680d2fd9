"""What may be shown of an exception that is not ours.

Other libraries' exception texts may quote anything, including headers and signed URLs, and end up in terminals and
tickets. So we only show the system's or the protocol's name for the fault, or else the class's name; the text itself
goes to the log, redacted.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator


def detail_of(error: BaseException) -> str:
    """A few words on why something failed, without the exception's text: `Connection refused`, `ReadTimeout`."""
    causes = list(_causes(error))
    found = next((words for cause in causes if (words := _known(cause))), None)
    return found or type(causes[0]).__name__


def _known(error: BaseException) -> str | None:
    """The fault's standard name, if it has one that does not come from a library's text."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted (code {error.verify_code})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'no reason given'})"
    if isinstance(error, socket.gaierror):
        return "the name cannot be resolved"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    named = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    return f"{type(error).__name__} {named}" if isinstance(named, str) else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and its causes, the outermost first."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        causes = (getattr(current, "reason", None), current.__cause__, current.__context__)
        waiting += [cause for cause in causes if isinstance(cause, BaseException)]
