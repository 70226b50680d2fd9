"""Fresh processes for the two sides: one thread each, watched from outside.

A side is a script that takes a job as JSON, calls `imported` when all its imports are done, and `report` at the end.
Its memory is read from /proc, mostly by the process that started it, so that measuring costs the side nothing:

- resident: VmHWM, the kernel's own record of the peak resident set;
- anonymous: RssAnon, sampled; it excludes the pages of mapped files, which the system may drop.

Both sides import this module, so it imports only the standard library.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def run_side(python: str, script: Path, job: Mapping[str, Any], every: float = 0.02) -> dict[str, float]:
    """Run a side to its end.

    Args:
        python: interpreter.
        script: the side.
        job: what it has to do.
        every: seconds between two samples of its memory.

    Returns:
        What it reported, with `highest_resident_bytes`, and `resident_bytes` and `anonymous_bytes`: the peaks above
        the baseline after the imports.

    Raises:
        RuntimeError: it failed; the message ends with its error output.
    """
    command = [python, str(script), json.dumps(dict(job))]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **_ONE_THREAD}
        )
        peak = [0]

        def watch() -> None:
            while process.poll() is None:
                peak[0] = max(peak[0], memory_bytes(process.pid, "RssAnon"))
                time.sleep(every)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        assert process.stdout is not None
        # The peak is taken at the time of its report: what it stores for the judge afterwards does not count.
        said = [json.loads(line) | {"anonymous_peak": peak[0]} for line in process.stdout if line.startswith(_MARK)]
        code = process.wait()
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
