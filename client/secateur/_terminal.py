"""Prints safely on any terminal, in any encoding.

Names, labels, URLs, logs and messages are untrusted. Characters in them that would move a terminal's cursor, change its
colours, ring its bell, write to its clipboard or reverse the direction of neighbouring text are printed as escapes. So
are characters that a stream cannot encode, so that no character makes a command fail. A stream that is closed, or whose
reader is gone, silently drops the rest where the work matters more than the output.

Both command lines print through here.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from types import TracebackType
from typing import IO, Any, TextIO, cast

from rich.console import Console

from secateur._foreign import detail_of
from secateur._redaction import redact_text

_UNSAFE = (
    "\x00-\x1f\x7f-\x9f"  # C0 and C1 controls, including escape sequences
    "\xad\u061c\u180e\u200b-\u200f"  # soft hyphen, zero width, direction marks
    "\u2028-\u202e"  # line and paragraph separators, embeddings and overrides
    "\u2060-\u206f\ufeff\ufff9-\ufffb"  # joiners, isolates, interlinear annotation marks
    "\ud800-\udfff"  # surrogates
    "\U000e0000-\U000e007f"  # tags
)
UNSAFE = re.compile(f"[{_UNSAFE}]")
"""Characters that control a terminal, or that display as something other than they are."""

_UNSAFE_IN_LINES = re.compile(f"(?!\n)[{_UNSAFE}]")


def clean(text: str) -> str:
    """An untrusted text on one line: what `UNSAFE` finds becomes an escape."""
    return UNSAFE.sub(_escaped, text)


def clean_lines(text: str) -> str:
    """The same for a text of ours, in which line breaks are intended."""
    return _UNSAFE_IN_LINES.sub(_escaped, text)


def first_unsafe(text: str) -> str | None:
    """The first character of a text that `UNSAFE` finds, as `U+000A`."""
    found = UNSAFE.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def prepare_streams() -> None:
    """Make standard output and error accept every character: what they cannot encode becomes an escape."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def console(*, stderr: bool = False) -> Console:
    """A console for progress and tables that prints texts as they are: no markup, no emoji, no added colours.

    Rich draws bars and tables in ASCII if the stream's encoding has nothing better.
    """
    prepare_streams()
    stream = sys.stderr if stderr else sys.stdout
    lasting = cast("IO[str]", _Lasting(stream)) if stream is not None else None
    return Console(file=lasting, stderr=stderr, markup=False, emoji=False, highlight=False)


class _Lasting:
    """A stream that drops what it cannot write, for progress bars drawn from other threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            discard(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


EXIT_OUTPUT_LOST = 141
"""Exit code of a command whose output has no reader any more, as for the shell's own."""


class OutputLostError(Exception):
    """A command's output cannot be printed; the message is for people, empty if the reader is gone."""


def write(text: str, *, stream: TextIO | None) -> None:
    """Print one or more lines.

    Raises:
        OutputLostError: the reader is gone, or there is no space left; the stream silently drops the rest.
    """
    if stream is None:
        return
    try:
        stream.write(clean_lines(text) + "\n")
        stream.flush()
    except (OSError, ValueError) as error:
        discard(stream)
        gone = isinstance(error, BrokenPipeError)
        raise OutputLostError("" if gone else f"the output cannot be written: {detail_of(error)}") from error


def say(text: str, *, stream: TextIO | None = None) -> None:
    """Print a message, without secrets, by default to standard error; ignores a stream that cannot take it."""
    stream = sys.stderr if stream is None else stream
    with contextlib.suppress(OutputLostError):
        write(redact_text(text), stream=stream)


def show_exception(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """For `sys.excepthook`: print a defect that no command has turned into a message, without secrets."""
    say("".join(traceback.format_exception(kind, error, trace)).rstrip())


def discard(stream: Any) -> None:
    """Discard everything still to come on a stream, including Python's final flush."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
