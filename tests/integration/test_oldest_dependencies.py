"""The SDK runs with the oldest protobuf and gRPC that pyproject.toml allows, against a service with the newest."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.models import save_corpora, save_model, spec_data
from support.service import Service
from support.waiting import HANG_SECONDS

ROOT = Path(__file__).parents[2]
PACKAGES = ("googleapis-common-protos", "grpcio", "protobuf")
PROGRAM = """
import json, sys
import google.protobuf, grpc, secateur
spec, endpoint = json.loads(sys.argv[1]), sys.argv[2]
told = {"grpcio": grpc.__version__, "protobuf": google.protobuf.__version__}
with secateur.Client(endpoint) as client:
    try:
        client.submit({**spec, "pruning": {"method": "wanda", "sparsity": 1.5}})
    except secateur.InvalidSpecError as error:
        told["violations"] = [violation.field for violation in error.violations]
    job = client.submit(spec, labels={"team": "zürich"})
    told["listed"] = [found.name for found in client.list_jobs()] == [job.name]
    job.cancel()
    states = [event.state for event in job.watch(after_sequence=0) if isinstance(event, secateur.StateEvent)]
    told["states"] = [str(state) for state in states]
    told["labels"] = dict(job.get().labels)
print(json.dumps(told))
"""


def oldest() -> dict[str, str]:
    """The lower bounds of the base install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = dict(re.fullmatch(r"([\w.-]+)>=([\d.]+)", line).groups() for line in project["dependencies"])
    return {package: bounds[package] for package in PACKAGES}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with them, before which nothing is found."""
    folder = tmp_path_factory.mktemp("oldest")
    wanted = [f"{package}=={version}" for package, version in oldest().items()]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    installed = subprocess.run([*command, "--target", folder, *wanted], check=False, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"they cannot be installed: {installed.stderr[-300:]}")
    return folder


def test_jobs_are_submitted_watched_and_refused_with_the_oldest(tmp_path, packages):
    model, (calibration, evaluation) = save_model(tmp_path / "files" / "model"), save_corpora(tmp_path / "files")
    service = Service(tmp_path, file_root=tmp_path / "files")
    try:
        spec = json.dumps(spec_data(model, calibration, evaluation))
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM, spec, service.endpoint],
            env={**os.environ, "PYTHONPATH": str(packages)},
            check=False,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
    finally:
        service.close()
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert {package: told[package] for package in ("grpcio", "protobuf")} == {
        package: version for package, version in oldest().items() if package in told
    }
    assert told["violations"] == ["pruning.sparsity"]
    assert told["listed"]
    assert told["labels"] == {"team": "zürich"}
    assert told["states"] == ["QUEUED", "CANCELLED"]
