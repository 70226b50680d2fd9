"""Refusals name what was typed."""

import re

import pytest
import typer

import secateur
from secateur import FieldViolation
from secateur._convert import job_from
from secateur._spec import spec_message
from secateur.cli._arguments import (
    changes_of,
    check_folder,
    labels_of,
    numbers_by_language,
    override_of,
    read_content,
)
from secateur.cli._ended import _of_retry
from secateur.cli._exit import ExitCode, exit_code
from secateur.cli._flags import argument_as_typed, option_as_typed
from secateur.cli._session import Messages, Session
from secateur.v1 import prune_job_pb2 as pb

CHANGED = {"limits": {"languages": {"uk": 0.05}}, "calibration": {"samples": 16}}


def test_a_refusal_names_the_flag_that_set_a_field_and_leaves_paths_of_the_file():
    typed = {"languages": ["ge", "uk=0.5"], "limits": ["uk=0.01", "*=2"], "tasks": []}
    named = option_as_typed({"sparsity": 2.0, "samples": None}, typed)
    assert named("calibration.languages[0].language") == "--language ge"
    assert named("calibration.languages[1].weight") == "--language uk=0.5"
    assert named("calibration.languages") == "--language"
    assert named("limits.languages.uk") == "--limit uk=0.01"
    assert named("limits.languages.*") == "--limit *=2"
    assert named("pruning.sparsity") == "--sparsity"
    for field in ("calibration.samples", "evaluation.tasks[0]", "model.uri"):
        assert named(field) == field


def test_a_refusal_names_the_flag_of_an_argument_if_the_command_has_it():
    values = {"language": ["german"], "max_growth": 0.05}
    assert argument_as_typed("languages", values) == "--language"
    assert argument_as_typed("target_languages[0]", values) == "--language german"
    assert argument_as_typed("max_growth", values) == "--max-growth"
    assert argument_as_typed("target_languages[0]", {"language": [""]}) == "--language ''"
    for field in ("tasks", "report", "", "calibration.languages[0].language"):
        assert argument_as_typed(field, values) == field
    assert argument_as_typed("labels[Team]", {"label": ["Team=x"]}) == "--label Team"


def test_labels_in_a_file_are_named_as_that_and_told_where_they_belong():
    assert argument_as_typed("labels", {"label": None}) == "labels"
    with pytest.raises(secateur.InvalidSpecError, match=r"^labels: are no part .* --label KEY=VALUE"):
        spec_message({"labels": {"x": "y"}})


@pytest.mark.parametrize("place", [".", "absent", "file"])
def test_what_the_command_line_names_and_nobody_can_read_is_a_wrong_command_line(tmp_path, place):
    (tmp_path / "file").write_text("[")
    with pytest.raises(secateur.SecateurError) as caught:
        read_content(tmp_path / place)
    readable = place == "file"  # what it holds is at fault
    assert exit_code(caught.value) is (ExitCode.INVALID_SPEC if readable else ExitCode.USAGE)
    if place != ".":
        with pytest.raises(secateur.InvalidRequestError, match="cannot read the folder"):
            check_folder(tmp_path / place)


@pytest.mark.parametrize(
    ("section", "told"), [("limits", "^resumes pruneJobs/a$"), ("calibration", "^a new attempt .* calibration changed")]
)
def test_a_retry_says_whether_finished_blocks_are_kept(section, told):
    old, new = (
        job_from(
            pb.PruneJob(
                name=f"pruneJobs/{name}",
                resolved_spec=spec_message({"model": {"uri": "file:///m"}, section: content}),
            )
        )
        for name, content in (("a", {}), ("b", CHANGED[section]))
    )
    assert re.search(told, _of_retry(old, new))


def test_a_refusal_names_the_argument_that_names_a_job():
    assert argument_as_typed("names[1]", {"jobs": ["1m8", "pruneJobs/1m8"]}) == "JOB pruneJobs/1m8"
    assert argument_as_typed("names", {"jobs": ["1m8"] * 51}) == "JOB"
    assert argument_as_typed("report", {"job": "results/"}) == "JOB results/"


@pytest.mark.parametrize("text", ["", "pruneJobs/", " ", "a/b", "pruneJobs/Ä", "x" * 64, "-a"])
def test_a_text_that_can_name_no_job_is_refused_as_it_was_typed_without_a_request(text):
    with secateur.Client("127.0.0.1:1") as client:
        with pytest.raises(secateur.InvalidRequestError, match="not the name or the ID of a job") as caught:
            Session(client, as_json=False, messages=Messages()).job(text)
        assert caught.value.violations[0].field == f"JOB {text}" if text.strip() else f"JOB '{text}'"
        with pytest.raises(secateur.InvalidRequestError) as caught:
            Session(client, as_json=True, messages=Messages()).job(text)
        assert caught.value.violations[0].field == "name"


@pytest.mark.parametrize(
    ("read", "named"),
    [
        (lambda: labels_of([""]), "--label '':"),
        (lambda: changes_of([" "]), "--set ' ':"),
        (lambda: override_of(""), "--override '':"),
        (lambda: numbers_by_language("--limit", [""], "0.01"), "--limit '':"),
    ],
)
def test_an_argument_that_is_empty_is_shown_in_quotes(read, named):
    with pytest.raises((typer.BadParameter, secateur.InvalidSpecError)) as caught:
        read()
    assert str(caught.value).startswith(named)


def test_what_the_service_cannot_reach_is_named_by_its_flag_as_well():
    error = secateur.UnreachableError([FieldViolation("calibration.corpus", "the service cannot reach it")])
    error.rename(option_as_typed({"corpus": "hf://a/b"}, {}))
    assert (error.violations[0].field, str(error)) == ("--corpus", "--corpus: the service cannot reach it")
