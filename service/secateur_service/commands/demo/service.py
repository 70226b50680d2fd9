"""The embedded service as the demo runs it: a separate process on a free port, with its data in one folder."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 90.0
LOG_LINES_SHOWN = 15


class ServiceDidNotStartError(Exception):
    """The service ended or did not answer in time; the message has the end of its log."""


@contextlib.contextmanager
def running_service(folder: Path, *, file_root: Path) -> Iterator[str]:
    """Run the service as long as the context lasts.

    Args:
        folder: For its database, its artifacts and its log.
        file_root: The folder below which it may read models and texts.

    Yields:
        The address of its API.

    Raises:
        ServiceDidNotStartError: the message says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ready, log = folder / "ready.json", folder / "service.log"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "secateur_service", "serve", "--listen", "127.0.0.1:0", "--metrics-listen", ""]
    command += ["--data-dir", str(folder), "--file-root", str(file_root), "--ready-file", str(ready)]
    # The demo must not depend on the user's own configuration.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SECATEUR_")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C goes to the demo, which then stops the service cleanly
        )
    try:
        yield _address(process, ready, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], ready: Path, log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        if process.poll() is not None:
            raise ServiceDidNotStartError(f"the service ended at once:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise ServiceDidNotStartError(f"the service did not answer within {START_SECONDS:.0f} s:\n{_tail(log)}")
        time.sleep(0.05)
    return str(json.loads(ready.read_text(encoding="utf-8"))["grpc"])


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES_SHOWN:]) or "(its log is empty)"
