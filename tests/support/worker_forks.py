"""Processes of real services without the seconds that loading libraries takes: forked off ones that have loaded them.

What a service starts as its worker, or as the zygote of its inspections, is a *stand-in* (`worker_forks.py ask`): it
has the process's id, environment and command line, sends its arguments and its descriptors to the *forks* (`serve`),
and ends as the process that is forked there ends. That is killed when its stand-in is, and gets its SIGTERM; what
stops a stand-in does not stop it. The service (`server.py`) differs from the real one in these commands alone.

Workers' forks have loaded PyTorch; the zygotes' have what a zygote loads, and like it can never load PyTorch.
"""

import array
import contextlib
import functools
import gc
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

WORKER, TOY, HELPER, ZYGOTE = "secateur_service work", "toy_worker", "secateur_service help-job", "zygote"


def stand_in():
    """The command of a worker's stand-in; the first call starts the process that forks workers, one for all tests."""
    return _asking(WORKER)


def toy_stand_in(behaviour):
    """The same of a worker with a toy pipeline."""
    return [*_asking(TOY), behaviour]


def helper_stand_in():
    """The same of a process that helps a job."""
    return _asking(HELPER)


def zygote_stand_in():
    """The same of a zygote's, whose argument is a descriptor."""
    return _asking(ZYGOTE)


def _asking(program):
    address, _ = _forks(zygotes=program == ZYGOTE)
    return [sys.executable, "-S", "-E", __file__, "ask", address, program]


@functools.cache
def _forks(*, zygotes):
    """The process that forks such processes, and its address."""
    from secateur_service.inspection.children import zygote_environment
    from secateur_service.settings import Settings
    from support import forking, processes

    address = str(Path(tempfile.mkdtemp(prefix="forks-")) / "socket")
    if zygotes:
        environment = {**zygote_environment(Settings(), os.environ), "PYTHONPATH": str(Path(__file__).parents[1])}
        forks = processes.start([sys.executable, __file__, "serve", address], stdin=subprocess.PIPE, env=environment)
    else:
        forks = forking.ForkedProcess(serve_workers, address)
    processes.help_all(forks.pid)
    processes.await_ready(forks, _ready(address).exists)
    return address, forks


def _ready(address):
    return Path(address).with_name("ready")


def kill(pid):
    """Kill a worker by the process id that its service knows; a stand-in alone would leave it a moment."""
    send(pid, signal.SIGKILL)


def send(pid, number):
    """Signal a worker by the process id that its service knows, and its stand-in, which passes on SIGTERM itself."""
    with contextlib.suppress(OSError, ValueError):
        command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if __file__ in command and number != signal.SIGTERM:
            os.kill(int(_path_of(command[command.index("ask") + 1], pid).read_text()), number)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def ask(address, program, arguments):
    """The stand-in. Only the standard library is imported, and little of it."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    asked = {"program": program, "arguments": arguments, "environment": dict(os.environ), "umask": _umask()}
    request = json.dumps(asked).encode()
    descriptors = array.array("i", [1, 2, int(arguments[0])] if program == ZYGOTE else [1, 2])
    connection.sendmsg([len(request).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    connection.sendall(request)
    signal.signal(signal.SIGTERM, lambda *_: connection.send(b"T"))
    answer = b""
    while len(answer) < 4:
        part = connection.recv(4 - len(answer))
        if not part:
            sys.exit("the process that forks is gone")
        answer += part
    status = int.from_bytes(answer, "big")
    if os.WIFSIGNALED(status):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def _umask():
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


def serve_workers(address):
    """Fork workers until pytest ends."""
    import multiprocessing

    _serve(address, _be_worker, multiprocessing.parent_process().sentinel)


def serve_zygotes(address):
    """Fork zygotes until standard input ends."""
    from secateur_service.inspection.zygote import load

    gc.disable()
    load()
    gc.collect()
    gc.freeze()
    gc.enable()
    _serve(address, _be_zygote, 0)


def _serve(address, be, over):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    events = selectors.DefaultSelector()
    for thing in (listener, wakes, over):
        events.register(thing, selectors.EVENT_READ)
    workers = {}
    _ready(address).touch()
    while True:
        for key, _ in events.select():
            if key.fileobj == over:
                for pid in workers:
                    os.killpg(pid, signal.SIGKILL)
                return
            if key.fileobj is listener:
                connection, _ = listener.accept()
                request = _request(connection)
                if request is None:  # it was killed while it asked
                    connection.close()
                    continue
                pid = _forked(be, *request, [listener, wakes, wake, connection])
                workers[pid] = connection
                _path_of(address, _peer_of(connection)).write_text(str(pid))
                events.register(connection, selectors.EVENT_READ)
            elif key.fileobj == wakes:
                os.read(wakes, 4096)
                _hear(workers, events)
            else:
                pid = next((pid for pid, connection in workers.items() if connection is key.fileobj), None)
                gone = _is_gone(key.fileobj)
                if gone:
                    events.unregister(key.fileobj)
                if pid is not None:
                    os.kill(pid, signal.SIGKILL if gone else signal.SIGTERM)


def _peer_of(connection):
    """The process id of a stand-in."""
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid


def _path_of(address, stand_in):
    """Where the process id of a stand-in's worker is written."""
    return Path(address).with_name(str(stand_in))


def _is_gone(connection):
    """Whether a stand-in that has something to say says that it has ended, and not that its worker shall."""
    try:
        return not connection.recv(1)
    except OSError:
        return True


def _hear(workers, events):
    """Tell the stand-ins of workers that have ended."""
    for pid, connection in list(workers.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del workers[pid]
            with contextlib.suppress(OSError):  # it may be gone itself
                connection.sendall(status.to_bytes(4, "big"))
            if connection.fileno() in events.get_map():
                events.unregister(connection)
            connection.close()


def _request(connection):
    """What a stand-in asks for, and its descriptors; None where it is gone before it has said all."""
    descriptors = array.array("i")
    try:
        head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * descriptors.itemsize))
        for _, _, content in ancillary:
            descriptors.frombytes(content[: len(content) // descriptors.itemsize * descriptors.itemsize])
        content, part = b"", head
        while part and len(content) < int.from_bytes(head, "big"):
            part = connection.recv(1 << 16)
            content += part
        if len(descriptors) >= 2 and part:
            return json.loads(content), descriptors
    except OSError:
        pass
    for descriptor in descriptors:
        os.close(descriptor)
    return None


def _forked(be, request, descriptors, inherited):
    """Fork a process."""
    pid = os.fork()
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        return pid
    try:
        _begin(request, descriptors, inherited)
        be(request["program"], request["arguments"], *descriptors[2:])
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:  # noqa: BLE001 - as an interpreter ends
        traceback.print_exc()
        os._exit(1)
    finally:
        os._exit(0)


def _begin(request, descriptors, inherited):
    """Be as an interpreter is that the stand-in has started."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for number, stream in enumerate(descriptors[:2], 1):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    for thing in inherited:
        os.close(thing if isinstance(thing, int) else thing.detach())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])


def _be_worker(program, arguments):
    if program == TOY:
        from support.toy_worker import main as be_toy

        be_toy(arguments)
    if "paced" in os.environ.get("PYTHONPATH", ""):
        from support.pace import arm

        arm(Path(os.environ["SECATEUR_DATA_DIR"]))
    from secateur_service.commands.main import main

    sys.argv = ["secateur-service", "help-job" if program == HELPER else "work", *arguments]
    main()


def _be_zygote(_program, _arguments, control):
    from secateur_service.inspection.zygote import main

    sys.argv = ["zygote", str(control)]
    main()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve_zygotes(sys.argv[2])
    else:
        ask(sys.argv[2], sys.argv[3], sys.argv[4:])  # the program is the words by which workers are found
