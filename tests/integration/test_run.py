"""`secateur-service run` as a user runs it: results, resumption after kill -9, refusals."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from support.forking import forked_command, run_command
from support.models import save_corpora, save_model, spec_data
from support.pace import Pace
from support.waiting import HANG_SECONDS, until


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    model = save_model(
        folder / "model",
        "llama",
        dtype=torch.bfloat16,
        num_hidden_layers=6,
        hidden_size=256,
        intermediate_size=512,
        head_dim=64,
    )
    return model, *save_corpora(folder)


def command(tmp_path, data, output="out", *extra):
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(data))
    return [
        "run",
        str(path),
        "--output",
        str(tmp_path / output),
        "--device",
        "cpu",
        "--threads",
        "1",
        "--json",
        *extra,
    ]


def run(tmp_path, data, output="out"):
    return run_command(command(tmp_path, data, output), tmp_path)


def paced(arguments, folder, **places):
    """The command as a process that waits behind its blocks, and what lets it go on."""
    pace = Pace(folder)
    pace.hold()
    return forked_command(arguments, environment={**os.environ, "TESTS_PACE": str(folder)}, **places), pace


def digests(folder):
    """Digest of every file of a result that must not differ between two attempts."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("checkpoint", "report")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file() and path.name != "report.html"  # which says when it was made
    }


def test_a_job_leaves_a_verified_checkpoint_that_transformers_loads(inputs, tmp_path):
    arguments = command(tmp_path, spec_data(*inputs, method="sparsegpt", pattern="2:4"))
    whole = [sys.executable, "-m", "secateur_service", *arguments]  # the others are forked, see support/forking.py
    finished = subprocess.run(whole, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    summary = json.loads(finished.stdout.splitlines()[-1])
    out = tmp_path / "out"
    assert summary["manifest"] == str(out / "manifest.json")
    assert summary["sha256"] == hashlib.sha256((out / "manifest.json").read_bytes()).hexdigest()
    assert summary["sparsity"] == 0.5
    assert summary["resumed_blocks"] == 0
    assert summary["warnings"] == []
    assert {"sample", "load", "prune", "evaluate", "write", "package", "publish", "total"} <= summary["seconds"].keys()
    assert summary["peak_rss_bytes"] > 50_000_000
    assert set(summary["perplexity"]) == {"de", "uk", "en"}
    manifest = json.loads((out / "manifest.json").read_text())
    for entry in manifest["files"]:
        content = (out / entry["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["size_bytes"], entry["sha256"])
    assert not (out / ".work").exists()
    dense = AutoModelForCausalLM.from_pretrained(inputs[0]).state_dict()
    pruned = AutoModelForCausalLM.from_pretrained(out / "checkpoint").state_dict()
    assert dense.keys() == pruned.keys()
    for name, weight in pruned.items():
        assert weight.dtype == torch.bfloat16
        if ".layers." in name and weight.dim() == 2:
            assert bool(((weight.reshape(-1, 4) == 0).sum(1) == 2).all())
        else:
            assert torch.equal(weight, dense[name])


def test_a_job_killed_at_any_moment_goes_on_and_ends_with_the_same_bytes(inputs, tmp_path):
    data = spec_data(*inputs, method="sparsegpt", sparsity=0.5)
    data["evaluation"]["language_neurons"] = True
    assert run(tmp_path, data, "undisturbed").returncode == 0
    ledger = tmp_path / "out" / ".work" / "ledger.json"

    def recorded():
        return len(json.loads(ledger.read_text())) if ledger.exists() else 0

    for blocks in (1, 3, 5):
        worker, pace = paced(command(tmp_path, data), tmp_path)
        until(lambda: worker.poll() is not None or recorded() >= blocks or pace.step())  # noqa: B023 - called at once
        pace.step()  # killed in the middle of the block after, most often
        worker.kill()
        assert worker.wait() == -signal.SIGKILL
    finished = run(tmp_path, data | {"execution": {"processes": 2}})
    assert "several processes have run the pass processes=2" in finished.stderr
    assert json.loads(finished.stdout.splitlines()[-1])["resumed_blocks"] >= 5
    assert digests(tmp_path / "out") == digests(tmp_path / "undisturbed")
    again = json.loads(run(tmp_path, data).stdout.splitlines()[-1])
    assert again["resumed_blocks"] == 6
    assert again["sha256"] == hashlib.sha256((tmp_path / "out" / "manifest.json").read_bytes()).hexdigest()
    other = run(tmp_path, spec_data(*inputs, method="wanda", sparsity=0.5))
    assert other.returncode == 2
    assert "belongs to another job; choose another folder" in other.stderr


def test_a_folder_in_which_nothing_was_finished_is_free_for_a_corrected_specification(inputs, tmp_path):
    greedy = spec_data(*inputs)
    greedy["evaluation"]["tokens_per_language"] = 10**6
    assert run(tmp_path, greedy).returncode == 10
    assert run(tmp_path, spec_data(*inputs)).returncode == 0


def test_a_folder_with_finished_blocks_of_another_specification_is_refused_with_what_to_do(inputs, tmp_path):
    worker, pace = paced(command(tmp_path, spec_data(*inputs)), tmp_path)
    until(lambda: worker.poll() is not None or (tmp_path / "out" / ".work" / "ledger.json").exists() or pace.step())
    worker.kill()
    worker.wait()
    other = run(tmp_path, spec_data(*inputs, method="sparsegpt", sparsity=0.5))
    assert other.returncode == 2
    work = tmp_path / "out" / ".work"
    assert f"holds finished blocks of another specification; choose another folder, or remove {work}" in other.stderr


def test_a_termination_signal_keeps_the_finished_blocks(inputs, tmp_path):
    data = spec_data(*inputs)
    ledger = tmp_path / "out" / ".work" / "ledger.json"
    worker, pace = paced(command(tmp_path, data), tmp_path, output=tmp_path / "said")
    until(lambda: worker.poll() is not None or ledger.exists())
    worker.terminate()
    pace.let_go()
    assert worker.wait(HANG_SECONDS) == 13
    assert "PREEMPTED: interrupted; run the same command again" in (tmp_path / "said").read_text()
    assert json.loads(run(tmp_path, data).stdout.splitlines()[-1])["resumed_blocks"] >= 1


def test_blocks_made_under_other_conditions_are_not_mixed_in(inputs, tmp_path):
    data = spec_data(*inputs)
    ledger = tmp_path / "out" / ".work" / "ledger.json"
    worker, _ = paced(command(tmp_path, data, "out", "--threads", "2"), tmp_path)
    until(lambda: worker.poll() is not None or ledger.exists())
    worker.kill()
    worker.wait()
    shards = tmp_path / "out" / "checkpoint"
    shards.mkdir(exist_ok=True)
    (shards / "model-block-00000-0123456789abcdef.safetensors").write_bytes(b"made under other conditions")
    finished = run(tmp_path, data)
    assert json.loads(finished.stdout.splitlines()[-1])["resumed_blocks"] == 0
    named = {file["path"] for file in json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]}
    assert {f"checkpoint/{path.name}" for path in shards.glob("*.safetensors")} <= named
    assert "made under other conditions changed=['threads']" in finished.stderr


def bad_specs(model, calibration, evaluation):
    good = spec_data(model, calibration, evaluation)

    def changed(part, **fields):
        return {**good, part: {**good[part], **fields}}

    mix = [{"language": "de"}, {"language": "uk"}]
    return {
        "unknown language": (
            changed("calibration", languages=[{"language": "xq"}]),
            "calibration.languages[0].language",
        ),
        "language without text": (
            changed("calibration", languages=[{"language": "fr"}]),
            "calibration.languages[0].language",
        ),
        "missing corpus": (changed("evaluation", corpus="file:///absent"), "evaluation.corpus"),
        "sparsity too large": (changed("pruning", sparsity=1.5), "pruning.sparsity"),
        "sparsity not a number": (changed("pruning", sparsity=float("nan")), "pruning.sparsity"),
        "pattern that prunes nothing": (changed("pruning", sparsity=None, pattern="3:2"), "pruning.pattern"),
        "pattern that does not divide": ({**good, "pruning": {"pattern": "3:7"}}, "pruning.pattern"),
        "weights that sum to zero": (
            changed("calibration", languages=[{**entry, "weight": 0} for entry in mix]),
            "calibration.languages",
        ),
        "folder without safetensors": (changed("model", uri=calibration.as_uri()), "model.uri"),
        "unknown field": (changed("pruning", sparsityy=0.5), "pruning.sparsityy"),
    }


def test_a_dry_run_says_what_would_run_and_writes_nothing(inputs, tmp_path):
    arguments = [*command(tmp_path, spec_data(*inputs)), "--dry-run"]
    plan = json.loads(run_command(arguments, tmp_path).stdout)
    assert plan["resolved_spec"]["pruning"]["method"] == "wanda"
    assert plan["estimate"]["checkpoint_bytes"] > 0
    assert not (tmp_path / "out").exists()
    arguments[arguments.index("--output") : arguments.index("--output") + 2] = []
    assert run_command(arguments, tmp_path).returncode == 0
    arguments.remove("--dry-run")
    done = run_command(arguments, tmp_path)
    assert (done.returncode, "--output is missing" in done.stderr) == (2, True)


@pytest.mark.parametrize("case", list(bad_specs(*[__import__("pathlib").Path("/x")] * 3)))
def test_a_refusal_is_one_line_with_field_and_remedy_and_exit_code_10(inputs, tmp_path, case):
    data, field = bad_specs(*inputs)[case]
    data = json.loads(json.dumps(data).replace('"sparsity": null, ', ""))
    finished = run(tmp_path, data)
    assert finished.returncode == 10, finished.stderr
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert field in finished.stderr
    (told,) = finished.stdout.splitlines()
    assert field in json.loads(told)["error"]["message"]
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_what_libraries_say_of_a_model_does_not_steer_the_terminal_and_leaves_the_standard_output_alone(
    inputs, tmp_path
):
    model = shutil.copytree(inputs[0], tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["rope_parameters"]["wiped \x1b[2J"] = 1
    (model / "config.json").write_text(json.dumps(config))
    finished = run(tmp_path, spec_data(model, *inputs[1:]))
    assert finished.returncode == 0, finished.stderr
    assert len(finished.stdout.splitlines()) == 1
    (line,) = {line.partition("Z ")[2] for line in finished.stderr.splitlines() if "wiped" in line}
    assert line.startswith("[warning")
    assert "\x1b" not in finished.stderr


def test_an_unsupported_architecture_is_refused(inputs, tmp_path):
    folder = tmp_path / "mamba"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    finished = run(tmp_path, spec_data(folder, *inputs[1:]))
    assert finished.returncode == 10
    assert "model.uri: architecture 'mamba' is not supported; " in finished.stderr


BROKEN_FILES = {
    "a number of another type": ("config.json", {"max_position_embeddings": 128.0}, "max_position_embeddings is 128.0"),
    "an activation that is none": ("config.json", {"hidden_act": "swiglu"}, "hidden_act is 'swiglu'; expected one of"),
    "half a character": ("config.json", {"hidden_act": "\ud800"}, "half of a surrogate pair"),
    "a core of the future": ("tokenizer.json", {"model": {"type": "FutureModel"}}, "tokenizer.json cannot be used"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_value_that_the_libraries_refuse_is_a_refusal_and_no_defect(inputs, tmp_path, case):
    name, change, complaint = BROKEN_FILES[case]
    folder = save_model(tmp_path / "model", "llama")
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
    finished = run(tmp_path, spec_data(folder, *inputs[1:]))
    assert finished.returncode == 10, finished.stderr
    (line,) = finished.stderr.splitlines()[-1:]
    assert line.startswith("error: model.uri: ")
    assert complaint in line
    assert "Traceback" not in finished.stderr


def test_weights_that_are_not_finite_fail_with_the_layers_name(inputs, tmp_path):
    from safetensors.torch import save_file

    folder = save_model(tmp_path / "broken", "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    finished = run(tmp_path, spec_data(folder, *inputs[1:]))
    assert finished.returncode == 10
    assert "NON_FINITE: model.layers.1.mlp.down_proj.weight" in finished.stderr


def test_too_little_text_fails_with_what_is_needed(inputs, tmp_path):
    data = spec_data(*inputs)
    data["calibration"]["samples"] = 4000
    finished = run(tmp_path, data)
    assert finished.returncode == 10
    assert "calibration.samples: " in finished.stderr
    assert "samples of 64 tokens for each language take " in finished.stderr
    assert "; set calibration.samples to " in finished.stderr


@pytest.mark.parametrize(
    "pruning",
    [
        {"method": "alps", "pattern": "2:4"},
        {"method": "ria", "update": "cg", "sparsity": 0.6},
        {"method": "sparsegpt", "update": "cg", "sparsity": 0.6},
    ],
    ids=lambda pruning: "-".join(str(value) for value in pruning.values()),
)
def test_recipes_beyond_the_plain_methods_run_and_are_named_in_the_report(inputs, tmp_path, pruning):
    finished = run(tmp_path, spec_data(*inputs, **pruning))
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    assert report["spec"]["pruning"]["update"] == pruning.get("update", "admm")
    assert report["sparsity"]["pruned_layers"] == pytest.approx(0.5 if "pattern" in pruning else 0.6, abs=1e-4)
    card = (tmp_path / "out" / "checkpoint" / "README.md").read_text()
    assert ("alps" if pruning["method"] == "alps" else f"{pruning['method']} with cg") in card


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere", "blocked"])
def test_a_folder_that_cannot_be_written_is_refused_and_no_defect(inputs, tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "blocked" / ".work").mkdir(parents=True)
    (tmp_path / "blocked" / ".work" / "checkpoint").touch()  # met in the middle of the work
    ended = run(tmp_path, spec_data(*inputs), place)
    assert ended.returncode == 2
    assert "cannot be written: " in ended.stderr
    assert "choose another folder" in ended.stderr
    assert "Traceback" not in ended.stderr
