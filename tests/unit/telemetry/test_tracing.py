"""Without the means to export, a process says so and does its work."""

import os
import subprocess
import sys

import pytest

from support.waiting import HANG_SECONDS

# As where the package is not installed: whoever imports it is told so.
PROGRAM = """
import sys
sys.modules[sys.argv[1]] = None
from secateur_service.telemetry.tracing import exporting_spans, span
with exporting_spans(), span("work") as current:
    print(current.is_recording())
"""


@pytest.mark.parametrize("missing", ["opentelemetry.sdk", "opentelemetry.exporter", "nothing"])
def test_a_missing_exporter_is_told_and_hinders_nothing(missing):
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    program = [sys.executable, "-c", PROGRAM, missing]
    ended = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == str(missing == "nothing")
    assert ("pip install 'secateur[traces]'" in ended.stdout) == (missing != "nothing")
