"""Processes that end with the one that started them.

As a program, `parents.py PARENT IGNORED COMMAND...`, this ties its process to its parent and then becomes the command.
A command that ties itself does so only once it has loaded what it needs, which takes seconds; this takes milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Collection, Sequence

_SET_DEATH_SIGNAL = 1  # of prctl


def tied(command: Sequence[str], *, ignoring: Collection[signal.Signals] = ()) -> list[str]:
    """A command that runs another as a process that is killed when the thread that starts it ends.

    Args:
        command: the other one.
        ignoring: signals that it ignores from the first moment on, unless it handles them.
    """
    numbers = ",".join(str(number.value) for number in ignoring)
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), numbers, *command]


def end_with_parent(parent: int | None = None) -> None:
    """Have this process killed when the thread that started it ends, however it ends. Linux only.

    Args:
        parent: the parent's id, for a process that may have been orphaned before it came here.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    for number in filter(None, sys.argv[2].split(",")):
        signal.signal(int(number), signal.SIG_IGN)  # which stays so for the command
    end_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606 - the caller's own command
