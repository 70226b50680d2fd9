"""The API process stays small: whatever it imports, torch is not among it."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_part_of_the_server_does_not_import_torch(module: str):
    code = (
        f"import sys, secateur_service.{module}\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'safetensors', 'matplotlib', 'numpy', 'lm_eval'}\n"
        "heavy &= sys.modules.keys()\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )
    assert ended.returncode == 0, ended.stderr
