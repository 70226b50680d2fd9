"""A job keeps what the plan of another job kept."""

import hashlib
import json
import shutil

import pytest

from secateur_service.errors import CancelledError, PermanentError
from secateur_service.library import run_here
from secateur_service.pipeline import shrinking
from secateur_service.pipeline.attempt import Machine
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.settings import Settings
from secateur_service.sources import open_sources
from support.shrinking import (
    DEPTH,
    HEADS,
    VOCABULARY,
    WIDTH,
    Stops,
    admitted,
    data_of,
    refusals,
    run,
)

EVERYTHING = {**VOCABULARY, **WIDTH, **HEADS, **DEPTH}


@pytest.fixture(scope="module")
def planned(model, corpora, tmp_path_factory):
    folder = tmp_path_factory.mktemp("planned")
    return folder, run(data_of(model, corpora, **EVERYTHING), folder).report


def test_the_plan_of_another_job_keeps_the_same_parts(model, corpora, tmp_path, planned, monkeypatch):
    folder, before = planned
    monkeypatch.setattr(shrinking, "calibration_corpus", None)  # no token is counted
    report = run(data_of(model, corpora, plan=folder.as_uri()), tmp_path).report
    one, other = (json.loads((each / "plan.json").read_bytes()) for each in (folder, tmp_path))
    assert one == other
    tensors = [
        {path.name: path.read_bytes() for path in (each / "checkpoint").glob("*.safetensors")}
        for each in (folder, tmp_path)
    ]
    assert tensors[0] == tensors[1]  # with the same calibration text, the same values too
    assert report.evaluation == before.evaluation


def test_a_plan_survives_the_end_of_the_result_that_it_is_from(model, corpora, tmp_path, planned):
    folder = tmp_path / "plan"
    folder.mkdir()
    shutil.copy(planned[0] / "plan.json", folder)
    data = data_of(model, corpora, plan=folder.as_uri())
    spec = admitted(data).resolved
    sources = open_sources(Settings(), everywhere=True)
    with pytest.raises(CancelledError):
        run_here(spec, sources, tmp_path / "out", Machine(tmp_path / "out" / ".work", threads=1), Stops())
    shutil.rmtree(folder)
    run_here(spec, sources, tmp_path / "out", Machine(tmp_path / "out" / ".work", threads=1), RecordingObserver())
    assert (tmp_path / "out" / "plan.json").read_bytes() == (planned[0] / "plan.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda plan: plan.update(format=2), "format"),
        (lambda plan: plan.update(more=1), "no such field"),
        (lambda plan: plan["model"].update(parameters=1), "for another model, with parameters 1"),
        (lambda plan: plan["model"].update(tokenizer="0" * 64), "for another model, with tokenizer"),
        (lambda plan: plan["vocabulary"].update(kept=[[0, 2**31 - 1]]), "keeps row 2147483647"),
        (lambda plan: plan["vocabulary"].update(kept=[[0, 2**40]]), "less than 2147483648"),
        (lambda plan: plan["vocabulary"].update(kept=[[5, 3]]), "ascend"),
        (lambda plan: plan["vocabulary"].update(kept=[[0, 9], [4, 12]]), "ascend"),
        (lambda plan: plan["feed_forward"][0].update(kept=[[0, 95], [96, 96]]), "has to be as wide in every block"),
        (
            lambda plan: [entry.update(kept=[[60, 107]]) for entry in plan["feed_forward"]],
            "107 is kept, and there are 96",
        ),
        (lambda plan: plan["feed_forward"].pop(), "feed_forward is not given once for each block"),
        (lambda plan: plan["feed_forward"].append(plan["feed_forward"][0]), "feed_forward is not given once for each"),
        (lambda plan: plan["attention"][0].update(before=1), "another number of units before"),
        (lambda plan: plan["attention"][0].update(block="0"), "whole number"),
        (lambda plan: plan["attention"][0].update(kept=[[True, 1]]), "whole number"),
        (lambda plan: plan.pop("format"), "format"),
        (lambda plan: plan["attention"][0].update(kept=[]), "at least 1"),
        (lambda plan: plan.update(removed_blocks=[{"block": 9}]), "removes block 9"),
        (lambda plan: plan.update(removed_blocks=[{"block": 1}] * 2), "removes 2 blocks, 1 different ones"),
        (
            lambda plan: plan.update(vocabulary=None, removed_blocks=[], attention=[], feed_forward=[]),
            "removes nothing",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_at_submission(model, corpora, tmp_path, planned, change, told):
    plan = json.loads((planned[0] / "plan.json").read_bytes())
    change(plan)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert told in refusals(data_of(model, corpora, plan=tmp_path.as_uri()))["shrink.plan"]


def test_a_plan_that_changes_after_the_submission_is_refused(model, corpora, tmp_path, planned):
    (tmp_path / "plan").mkdir()
    path = tmp_path / "plan" / "plan.json"
    shutil.copy(planned[0] / "plan.json", path)
    admission = admitted(data_of(model, corpora, plan=path.as_uri()))  # the file may be named as well as the folder
    assert admission.resolved.shrink.plan_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert admission.estimate.output_parameters == planned[1].output.parameters
    path.write_bytes(path.read_bytes() + b" ")
    sources = open_sources(Settings(), everywhere=True)
    machine = Machine(tmp_path / "out" / ".work", threads=1)
    with pytest.raises(PermanentError, match=r"shrink\.plan: .* has changed since") as caught:
        run_here(admission.resolved, sources, tmp_path / "out", machine, RecordingObserver())
    assert caught.value.reason == "PLAN_REFUSED"


def test_a_plan_whose_rows_make_up_no_vocabulary_is_refused(model, corpora, tmp_path, planned):
    plan = json.loads((planned[0] / "plan.json").read_bytes())
    (tmp_path / "plan").mkdir()
    plan["vocabulary"]["kept"] = [[300, 400]]
    (tmp_path / "plan" / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(PermanentError, match=r"shrink\.plan: its rows lack"):
        run(data_of(model, corpora, plan=(tmp_path / "plan").as_uri()), tmp_path / "out")


def test_a_file_that_is_no_plan_is_refused(model, corpora, tmp_path):
    assert "there is no plan.json" in refusals(data_of(model, corpora, plan=tmp_path.as_uri()))["shrink.plan"]
    (tmp_path / "plan.json").write_text("[" * 100_000)
    assert "not a file that can be read" in refusals(data_of(model, corpora, plan=tmp_path.as_uri()))["shrink.plan"]


def test_a_pattern_has_to_divide_what_a_plan_keeps(model, corpora, tmp_path, planned):
    plan = json.loads((planned[0] / "plan.json").read_bytes())
    for entry in plan["feed_forward"]:
        entry["kept"] = [[0, 49]]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    data = data_of(model, corpora, pruning={"method": "wanda", "pattern": "2:4"}, plan=tmp_path.as_uri())
    assert any("groups of 4 do not divide the 50 inputs" in told for told in refusals(data).values())
