"""What an installation of the SDK alone, `pip install .`, does with the two commands that it puts on PATH."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from support.waiting import HANG_SECONDS

ROOT = Path(__file__).parents[2]


def base_distributions():
    """Everything that the base install brings."""
    found, left = {}, list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    while left:
        requirement = Requirement(left.pop())
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name not in found:
            found[requirement.name] = distribution(requirement.name)
            left += found[requirement.name].requires or []
    return [*found.values(), distribution("secateur")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with what the base install has, and nothing else: the very files, linked."""
    folder = tmp_path_factory.mktemp("alone")
    for package in base_distributions():
        for file in package.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not top.endswith(".pth"):
                target = Path(str(package.locate_file(top)))
                link = folder / top
                if target.is_dir() and top in ("google", "opentelemetry"):  # several distributions share it
                    link = folder.joinpath(*file.parts[:2])
                    target = Path(str(package.locate_file(Path(*file.parts[:2]))))
                    link.parent.mkdir(exist_ok=True)
                if not link.exists():
                    link.symlink_to(target)
    for source in (ROOT / "client" / "secateur", ROOT / "service" / "secateur_service"):
        (folder / source.name).unlink(missing_ok=True)
        (folder / source.name).symlink_to(source)
    return folder


def run(folder, module, *arguments):
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-S", "-m", module, *arguments],  # -S: without the packages of this environment
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )


@pytest.mark.parametrize("arguments", [(), ("--help",), ("serve",), ("tokens", "create", "me")])
def test_the_services_command_says_in_one_line_what_to_install(alone, arguments):
    done = run(alone, "secateur_service", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'secateur[service]'" in done.stderr


def test_the_sdks_command_works(alone):
    done = run(alone, "secateur", "config")
    assert done.returncode == 0, done.stderr
    assert "localhost:50051" in done.stdout
