"""Processes that tests start die with their test, also when it fails, and with pytest, also when that is killed.

Three things see to it, for servers, their workers, databases and whatever these start:

- pytest adopts orphans, so that all processes of its tests are below it, whatever their parents do (`guard`).
- After every test, what it has left is ended, and fails it (`leftovers`; called in `conftest`). What fixtures of a
  wider scope start is theirs, and so is what takes its place (`start`).
- A watchdog beside pytest ends all that is left when pytest is gone, however it went: this module as a program.

Only the standard library is imported here, because the watchdog has to be up before the first test.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

HANG_SECONDS = 300.0
"""What never happens shall fail some day. No machine that works is so slow."""

_ENDING_SECONDS = float(os.environ.get("TESTS_ENDING_SECONDS", "30"))
_LOOK_SECONDS = 1.0
_HEAR_SECONDS = 0.05
_FORGET_LOOKS = 20  # the numbers of processes that have ended, before they are given again
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Found:
    """A process as the kernel lists it; its number may be another's later, with another start."""

    pid: int
    parent: int
    started: int

    @property
    def command(self) -> str:
        """What it runs."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
        return "?"


def running() -> list[Found]:
    """All processes of this machine that run, or are stopped; not those that wait for their parent to hear of it."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - of hundreds, after every test
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:  # noqa: PTH123 - likewise
                fields = file.read().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    found.append(Found(int(name), int(fields[1]), int(fields[19])))
    return found


def _parent_of(pid: int) -> int | None:
    """Also of a process that has ended, until its parent has heard of it."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def _has_ended() -> bool:
    """Whether a child waits for this process to hear of its end, which is much cheaper to ask than whose it is."""
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for its parent to hear of it."""
    return any(found.pid == pid for found in running())


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def below(*roots: int, without: Callable[[Found], bool] = lambda _: False) -> list[Found]:
    """The processes below others, parents first; branches `without` are left out."""
    children: dict[int, list[Found]] = {}
    for process in running():
        children.setdefault(process.parent, []).append(process)
    found, waiting = [], list(roots)
    while waiting:
        for process in children.get(waiting.pop(), ()):
            if not without(process):
                found.append(process)
                waiting.append(process.pid)
    return found


def end(processes: Sequence[Found]) -> None:
    """Kill processes and all that is below them."""
    left = dict.fromkeys(processes)
    deadline = time.monotonic() + HANG_SECONDS
    while left and time.monotonic() < deadline:
        left.update(dict.fromkeys(below(*(process.pid for process in left))))
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        alive = {(process.pid, process.started) for process in running()}
        left = {process: None for process in left if (process.pid, process.started) in alive}
        time.sleep(0.01)


class _Guard:
    """What this pytest knows of its processes."""

    def __init__(self) -> None:
        self.shared: set[int] = set()
        self.helpers: set[int] = set()
        self.watchdog: subprocess.Popen[bytes] | None = None

    def is_others(self, process: Found) -> bool:
        """It is of a wider scope than a test, or of none."""
        own = {resource_tracker._resource_tracker._pid, self.watchdog and self.watchdog.pid}  # type: ignore[attr-defined]
        return process.pid in self.shared | self.helpers | own

    def leftovers(self) -> list[Found]:
        return [process for process in below(os.getpid(), without=self.is_others) if process.pid != _forkserver()]


_guard = _Guard()


def _forkserver() -> int | None:
    """What `support.forking` forks off."""
    return forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined, no-any-return]


class _Adoption:
    """Makes this process the parent of orphans, and hears of their ends, as the first process of a machine would.

    Children of its own are left to those who wait for them: what `subprocess` starts, and what is forked.
    """

    def __init__(self) -> None:
        self._own: set[int] = set()
        self._starting = threading.RLock()  # held until it is known that a new child is one of its own

    def begin(self) -> None:
        initialise = subprocess.Popen.__init__

        @functools.wraps(initialise)
        def registered(process: Any, *arguments: Any, **named: Any) -> None:
            with self._starting:
                initialise(process, *arguments, **named)
                self._own.add(process.pid)

        subprocess.Popen.__init__ = registered  # type: ignore[method-assign]
        os.register_at_fork(
            before=self._starting.acquire, after_in_parent=self._forked, after_in_child=self._starting.release
        )
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        threading.Thread(target=self._hear, name="adoption", daemon=True).start()

    def _children(self) -> set[int]:
        """Those of all threads: what one has started is another's when it ends. One may be missed just then."""
        found: set[int] = set()
        for thread in Path(f"/proc/{os.getpid()}/task").iterdir():
            with contextlib.suppress(OSError):
                found |= {int(pid) for pid in (thread / "children").read_text().split()}
        return found

    def _forked(self) -> None:
        self._own |= self._children()
        self._starting.release()

    def _hear(self) -> None:
        for looks in itertools.count():
            time.sleep(_HEAR_SECONDS)
            if looks % _FORGET_LOOKS and not _has_ended():
                continue
            with self._starting:
                self._own = {pid for pid in self._own if _parent_of(pid) == os.getpid()}  # numbers are given again
                for pid in self._children() - self._own:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)


def guard() -> None:
    """Adopt orphans, and start the watchdog unless one watches a pytest that has started this one."""
    _Adoption().begin()
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    command = [sys.executable, "-S", "-E", __file__, str(os.getpid())]
    _guard.watchdog = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, cwd="/", bufsize=0
    )
    look()


def look() -> None:
    """Have the watchdog look at once; what it has seen does not outlive pytest. It looks every second by itself."""
    if _guard.watchdog is not None:
        _guard.watchdog.stdin.write(b"?")  # type: ignore[union-attr]
        _guard.watchdog.stdout.read(1)  # type: ignore[union-attr]


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """What is started meanwhile, and what takes its place, may outlive the test."""
    before: set[int | None] = {process.pid for process in below(os.getpid())}
    try:
        yield
    finally:
        before.add(_forkserver())  # only what it forks meanwhile
        _guard.shared.update(process.pid for process in below(os.getpid()) if process.pid not in before)


def leftovers(*, of_all_tests: bool = False) -> list[str]:
    """End what the test that is over has left, or all tests; the commands of what did not end by itself."""
    if of_all_tests:
        _guard.shared.clear()
    deadline = time.monotonic() + _ENDING_SECONDS  # what was asked to end, or killed, is on its way
    while (left := _guard.leftovers()) and time.monotonic() < deadline:
        time.sleep(0.02)
    commands = [process.command for process in left]
    end(left)
    return commands


def start(
    command: Sequence[str], *, instead_of: subprocess.Popen[Any] | None = None, **given: Any
) -> subprocess.Popen[Any]:
    """`subprocess.Popen`; the process belongs to whom the other one belonged."""
    process: subprocess.Popen[Any] = subprocess.Popen(command, **given)
    replace(instead_of, process)
    return process


def replace(before: Any, process: Any) -> None:
    """A process that takes another's place, if there was one, belongs to whom that belonged."""
    if before is not None and before.pid in _guard.shared:
        _guard.shared.add(process.pid)


def share(pid: int) -> None:
    """A process that a fixture of a wider scope has started again."""
    _guard.shared.add(pid)


def help_all(pid: int) -> None:
    """A process that serves all tests, and ends with pytest."""
    _guard.helpers.add(pid)


def await_ready(process: subprocess.Popen[Any], is_ready: Callable[[], object], log: Path | None = None) -> None:
    """Wait until a server is ready, as long as it lives; one that ends, or never is, is killed and shows its log."""
    deadline = time.monotonic() + HANG_SECONDS
    try:
        while not is_ready():
            said = "" if log is None else log.read_text(errors="replace")[-4000:]
            assert process.poll() is None, f"it ended with code {process.returncode}: {said}"
            assert time.monotonic() < deadline, f"it does not become ready: {said}"
            time.sleep(0.03)
        look()
    except BaseException:
        process.kill()
        process.wait()
        raise


def end_tree(process: subprocess.Popen[Any]) -> None:
    """Kill a process that was started here, and all that is below it, without leaving it time to start more."""
    if process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        tree = below(process.pid)
        process.kill()
        process.wait()
        end(tree)


def _watch(pid: int) -> None:
    """The watchdog: know what is below a process, until it is gone; then end that."""
    with contextlib.suppress(ProcessLookupError), open(os.pidfd_open(pid), closefd=True) as watched:  # noqa: PTH123
        events = select.poll()
        events.register(watched, select.POLLIN)
        events.register(0, select.POLLIN)
        known: dict[tuple[int, int], Found] = {}
        while True:
            ready = {descriptor for descriptor, _ in events.poll(_LOOK_SECONDS * 1000)}
            if watched.fileno() in ready:
                break
            if 0 in ready and not os.read(0, 1):
                events.unregister(0)  # it is about to end, and may have let go of its children already
                continue
            # What was known and runs is kept: nothing that is below it gets away from there while it lives.
            alive = {(process.pid, process.started) for process in running()}
            found = below(pid, without=lambda process: process.pid == os.getpid())
            known = {key: process for key, process in known.items() if key in alive}
            known |= {(process.pid, process.started): process for process in found}
            if 0 in ready:
                os.write(1, b"!")
        end(list(known.values()))


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
