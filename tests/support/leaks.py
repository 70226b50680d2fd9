"""Whether a secret of the tests has left a process: a search of all that the processes of a run leave and say.

Secrets that tests give to servers, runs and stores are made by `secret`: each holds `MARK`. Searched for it, as it is
and as base64 has it, are the files below the run's temporary folder when it ends (data folders, databases, logs,
reports, results; of weights their header), what commands print to the tests that started them, and the answers and
errors of the SDK's calls. A file into which a test itself writes a secret, for a process to read, has a name that ends
with `GIVEN`.
"""

from __future__ import annotations

import base64
import errno
import functools
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

MARK = "LEAK-ME-NOT"
GIVEN = ".given"
_PART_BYTES = 1 << 24
_HEADER_BYTES = 1 << 20
_OVERLAP_BYTES = 1 << 10  # more than a secret has in any spelling


def secret(name: str, *, prefix: str = "") -> str:
    """A secret that the search knows."""
    return f"{prefix}{MARK}-{name}-{secrets.token_hex(8)}"


def _spellings() -> list[bytes]:
    mark = MARK.encode()
    cores = []
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + mark).rstrip(b"=")
        cores.append(encoded[-(-8 * offset // 6) : 8 * (offset + len(mark)) // 6])
    return [mark, *cores]


_known: list[bytes] = _spellings()


def know(found: str) -> str:
    """Search for a secret that a process has made, from now on; returns it."""
    _known.append(found.encode())
    return found


def leaks_in(content: Any) -> bool:
    """Whether bytes hold a secret."""
    return any(content.find(spelling) != -1 for spelling in _known)


def search(folder: Path) -> Iterator[Path]:
    """The files below a folder, or their names, that hold one."""
    for path in folder.rglob("*"):
        if path.is_symlink() or path.name.endswith(GIVEN) or not path.is_file():
            continue
        if leaks_in(os.fsencode(path)):
            yield path
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if path.suffix == ".safetensors":  # half of all bytes, and numbers that were computed
                    size = min(size, _HEADER_BYTES)
                if any(leaks_in(part) for part in _parts(file.fileno(), size)):
                    yield path
        except OSError:  # gone by now
            continue


def _parts(file: int, size: int) -> Iterator[bytes]:
    """What was written into so many bytes of a file, in parts that overlap; a hostile one is a terabyte of holes."""
    at = 0
    while at < size:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole until the end
                return
            raise
        end = min(size, os.lseek(file, at, os.SEEK_HOLE))
        while at < end:
            yield os.pread(file, min(_PART_BYTES + _OVERLAP_BYTES, end - at), at)
            at += _PART_BYTES
        at = end


class Found:
    """Where secrets were found."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self.test = ""

    def look(self, what: str, content: Any) -> None:
        """Search what a process said."""
        if isinstance(content, str):
            content = content.encode(errors="replace")
        if content and leaks_in(content):
            self.places.append(f"{what}, in {self.test or 'a fixture'}")


def watch_processes(found: Found) -> Callable[[], None]:
    """Look at what every process prints to a test that waits for it; returns what ends this."""
    communicate = subprocess.Popen.communicate

    @functools.wraps(communicate)
    def watched(self: Any, *arguments: Any, **named: Any) -> Any:
        outputs = communicate(self, *arguments, **named)
        command = " ".join(map(str, self.args)) if isinstance(self.args, list | tuple) else str(self.args)
        for stream, output in zip(("output", "errors"), outputs, strict=True):
            found.look(f"the {stream} of `{command[:200].replace(MARK, '…')}`", output)
        return outputs

    subprocess.Popen.communicate = watched  # type: ignore[method-assign]

    def end() -> None:
        subprocess.Popen.communicate = communicate  # type: ignore[method-assign]

    return end


class CallWatcher(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
):
    """Looks at the answers and errors of calls."""

    def __init__(self, found: Found) -> None:
        self._found = found

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        call.add_done_callback(functools.partial(self._ended, details.method))
        return call

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """Of streams only the end; their messages come from the database, which is searched."""
        call = continuation(details, request)
        call.add_done_callback(lambda ended: self._look(details.method, ended))
        return call

    def _ended(self, method: Any, call: Any) -> None:
        self._look(method, call)
        if call.code() is grpc.StatusCode.OK:
            self._found.look(f"an answer of {method}", str(call.result()))

    def _look(self, method: Any, call: Any) -> None:
        self._found.look(f"the end of {method}", f"{call.details() or ''} {call.trailing_metadata() or ''}")


def watch_calls(found: Found) -> Callable[[], None]:
    """Look at the answers of all calls through channels that are made from now on; returns what ends this."""
    makers = {name: getattr(grpc, name) for name in ("insecure_channel", "secure_channel")}

    def watched(make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **named: grpc.intercept_channel(make(*arguments, **named), CallWatcher(found))

    for name, make in makers.items():
        setattr(grpc, name, watched(make))

    def end() -> None:
        for name, make in makers.items():
            setattr(grpc, name, make)

    return end
