"""The children as the server sees them: started through the zygote, asked over a connection, killed by number."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, Self

import structlog

from secateur_service.executors.local import process_environment
from secateur_service.inspection import frames
from secateur_service.inspection.child import NOTE_BYTES
from secateur_service.settings import Settings

ZYGOTE_COMMAND = (sys.executable, "-m", "secateur_service.inspection.zygote")
"""Its argument is the descriptor of the connection to the server."""

LOST = -1000
"""The exit code of a child whose zygote is gone: its fate is unknown."""

_EXIT_SECONDS = 5.0
_log = structlog.get_logger(__name__)


def zygote_environment(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of the zygote of a server that has this one."""
    return {
        **process_environment(settings, environment),
        **settings.library_environment(),
        "MALLOC_ARENA_MAX": "2",  # each arena reserves memory that the budget would count
        "TOKENIZERS_PARALLELISM": "false",  # so do its threads
        "TRANSFORMERS_VERBOSITY": "critical",  # it would quote untrusted text
    }


class Child:
    """A process that answers requests.

    Attributes:
        ended: its exit code, negative for a signal, once it has ended.
    """

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, notes: BinaryIO
    ) -> None:
        self.number = number
        self._notes = notes
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._reader = reader
        self._writer = writer

    async def ask(self, request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            EOFError, OSError: the child has ended.
        """
        self._writer.write(frames.encode(request))
        await self._writer.drain()
        return dict(await frames.read(self._reader))

    @property
    def place(self) -> str:
        """The field that it is inspecting, or inspected last; empty if unknown."""
        if self._notes.closed:
            return ""
        return os.pread(self._notes.fileno(), NOTE_BYTES, 0).decode().strip()

    async def exit_code(self) -> int:
        """Its exit code, once its connection is closed."""
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self.ended), _EXIT_SECONDS)
        return LOST

    def close(self) -> None:
        """Close the connection, which ends an idle child."""
        self._writer.close()
        self._notes.close()


class Nursery:
    """Starts children and records when they have ended; belongs to one event loop.

    If the zygote has ended, the next start of a child replaces it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._numbers = itertools.count()
        self._children: dict[int, Child] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._listening: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._closed = False

    def open(self) -> Self:
        """Start the zygote; children can be started as soon as it is ready."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        with theirs:
            self._process = subprocess.Popen(
                [*ZYGOTE_COMMAND, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=zygote_environment(self._settings, os.environ),
                pass_fds=[theirs.fileno()],
            )
        self._control = ours
        self._ready.clear()
        self._listening = asyncio.create_task(self._listen(ours, self._process))
        return self

    async def start(self, memory_bytes: int) -> Child:
        """Start a new child with this much memory of its own.

        Raises:
            OSError: it cannot be started.
        """
        if self._closed:
            raise OSError("the server is stopping")
        if self._control is None:
            self.open()
        await self._ready.wait()
        control = self._control
        if control is None:
            raise OSError("the process that forks inspections has ended; the log says why")
        ours, theirs = socket.socketpair()
        number = next(self._numbers)
        notes = os.fdopen(os.memfd_create("notes"), "rb+", buffering=0)
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            child = self._children[number] = Child(number, reader, writer, notes)
            message = b"start %d %d" % (number, memory_bytes)
            socket.send_fds(control, [message], [theirs.fileno(), notes.fileno()])
        return child

    def kill(self, child: Child) -> None:
        """Kill a child at once."""
        child.close()
        if self._control is not None and child.number in self._children:
            with contextlib.suppress(OSError):
                self._control.send(b"kill %d" % child.number)

    async def close(self) -> None:
        """End all processes and wait for them."""
        self._closed = True
        self._control = None
        if self._listening is not None:
            self._listening.cancel()  # which closes the connection
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening
        if self._process is not None:
            self._process.kill()  # the kernel then kills its children, as they asked it to
            await asyncio.to_thread(self._process.wait)
        self._lose_all()

    async def _listen(self, control: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Follow the zygote's messages until it ends."""
        loop = asyncio.get_running_loop()
        with control:
            while message := await loop.sock_recv(control, frames.MAX_MESSAGE_BYTES):
                command, *numbers = message.split()
                if command == b"ready":
                    self._ready.set()
                    continue
                child = self._children.pop(int(numbers[0]), None)
                if child is not None and not child.ended.done():
                    child.ended.set_result(int(numbers[1]))
        code = await asyncio.to_thread(process.wait)
        _log.warning("the process that forks inspections has ended; starting another", exit_code=code)
        self._control = None
        self._ready.set()
        self._lose_all()

    def _lose_all(self) -> None:
        for child in self._children.values():
            child.close()
            if not child.ended.done():
                child.ended.set_result(LOST)
        self._children.clear()
