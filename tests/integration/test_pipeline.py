"""The documented pipeline against a real service with real jobs, and what comes after it: compare and gate."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import secateur
from secateur_service.pruning.mask_sample import sample_mask
from support.models import save_corpora, save_model, spec_data
from support.service import WITH_WORKERS, Service
from support.waiting import HANG_SECONDS

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "comparing.md"
SCRIPT = DOCUMENTATION.read_text(encoding="utf-8").split("```sh\n")[1].split("```")[0]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    save_model(folder / "files" / "model", "llama", dtype=torch.bfloat16, num_hidden_layers=2)
    save_corpora(folder / "files")
    service = Service(folder, **WITH_WORKERS)
    yield service
    service.close()


@pytest.fixture(scope="module")
def shell(service, tmp_path_factory):
    """Runs a program with `secateur` on its path."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "secateur"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m secateur "$@"\n')
    command.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SECATEUR_ENDPOINT": service.endpoint, "HOME": str(folder)}

    def run(*arguments, **variables):
        return subprocess.run(
            arguments,
            env={**environment, **variables},
            check=False,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )

    return run


@pytest.fixture(scope="module")
def spec(service, tmp_path_factory):
    files = service.file_root
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(json.dumps(spec_data(files / "model", files / "calibration", files / "evaluation")))
    return path


@pytest.fixture(scope="module")
def pipeline(shell, tmp_path_factory):
    script = tmp_path_factory.mktemp("pipeline") / "pipeline.sh"
    script.write_text(SCRIPT)

    def run(spec, directory, **variables):
        return shell("sh", str(script), str(spec), str(directory), **variables)

    return run


@pytest.fixture(scope="module")
def passed(pipeline, spec, tmp_path_factory):
    """A job that went all the way, and the folder that it ended in."""
    directory = tmp_path_factory.mktemp("passed") / "model"
    done = pipeline(spec, directory, MAX_GROWTH="1000")
    assert done.returncode == 0, done.stderr
    assert "PASS: perplexity grew at most" in done.stdout
    return done.stdout.splitlines()[-1].split()[0], directory


def test_the_documented_pipeline_is_short(passed):
    assert len(SCRIPT.splitlines()) < 30
    job, directory = passed
    assert job.startswith("pruneJobs/")
    assert (directory / "checkpoint" / "config.json").exists()
    assert (directory / "manifest.json").exists()


def test_a_result_that_lost_too_much_is_not_downloaded(pipeline, spec, tmp_path):
    done = pipeline(spec, tmp_path / "model", MAX_GROWTH="0.5")
    assert done.returncode == 10, done.stderr
    assert "FAIL: perplexity grew more than ×0.5" in done.stdout
    assert not (tmp_path / "model").exists()


def test_the_pipeline_ends_where_the_submission_is_refused(pipeline, tmp_path):
    (tmp_path / "spec.yaml").write_text("model: {uri: file:///elsewhere}\n")
    assert pipeline(tmp_path / "spec.yaml", tmp_path / "model").returncode == 3


def test_the_gate_says_the_same_of_a_job_and_of_its_folder(shell, passed):
    job, directory = passed
    arguments = ["--max-growth", "1000", "--language", "uk", "--language", "DE", "--bits-per-byte", "-o", "json"]
    of_job = shell("secateur", "gate", job, *arguments)
    of_folder = shell("secateur", "gate", str(directory), *arguments, SECATEUR_ENDPOINT="127.0.0.1:1")
    assert of_job.returncode == of_folder.returncode == 0, of_job.stderr + of_folder.stderr
    assert json.loads(of_job.stdout) == json.loads(of_folder.stdout)
    assert [entry["language"] for entry in json.loads(of_job.stdout)["languages"]] == ["uk", "de"]


def test_the_sampled_masks_are_those_of_the_published_weights(passed):
    _, directory = passed
    report = json.loads((directory / "report" / "report.json").read_text(encoding="utf-8"))
    sampled = {layer["name"]: layer["mask_sample"] for block in report["blocks"] for layer in block["layers"]}
    seen = {}
    for shard in (directory / "checkpoint").glob("*.safetensors"):
        weights = load_file(shard)
        seen |= {name: sample_mask(name, weights[name]) for name in sampled.keys() & weights.keys()}
    assert seen == sampled
    assert sampled


def test_jobs_are_compared_on_the_command_line_and_in_python(shell, service, spec, passed, tmp_path):
    job, directory = passed
    with secateur.Client(service.endpoint) as client:
        other = client.submit({**json.loads(spec.read_text()), "pruning": {"method": "magnitude", "sparsity": 0.9}})
        assert shell("secateur", "gate", other.name, "--max-growth", "1000", "--wait").returncode == 0
        page = tmp_path / "page.html"
        done = shell("secateur", "compare", job, other.name, "-l", "de", "--html", str(page))
        assert done.returncode == 0, done.stderr
        assert "recommended for de (German): " in done.stdout
        assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
        found = client.compare([job, other.name], target_languages=["de"])
        assert found.measure == "perplexity"
        assert found.html is None
        assert all(compared.seconds > 0 and not compared.differences for compared in found.jobs.values())
        assert [pair.jobs for pair in found.overlaps] == [("A", "B")]
        assert found.recommended.label in found.best["de"]
        printed = shell("secateur", "compare", job, other.name, "-l", "de", "-o", "json").stdout
        assert json.loads(printed) == found.content
        related = client.compare([job], related=True)
        assert other.name in [compared.name for compared in related.jobs.values()]
        assert related.related.unreadable == {}
        published = (directory / "report" / "report.html").read_text(encoding="utf-8")
        assert other.name in client.job(job).report_page()
        assert other.name not in published
