"""How the command line lists jobs and shows one: in any width, with what each lost."""

import io
import json
from datetime import UTC, datetime, timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from secateur._filter import JobFilter, job_filter
from secateur._job import Failure, Job, JobStage, JobState, LanguageResult, Progress, PublishedResult
from secateur.cli._jobs import job_text, jobs_text, method_of, model_of
from secateur.cli._listing import ListedState, SortKey, _confirmed, _deleted, _moment, _nothing
from secateur.cli._render import to_json
from secateur.cli._table import Column, fitted
from secateur.cli._watching import _without_result

CREATED = datetime(2020, 11, 1, 8, 30, tzinfo=UTC)


def made(number=1, state="SUCCEEDED", **changes):
    growths = {"de": 1.25, "uk": 1.5, "fr": 9.0}
    result = "file:///r/manifest.json"
    languages = {name: LanguageResult(name, 10.0, 10.0 * growth, 1, 1) for name, growth in growths.items()}
    values = {
        "name": f"pruneJobs/{number:022}",
        "uid": "u",
        "state": JobState(state),
        "stage": JobStage.UNSPECIFIED,
        "progress": None,
        "attempt": 1,
        "max_attempts": 3,
        "failure": None,
        "result": PublishedResult(result, "a" * 64, 0.5, languages, 1, 1) if state == "SUCCEEDED" else None,
        "estimate": None,
        "labels": {},
        "spec": {},
        "resolved_spec": {
            "model": {"uri": "hf://google/gemma-3-270m"},
            "calibration": {"languages": {"de": 0.7, "uk": 0.3}},
            "pruning": {"method": "sparsegpt", "sparsity": 0.5},
        },
        "last_sequence": 1,
        "create_time": CREATED,
        "start_time": CREATED,
        "end_time": CREATED + timedelta(minutes=2) if JobState(state).is_terminal else None,
    }
    return Job(**values | changes)


def test_a_list_has_all_that_tells_jobs_apart():
    running = made(2, "RUNNING", progress=Progress(1, 2, 0.5), labels={"run": "a", "team": "b"})
    titles, first, second = jobs_text([made(), running], None).splitlines()
    assert titles.split("  ")[0] == "ID"
    assert first.split() == [
        *("0000000000000000000001", "SUCCEEDED", "2020-11-01", "2:00", "gemma-3-270m", "sparsegpt", "0.5"),
        *("uk", "×1.500", "de=0.7,uk=0.3"),
    ]
    assert "RUNNING 50%" in second
    assert second.endswith("run=a, team=b")


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (80, ["ID", "STATE", "MODEL", "GROWTH"]),
        (100, ["ID", "STATE", "MODEL", "METHOD", "GROWTH"]),
        (160, ["ID", "STATE", "CREATED (UTC)", "TIME", "MODEL", "METHOD", "GROWTH", "MIX", "LABELS"]),
    ],
)
def test_columns_that_matter_less_are_left_out_where_the_terminal_is_narrow(width, shown):
    uri = {"uri": "hf://org/a-model-with-a-name-that-takes-more-than-its-share"}
    jobs = [made(1, labels={"team": "search", "run": "second"}), made(2, "CANCELLED")]
    jobs.append(made(3, resolved_spec={**made().resolved_spec, "model": uri}))
    text = jobs_text(jobs, width)
    titles = {title.strip() for title in text.splitlines()[0].split("  ")}
    assert set(shown) <= titles
    assert ("LABELS" in titles) == (width == 160)
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert all(job.id in text for job in jobs)


def test_a_job_that_fits_nobody_says_why_it_waits_in_a_list_alone_and_as_an_event():
    reason = "needs at least 80.0 GB of device memory; the largest agent seen in ten minutes has 24.0 GB"
    waiting = made(2, "QUEUED", waiting=reason, start_time=None)
    titles, first, second = jobs_text([made(), waiting], None).splitlines()
    assert titles.endswith("WAITS")
    assert second.endswith(reason)
    assert "waits" not in first
    assert "WAITS" not in jobs_text([made()], None)
    assert "needs at least 80.0 GB" in jobs_text([made(), waiting], 100)
    assert f"\nstate    QUEUED\nwaits    {reason}\n" in job_text(waiting)
    assert str(waiting) == f"{waiting.name} is QUEUED, waits: {reason}"


def test_a_job_that_waits_to_go_on_has_no_time_left():
    progress = Progress(2, 6, 0.27, eta_seconds=9.0)
    assert "left" in job_text(made(state="RUNNING", progress=progress))
    waiting = job_text(made(state="QUEUED", progress=progress))
    assert "2 of 6 blocks" in waiting
    assert "left" not in waiting


@given(
    st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(1, 100),
)
def test_a_table_is_never_wider_than_the_terminal_unless_its_first_column_is(rows, width):
    first, second, third = zip(*rows, strict=True)
    table = [Column("A", first, rank=0), Column("B", second, 1, least=5, right=True), Column("C", third, 2, least=3)]
    lines = fitted(table, width).split("\n")
    assert len(lines) == len(rows) + 1
    assert max(map(cell_len, lines)) <= max(width, table[0].width)


def test_a_job_is_told_with_its_mix_its_loss_and_what_it_means():
    report = {"decision": {"sentence": "It may ship."}, "verdicts": [{"message": "uk loses most"}]}
    text = job_text(made(labels={"team": "a"}), report)
    for told in (
        "pruneJobs/0000000000000000000001\n",
        "state         SUCCEEDED",
        "time          2:00",
        "mix           de 70%, uk 30%",
        "method        sparsegpt 0.5",
        "worst growth  ×1.500 in uk",
        "label         team=a",
        "It may ship.\n- uk loses most",
    ):
        assert told in text
    failed = job_text(made(state="FAILED", failure=Failure("OUT_OF_DISK", "4 GB are missing", retryable=True)))
    assert "failure  OUT_OF_DISK: 4 GB are missing" in failed
    assert "growth" not in failed


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"pruning": {"method": "wanda", "pattern": "2:4"}}, "wanda 2:4"),
        ({"shrink": {"budget": {"parameters": 0.7}}}, "to 0.7 of the parameters"),
        ({"shrink": {"vocabulary": {"rows": 64000}, "blocks": {"remove": 2}}}, "vocabulary of 64000 + -2 blocks"),
        (
            {"shrink": {"plan": "file:///r"}, "pruning": {"method": "ria", "sparsity": 0.6}},
            "ria 0.6 + another job's plan",
        ),
        ({}, "-"),
    ],
)
def test_what_a_job_does_is_told_in_few_words(parts, told):
    assert method_of(made(resolved_spec=parts)) == told
    assert model_of(made(resolved_spec=parts)) == "-"


def test_json_has_the_growth_of_every_language():
    assert json.loads(to_json(made()))["result"]["growth"] == {"de": 1.25, "uk": 1.5, "fr": 9.0}
    assert json.loads(to_json(made(state="QUEUED")))["result"] is None


def test_times_are_points_in_time_or_so_long_ago():
    assert _moment("90m") == timedelta(minutes=90)
    assert _moment("4w") == timedelta(weeks=4)
    assert _moment("2026-11-01") == datetime(2026, 11, 1, tzinfo=UTC)
    assert _moment("2026-11-01T08:30+02:00").utcoffset() == timedelta(hours=2)
    for text in ("yesterday", "3", "-2h", "2026-13-01", "1y"):
        with pytest.raises(typer.BadParameter, match="neither a time nor how long ago"):
            _moment(text)


def test_an_empty_list_says_what_there_is_not():
    assert _nothing(["RUNNING"], {"team": "a"}, "3d", SortKey.CREATED) == "no jobs: RUNNING, team=a, since 3d"
    assert "secateur submit" in _nothing([], {}, None, SortKey.CREATED)
    assert _nothing([], {}, None, SortKey.GROWTH) == "no job has figures yet"


def test_a_job_that_exceeded_a_limit_is_told_with_what_it_lost():
    details = {"growth_uk": "0.100000", "perplexity_growth_de": "1.100000", "perplexity_growth_uk": "1.300000"}
    dear = made(state="FAILED", failure=Failure("LIMIT_EXCEEDED", "uk: too much", retryable=False, details=details))
    assert dear.growth == {"de": 1.1, "uk": 1.3}
    assert "uk ×1.300" in jobs_text([dear], None)
    assert "worst growth  ×1.300 in uk" in job_text(dear)


@pytest.mark.parametrize(
    ("state", "reason", "retryable", "told"),
    [
        ("CANCELLED", None, False, "was cancelled; to go on with it: secateur retry"),
        ("FAILED", "LIMIT_EXCEEDED", False, "failed with LIMIT_EXCEEDED; what it lost: secateur report"),
        ("FAILED", "DISK_FULL", True, "failed with DISK_FULL; to go on with it: secateur retry"),
        ("FAILED", "NON_FINITE", False, "failed with NON_FINITE; its log: secateur logs"),
    ],
)
def test_after_a_watch_that_told_why_a_job_failed_only_what_to_do_is_told(state, reason, retryable, told):
    job = made(state=state, failure=reason and Failure(reason, "the sentence", retryable=retryable))
    assert _without_result(job) == f"{job.name} {told} {job.name}"


def test_what_an_older_service_does_not_look_at_is_looked_at_here():
    wanted = job_filter(["QUEUED"], {"team": "a"}, timedelta(days=1), None)
    assert (wanted.states, wanted.labels) == ((JobState.QUEUED,), {"team": "a"})
    assert abs(datetime.now(UTC) - timedelta(days=1) - wanted.since) < timedelta(hours=1)
    assert not wanted.has(made(labels={"team": "a"}))
    for passes in (JobFilter(), JobFilter(since=CREATED), JobFilter(id_prefix="0000"), JobFilter(labels={})):
        assert passes.has(made())
    for fails in (JobFilter(before=CREATED), JobFilter(id_prefix="1"), JobFilter(labels={"a": "b"})):
        assert not fails.has(made())


def test_every_state_but_the_unknown_one_can_be_listed():
    assert {each.value for each in ListedState} == {each.value for each in JobState} - {"UNSPECIFIED"}


def test_ctrl_c_or_the_end_of_the_input_at_the_question_keeps_the_job(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(KeyboardInterrupt):
        _confirmed(made(), artifacts=True)
    assert capsys.readouterr().err.endswith(f"and its files in file:///r? [y/N]:\n{made().name} stays\n")


def test_a_deletion_says_where_files_stay_and_what_those_were_that_went(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert _confirmed(made(), artifacts=False)
    assert capsys.readouterr().err.startswith("its files stay in file:///r; --artifacts deletes them too\ndelete prune")
    name, none = made().name, made(state="CANCELLED")
    assert _deleted(made(), 0, artifacts=False) == f"deleted {name}; its files stay in file:///r"
    assert _deleted(made(), 1, artifacts=False) == (
        f"deleted {name} and 1 file that its attempts left; its files stay in file:///r"
    )
    assert _deleted(made(), 4, artifacts=True) == f"deleted {name} and 4 files of its result and its attempts"
    assert _deleted(none, 6, artifacts=True) == f"deleted {name} and 6 files that its attempts left"
    assert _deleted(none, 0, artifacts=False) == f"deleted {name}"
    exceeded = made(state="FAILED", failure=Failure("LIMIT_EXCEEDED", "uk: too much", retryable=False))
    exceeded.resolved_spec["output"] = {"destination": "s3://results/"}
    assert _deleted(exceeded, 0, artifacts=False) == f"deleted {name}; its files stay in s3://results/{exceeded.id}"
