"""The API process stays small: whatever it imports, torch is not among it."""

from __future__ import annotations

import json
import subprocess
import sys

from support.waiting import HANG_SECONDS

MODULES = [
    "app",
    "commands.main",
    "api.server",
    "commands.tokens",
    "jobs.store",
    "control.dispatcher",
    "artifacts",
    "spec",
    "admission",
    "metrics.registry",
]
PROGRAM = """
import importlib, json, sys

HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "matplotlib", "numpy", "lm_eval"}
for module in json.loads(sys.argv[1]):
    importlib.import_module(f"secateur_service.{module}")
    loaded = HEAVY & sys.modules.keys()
    if loaded:
        sys.exit(f"{module} imports {loaded}")
"""


def test_importing_the_parts_of_the_server_does_not_import_torch():
    """In one process: what all of them together do not import, none of them does."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(MODULES)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr
