"""Jobs of a benchmark: runs what `secateur-service run` does, in this process, and resumes an interrupted job."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from secateur_service.commands.run import run_command
from secateur_service.settings import Settings


def run_job(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a specification; publishes to `folder`/job.

    Returns:
        The summary that `run --json` prints.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spec.yaml"
    path.write_text(json.dumps(spec))  # JSON is YAML
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = run_command(path, folder / "job", None, None, 1, Settings(), as_json=True)
    if code:
        raise SystemExit(code)  # the reason is on standard error
    return json.loads(said.getvalue().splitlines()[-1])
