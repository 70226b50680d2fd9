"""The process that children are forked from: it has loaded what they need, so that a child starts in milliseconds.

It has one thread and reads nothing untrusted. The server sends `start N MEMORY`, with the child's end of a connection
and the file for its notes, and `kill N`; the zygote answers `ended N STATUS`. The server refers to children by its own
numbers: only the parent that waits for a process can safely signal it by its id, which may be reused at any time after
it has ended. When the server is gone, they all end.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys

from secateur_service.inspection.budget import limit_memory
from secateur_service.inspection.frames import MAX_MESSAGE_BYTES
from secateur_service.parents import end_with_parent


class Zygote:
    """Forks, kills and reaps children.

    Args:
        control: the connection to the server, one message per datagram.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, int] = {}  # process id -> the server's number

    def run(self) -> None:
        """Carry out the server's requests until it is gone."""
        gc.disable()  # it would look for garbage among what is loaded
        load()
        from secateur._redaction import protect
        from secateur_service.admission import AccessPolicy
        from secateur_service.inspection.child import serve
        from secateur_service.settings import Settings
        from secateur_service.telemetry.logging import configure_logging

        settings = Settings()
        AccessPolicy.from_settings(settings)  # asks once what the devices have
        protect(settings.secrets())
        configure_logging(level=settings.log_level, log_format=settings.log_format)
        gc.collect()
        gc.freeze()  # a collection in a child would touch, and so copy, all shared memory
        gc.enable()
        wake, waker = socket.socketpair()
        for end in (wake, waker):
            end.settimeout(0)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self._control.send(b"ready")
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if wake in ready:
                    wake.recv(4096)
                    self._reap()
                if self._control in ready:
                    message, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, 2)
                    if not message:
                        break
                    command, *numbers = message.split()
                    if command == b"kill":
                        self._kill(int(numbers[0]))
                    elif self._start(int(numbers[0]), descriptors):
                        signal.set_wakeup_fd(-1)
                        selector.close()
                        for end in (wake, waker, self._control):
                            end.close()
                        limit_memory(int(numbers[1]))
                        serve(socket.socket(fileno=descriptors[0]), descriptors[1], settings)
                        return
        for process in self._children:
            os.kill(process, signal.SIGKILL)

    def _start(self, number: int, descriptors: list[int]) -> bool:
        """Fork; returns whether this is the child."""
        parent = os.getpid()
        process = os.fork()
        if process == 0:
            end_with_parent()
            if os.getppid() != parent:  # the parent ended before the kernel was told
                os._exit(1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return True
        for descriptor in descriptors:
            os.close(descriptor)
        self._children[process] = number
        return False

    def _kill(self, number: int) -> None:
        for process, known in self._children.items():
            if known == number:
                os.kill(process, signal.SIGKILL)

    def _reap(self) -> None:
        while self._children:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            number = self._children.pop(process)
            self._control.send(b"ended %d %d" % (number, os.waitstatus_to_exitcode(status)))


def load() -> None:
    """Load once whatever children need."""
    from secateur_service.artifacts import s3  # noqa: F401
    from secateur_service.inspection import child  # noqa: F401
    from secateur_service.models.belonging import load_libraries
    from secateur_service.sources import hub  # noqa: F401
    from secateur_service.telemetry import logging  # noqa: F401

    sys.modules["torch"] = None  # type: ignore[assignment] # makes imports fail: torch would take 300 MB
    load_libraries()


def main() -> None:
    """Entry point: the argument is the descriptor of the connection to the server."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a signal from the terminal also reaches us; only the server may end us
    Zygote(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
