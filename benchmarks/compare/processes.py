"""Processes for the two sides: one thread each, watched from outside.

A side is a script that takes a job as JSON, calls `imported` when all its imports are done, and `report` at the end.
Its memory is read from /proc, mostly by the process that started it, so that measuring costs the side nothing:

- resident: VmHWM, the kernel's own record of the peak resident set;
- anonymous: RssAnon, sampled; it excludes the pages of mapped files, which the system may drop.

A process is fresh where it is measured. The small form forks ours off the benchmark, which has loaded most of what a
side takes seconds to load.

Both sides import this module, so it imports only the standard library.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any, NoReturn

_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
_MARK = '{"side":'


def memory_bytes(pid: int | str, field: str) -> int:
    """A figure of /proc/{pid}/status, such as RssAnon; 0 if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = [line for line in status.splitlines() if line.startswith(f"{field}:")]
    return int(lines[0].split()[1]) << 10 if lines else 0


def imported() -> None:
    """Called by a side before it loads anything: its memory at this point is the baseline."""
    _say("imported", anonymous=memory_bytes("self", "RssAnon"), resident=memory_bytes("self", "VmHWM"))


def report(**figures: float) -> None:
    """Called by a side when it is done."""
    _say("finished", resident=memory_bytes("self", "VmHWM"), **figures)


def _say(stage: str, **figures: float) -> None:
    print(json.dumps({"side": stage, **figures}), flush=True)


def run_side(python: str | None, script: Path, job: Mapping[str, Any], every: float = 0.02) -> dict[str, float]:
    """Run a side to its end.

    Args:
        python: interpreter; None forks this process, whose memory is then in the baseline.
        script: the side.
        job: what it has to do.
        every: seconds between two samples of its memory.

    Returns:
        What it reported, with `highest_resident_bytes`, and `resident_bytes` and `anonymous_bytes`: the peaks above
        the baseline after the imports.

    Raises:
        RuntimeError: it failed; the message ends with its error output.
    """
    command = [str(script), json.dumps(dict(job))]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        pid, output, wait = _forked(command, errors) if python is None else _started([python, *command], errors)
        peak, ended = [0], threading.Event()

        def watch() -> None:
            while not ended.wait(every):
                peak[0] = max(peak[0], memory_bytes(pid, "RssAnon"))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        with closing(output):
            # The peak is taken at the time of its report: what it stores for the judge afterwards does not count.
            said = [json.loads(line) | {"anonymous_peak": peak[0]} for line in output if line.startswith(_MARK)]
        code = wait()
        ended.set()
        watcher.join()
        if code or len(said) != 2:
            errors.seek(0)
            raise RuntimeError(f"{script.name} failed with exit code {code}:\n{errors.read()[-4000:]}")
    baseline, figures = said
    return {
        **{name: value for name, value in figures.items() if name not in ("side", "resident", "anonymous_peak")},
        "highest_resident_bytes": figures["resident"],
        "resident_bytes": figures["resident"] - baseline["resident"],
        "anonymous_bytes": figures["anonymous_peak"] - baseline["anonymous"],
    }


_Side = tuple[int, IO[str], Callable[[], int]]
"""Its process id, its output, and what waits for its exit code."""


def _started(command: list[str], errors: IO[str]) -> _Side:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **_ONE_THREAD}
    )
    assert process.stdout is not None
    return process.pid, process.stdout, process.wait


def _forked(command: list[str], errors: IO[str]) -> _Side:
    ours, theirs = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _be(command, theirs, errors.fileno())
    os.close(theirs)
    return pid, os.fdopen(ours, encoding="utf-8"), lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _be(command: list[str], output: int, errors: int) -> NoReturn:
    for number, descriptor in ((1, output), (2, errors)):
        os.dup2(descriptor, number)
    os.close(output)
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
        sys.stdout.flush()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - as an interpreter ends
        traceback.print_exc()
    os._exit(1)
