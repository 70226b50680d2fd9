"""Jobs with tasks: both models answer as lm-evaluation-harness' own class has them answer."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from secateur_service.admission import AccessPolicy, admit
from secateur_service.errors import CancelledError, InvalidSpecError, PermanentError
from secateur_service.library import run_here
from secateur_service.pipeline.attempt import Machine
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.settings import Settings
from secateur_service.sources import open_sources
from support.hub import hub_server
from support.models import spec_data
from support.shrinking import VOCABULARY, Stops
from support.tasks import TASKS, in_the_harness, needs_harness, rows_of, save_tasks
from support.vocabularies import forget_beginning, save_scene

pytestmark = needs_harness

SOURCES = open_sources(Settings(), everywhere=True)
TEMPLATE = "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}\n{% endfor %}"
LIMIT = 6


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return save_tasks(tmp_path_factory.mktemp("tasks"))


def data_of(model, corpora, folder, **evaluation):
    data = spec_data(model, *corpora)
    data["evaluation"] |= {"tasks": [*TASKS], "task_files": folder.as_uri(), "task_limit": LIMIT, **evaluation}
    return data


def admitted(data):
    return admit(data, AccessPolicy(SOURCES, destinations=None, on_device=False))


def run(data, folder, observer=None):
    machine = Machine(folder / ".work", threads=1)
    return run_here(admitted(data).resolved, SOURCES, folder, machine, observer or RecordingObserver()).report


def assert_as_in_the_harness(report, model, tasks, side, **options):
    """Accuracies of a side of the report are those of a model in the harness; log-likelihoods nearly so."""
    found = in_the_harness(model, tasks, [*TASKS], limit=LIMIT, **options)["results"]
    for part in report.tasks:
        expected, got = found[part.task][f"{part.metric},none"], getattr(part, side)
        if part.metric in ("perplexity", "word_perplexity", "byte_perplexity"):
            assert math.log(got) == pytest.approx(math.log(expected), abs=1e-4), part
        else:
            assert got == pytest.approx(expected, abs=1e-6), part
        assert part.samples == LIMIT
    assert {part.task for part in report.tasks} == set(TASKS)


@pytest.mark.parametrize(
    ("kind", "architecture", "begins"),
    [("byte-level", "llama", True), ("byte-level", "qwen3", False), ("unigram with bytes", "gemma3_text", True)],
)
def test_both_models_answer_as_in_the_harness(kind, architecture, begins, corpora, tasks, tmp_path, monkeypatch):
    monkeypatch.chdir(tasks)
    model = save_scene(tmp_path / "model", kind, architecture)
    if not begins:
        forget_beginning(model)
    report = run(data_of(model, corpora, tasks), tmp_path / "out")
    assert_as_in_the_harness(report, model, tasks, "dense")
    assert_as_in_the_harness(report, tmp_path / "out" / "checkpoint", tasks, "pruned")
    languages = {part.task: part.language for part in report.tasks}
    assert languages["trains_de"] == "de"
    assert languages["ranked_plain"] is None


def test_a_smaller_vocabulary_answers_in_its_own_tokens_and_a_resumed_job_the_same(
    corpora, tasks, tmp_path, monkeypatch
):
    monkeypatch.chdir(tasks)
    data = data_of(save_scene(tmp_path / "model"), corpora, tasks, task_chat_template=True, task_shots=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "model")
    data |= {"shrink": VOCABULARY}
    report = run(data, tmp_path / "out")
    options = {"apply_chat_template": True, "num_fewshot": 1}
    assert_as_in_the_harness(report, tmp_path / "out" / "checkpoint", tasks, "pruned", **options)
    with pytest.raises(CancelledError):
        run(data, tmp_path / "resumed", Stops())
    run(data, tmp_path / "resumed")
    paths = [folder / "report" / "report.json" for folder in (tmp_path / "out", tmp_path / "resumed")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert json.loads(paths[0].read_bytes())["tasks"] == [part.model_dump(mode="json") for part in report.tasks]


def test_what_is_wrong_with_tasks_is_refused_at_submission_where_it_can_be_known(model, corpora, tmp_path):
    folder = save_tasks(tmp_path, ["trains_de"])
    (folder / "written.yaml").write_text("task: written_de\noutput_type: generate_until\n", encoding="utf-8")
    names = ["trains_de", "trains_fr", "written_de"]
    with pytest.raises(InvalidSpecError) as caught:
        admitted(data_of(model, corpora, folder, tasks=names))
    found = {violation.field: violation.description for violation in caught.value.violations}
    assert found.keys() == {"evaluation.tasks[1]", "evaluation.tasks[2]"}
    assert "its answers are generated" in found["evaluation.tasks[2]"]
    (folder / "code.yaml").write_text("task: code\ndoc_to_text: !function utils.x\n", encoding="utf-8")
    with pytest.raises(InvalidSpecError, match=r"evaluation\.task_files: code\.yaml names a Python function"):
        admitted(data_of(model, corpora, folder, tasks=["trains_de"]))


def test_a_task_that_fails_ends_the_job_before_anything_is_computed(model, corpora, tmp_path):
    data = data_of(model, corpora, save_tasks(tmp_path / "tasks", ["trains_de"]), tasks=["trains_de"])
    (tmp_path / "tasks" / "de.jsonl").write_text('{"hours": ["one"], "gold": 0}\n', encoding="utf-8")
    observer = RecordingObserver()
    with pytest.raises(PermanentError, match="task trains_de") as caught:
        run(data, tmp_path / "out", observer)
    assert caught.value.reason == "TASKS_REFUSED"
    data = data_of(model, corpora, save_tasks(tmp_path / "whole", ["whole_uk"]), tasks=["whole_uk"])
    with pytest.raises(PermanentError, match=r"limits\.task_loss: whole_uk has no metric") as caught:
        run({**data, "limits": {"task_loss": 0.02}}, tmp_path / "out", observer)
    assert caught.value.reason == "TASKS_REFUSED"
    assert not observer.blocks


def test_a_service_without_the_harness_refuses_tasks_with_the_remedy(model, corpora, tasks, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InvalidSpecError, match=r"evaluation\.tasks: this service has no lm-evaluation-harness .*leave"):
        admitted(data_of(model, corpora, tasks))


def test_a_replica_that_serves_the_api_only_admits_tasks_and_a_worker_without_the_harness_ends_the_job_at_once(
    model, corpora, tasks, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    api_only = AccessPolicy(SOURCES, destinations=None, on_device=False, runs_jobs=False)
    assert not AccessPolicy.from_settings(Settings(devices=())).runs_jobs
    admitted_there = admit(data_of(model, corpora, tasks), api_only).resolved
    with pytest.raises(InvalidSpecError, match=r"evaluation\.tasks\[0\]"):
        admit(data_of(model, corpora, tasks, tasks=["trains_fr"]), api_only)
    observer = RecordingObserver()
    with pytest.raises(PermanentError, match="this worker has no lm-evaluation-harness; install the extra") as caught:
        run_here(admitted_there, SOURCES, tmp_path / "out", Machine(tmp_path / ".work", threads=1), observer)
    assert caught.value.reason == "TASKS_REFUSED"
    assert not [line for line in observer.lines if "model opened" in line]


def test_a_service_without_a_hub_refuses_the_tasks_of_the_harness(model, corpora):
    data = spec_data(model, *corpora)
    data["evaluation"] |= {"tasks": ["xnli_de"]}
    without = dataclasses.replace(SOURCES, open_hub=None)
    with pytest.raises(InvalidSpecError, match=r"evaluation\.tasks: their items are read from the hub"):
        admit(data, AccessPolicy(without, destinations=None, on_device=False))


def test_tasks_of_the_harness_are_read_from_the_hub(model, corpora, tmp_path):
    data = spec_data(model, *corpora)
    data["evaluation"] |= {"tasks": ["belebele_deu_Latn", "belebele_ukr_Cyrl"], "task_limit": LIMIT}
    (tmp_path / "job.json").write_text(json.dumps(data))
    command = [sys.executable, "-m", "secateur_service", "run", "job.json", "--output", "out"]
    with hub_server() as hub:
        hub.add_belebele({"deu_Latn": belebele("de"), "ukr_Cyrl": belebele("uk")})
        environment = {**os.environ, "SECATEUR_HUB_ENDPOINT": hub.endpoint, "SECATEUR_DATA_DIR": str(tmp_path)}
        shown = subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    assert "belebele_ukr_Cyrl  uk" in shown.stdout
    found = json.loads((tmp_path / "out" / "report" / "report.json").read_bytes())["tasks"]
    asked = [(part["task"], part["language"], part["metric"], part["samples"]) for part in found]
    assert ("belebele_deu_Latn", "de", "acc", LIMIT) in asked
    assert ("belebele_ukr_Cyrl", "uk", "acc", LIMIT) in asked
    assert len({part["items"] for part in found}) == 2


def belebele(language):
    """Questions in the form of Belebele."""
    return [
        {
            "flores_passage": row["question"],
            "question": "?",
            **{f"mc_answer{number}": hour for number, hour in enumerate(row["hours"], 1)},
            "correct_answer_num": str(row["gold"] + 1),
        }
        for row in rows_of(language, 20)
    ]


def test_an_estimate_grows_with_the_items_of_tasks(model, corpora, tasks):
    few, many = (admitted(data_of(model, corpora, tasks, task_limit=limit)).estimate for limit in (10, 1000))
    assert few.flops < many.flops
    assert few.peak_host_bytes < many.peak_host_bytes


def test_a_specification_without_tasks_says_nothing_of_them(model, corpora, tasks):
    data = spec_data(model, *corpora)
    assert not any("task" in field for field in admitted(data).resolved.model_dump(mode="json")["evaluation"])
    resolved = admitted(data_of(model, corpora, tasks, task_limit=None)).resolved
    assert resolved.evaluation.task_limit == 100
    assert admitted(resolved.model_dump(mode="json")).resolved == resolved
    with pytest.raises(InvalidSpecError, match=r"evaluation\.task_limit: no task is named"):
        admitted({**data, "evaluation": {**data["evaluation"], "task_limit": 5}})
    with pytest.raises(InvalidSpecError, match=r"limits\.task_loss: no task is evaluated"):
        admitted({**data, "limits": {"task_loss": 0.02}})
    with pytest.raises(InvalidSpecError, match=r"evaluation\.tasks\[0\]"):
        admitted(data_of(model, corpora, tasks, tasks=["/etc/own.yaml"]))
