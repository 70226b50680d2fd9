"""What is printed: on any terminal, in any encoding, and without power over either.

Names, labels, addresses, logs and messages come from others. No character of theirs reaches a terminal that moves its
cursor, colours it, rings, writes to its clipboard, or turns the direction of what stands beside it: such characters are
shown by their escapes. What a stream cannot encode is shown likewise, so that no letter ends a command; a stream whose
reader is gone, or that was closed, takes the rest in silence where the work matters more than the words.

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
    "\x00-\x1f\x7f-\x9f"  # controls, C0 and C1, escape sequences among them
    "\xad\u061c\u180e\u200b-\u200f"  # soft hyphen, zero width, marks of direction
    "\u2028-\u202e"  # separators of lines and paragraphs, embeddings and overrides
    "\u2060-\u206f\ufeff\ufff9-\ufffb"  # joiners, isolates, interlinear marks
    "\ud800-\udfff"  # halves of pairs
    "\U000e0000-\U000e007f"  # tags
)
UNSAFE = re.compile(f"[{_UNSAFE}]")
"""Characters that a terminal obeys, or that show as something else than they are."""

_UNSAFE_IN_LINES = re.compile(f"(?!\n)[{_UNSAFE}]")


def clean(text: str) -> str:
    """A foreign text on one line: what `UNSAFE` finds is shown by its escape."""
    return UNSAFE.sub(_escaped, text)


def clean_lines(text: str) -> str:
    """The same of a text of ours in which line breaks are meant."""
    return _UNSAFE_IN_LINES.sub(_escaped, text)


def first_unsafe(text: str) -> str | None:
    """The first character of a text that `UNSAFE` finds, as `U+000A`."""
    found = UNSAFE.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def prepare_streams() -> None:
    """Let standard output and error take every character: what they cannot encode becomes its escape."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def console(*, stderr: bool = False) -> Console:
    """A console for progress and tables that takes texts as they are: no markup, no emoji, no colours of its own.

    Rich draws bars and tables in ASCII where the stream's encoding has nothing else.
    """
    prepare_streams()
    stream = sys.stderr if stderr else sys.stdout
    lasting = cast("IO[str]", _Lasting(stream)) if stream is not None else None
    return Console(file=lasting, stderr=stderr, markup=False, emoji=False, highlight=False)


class _Lasting:
    """A stream that lets be what it cannot write, for bars that are drawn from threads of their own."""

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
"""How a command ends whose result nobody reads, as the shell's own do, or finds no room."""


class OutputLostError(Exception):
    """What a command was asked for cannot be printed; its message is for people, empty where nobody reads on."""


def write(text: str, *, stream: TextIO | None) -> None:
    """Print a line, or several.

    Raises:
        OutputLostError: the reader is gone, or there is no room; the stream takes the rest in silence.
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
    """Print a message, without secrets, to standard error by default; a stream that takes no more is let be."""
    stream = sys.stderr if stream is None else stream
    with contextlib.suppress(OutputLostError):
        write(redact_text(text), stream=stream)


def show_exception(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """As `sys.excepthook`: a defect that no command has turned into a message, without secrets."""
    say("".join(traceback.format_exception(kind, error, trace)).rstrip())


def discard(stream: Any) -> None:
    """Send what is still to come, Python's own last flush included, to nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
