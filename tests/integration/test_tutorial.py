"""The tutorial, run as it stands against a service and a hub: commands in one shell, specification, Python."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.documentation import ROOT, blocks
from support.hub import hub_server
from support.service import WITH_WORKERS, Service
from support.vocabularies import LINES, save_scene
from support.waiting import HANG_SECONDS

TUTORIAL = blocks(ROOT / "docs" / "tutorial.md")
INSTALLS = re.compile(r"^(python3 -m venv|\. secateur|pip install)")
SERVES = "secateur-service serve"


def _model(folder):
    return save_scene(folder, architecture="gemma3_text", max_position_embeddings=2048)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of somebody who follows the tutorial, with text in it."""
    folder = tmp_path_factory.mktemp("tutorial")
    words = sorted({word for line in LINES for word in line.split()})
    for language, seed in (("uk", 0), ("en", 1)):
        draw = random.Random(seed)
        (folder / "text").mkdir(exist_ok=True)
        lines = [" ".join(draw.choices(words, k=20)) for _ in range(2000)]
        (folder / "text" / f"{language}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def service(folder, tmp_path_factory):
    below = tmp_path_factory.mktemp("service")
    with hub_server() as hub:
        hub.add("models/google/gemma-3-270m", _model(below / "model"), gated=True)
        settings = {"SECATEUR_HUB_ENDPOINT": hub.endpoint, "SECATEUR_HUB_TOKEN": hub.token, **WITH_WORKERS}
        service = Service(below, file_root=folder / "text", **settings)
        yield service
        service.close()


@pytest.fixture(scope="module")
def walked(folder, service, tmp_path_factory):
    """What the commands of the tutorial print, one after the other in one shell."""
    programs = tmp_path_factory.mktemp("bin")
    for name, command in (("secateur", f"{sys.executable} -m secateur"), ("python", sys.executable)):
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (programs / name).chmod(0o755)
    (specification,) = [block.text for block in TUTORIAL if block.language == "yaml"]
    (folder / "smaller.yaml").write_text(specification, encoding="utf-8")
    (program,) = [block.text for block in TUTORIAL if block.language == "python"]
    (folder / "use.py").write_text(program, encoding="utf-8")
    typed = [block.text for block in TUTORIAL if block.language == "sh" and SERVES not in block.text]
    lines = [line for text in typed for line in text.splitlines() if not INSTALLS.match(line)]
    script = "\n".join(["set -eu", *lines, "python use.py"])
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SECATEUR_ENDPOINT": service.endpoint,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": HANG_SECONDS}
    done = subprocess.run(["sh", "-c", script], check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_step_of_the_tutorial_works_and_ends_with_a_model_that_writes(walked, folder):
    assert "PASS: perplexity grew at most" in walked
    assert "Київ — це" in walked.splitlines()[-1]
    assert (folder / "report.html").exists()


def test_the_result_of_the_tutorial_is_smaller(folder):
    smaller = (folder / "result" / "plan.json").read_text(encoding="utf-8")
    assert '"vocabulary"' in smaller


def test_the_tutorial_installs_and_serves_as_documented():
    typed = "".join(block.text for block in TUTORIAL if block.language == "sh")
    assert "pip install -c constraints.txt '.[service]'" in typed
    assert f'{SERVES} --file-root "$PWD/text"' in typed
    assert Path(ROOT / "constraints.txt").exists()
