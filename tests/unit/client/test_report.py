"""A report as the SDK gives it: the plain data, and its figures as objects."""

import json
from dataclasses import fields
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur import Continuation, Job, JobState, LanguageReport, Report
from secateur._convert import plain_struct
from secateur.cli._render import continuation_lines
from secateur.cli._reporting import report_text
from secateur_service.api.conversion import to_struct
from secateur_service.calibration.identification import Identified
from secateur_service.evaluation.parts import IntervalsPart, JobPart
from support.reports import answered, continued, evaluation, make_report


def report_of(**changes):
    return Report(json.loads(make_report(**changes).to_bytes()))


def test_it_is_the_plain_data():
    report = report_of()
    assert report == json.loads(make_report().to_bytes())
    assert json.loads(json.dumps(report)) == report


def test_what_comes_over_the_wire_has_the_order_of_the_published_file():
    published = json.loads(make_report(evaluation=[evaluation(name, 1.1, error=0.01) for name in "ab"]).to_bytes())
    received = plain_struct(to_struct(published))
    assert received == published
    assert json.dumps(received) == json.dumps(received, sort_keys=True)


FLAT = st.dictionaries(st.text(max_size=3), st.booleans(), max_size=6)
NESTED = st.dictionaries(st.text(max_size=3), FLAT | st.lists(FLAT, max_size=2), max_size=4)


@settings(max_examples=30)
@given(NESTED)
def test_the_same_data_have_the_same_order_however_they_were_put_together(data):
    assert json.dumps(plain_struct(to_struct(data))) == json.dumps(data, sort_keys=True)


def test_intervals_have_the_order_of_the_figures_also_as_columns():
    report = report_of(evaluation=[evaluation("de", 1.1), evaluation("uk", 1.2, error=0.01)])
    part = report["evaluation"][1]
    part["intervals"] = dict(sorted(part["intervals"].items(), reverse=True))
    order = [name for name in IntervalsPart.model_fields if part["intervals"].get(name) and name != "documents"]
    assert len(order) >= 6
    assert list(report.languages["uk"].intervals) == order
    pytest.importorskip("pandas")
    figures = [field.name for field in fields(LanguageReport) if field.name not in ("language", "intervals")]
    assert list(report.frame()) == figures + [f"{name}_{end}" for name in order for end in ("low", "high")]


def test_languages_have_their_figures_and_intervals():
    figures = {"de": 1.1, "uk": 1.2}
    report = report_of(evaluation=[evaluation(name, ratio, error=0.01) for name, ratio in figures.items()])
    assert list(report.languages) == ["de", "uk"]
    found, plain = report.languages["uk"], report["evaluation"][1]
    assert found.perplexity_ratio == plain["perplexity_ratio"] == pytest.approx(1.2)
    assert found.intervals["perplexity_ratio"] == tuple(plain["intervals"]["perplexity_ratio"])
    assert "documents" not in found.intervals
    assert found.kl_divergence is None
    assert report.tasks == []


def test_texts_that_both_models_continued_stand_by_language_and_in_one_line():
    report = report_of(continuations=[continued("de"), continued("uk", ("a", "b", "c"), ("d", "e", "f"))])
    assert list(report.continuations) == ["de", "uk"]
    found = report.continuations["uk"]
    assert (found.dense_repetition, found.pruned_repetition) == (0.25, 0.5)
    assert (found.dense_off_language, found.pruned_off_language) == (0, None)
    assert (found.dense_judged, found.pruned_judged) == (2, 0)
    assert found.texts == (Continuation("a", "b", "c"), Continuation("d", "e", "f"))
    (line,) = continuation_lines(report)
    assert line.startswith("3 texts continued, dense -> pruned: repetition 25% -> 50%; report.html")  # none was judged
    judged = {"dense_judged": 1, "pruned_judged": 2, "pruned_off_language": 0.5}
    (line,) = continuation_lines(report_of(continuations=[continued("de", **judged), continued("uk", **judged)]))
    assert "50%, off-language 0 of 2 -> 2 of 4 judged; report.html" in line
    assert report_of().continuations == {}
    assert continuation_lines(report_of()) == []


def test_verdicts_have_their_evidence_and_limits_an_answer():
    spec = make_report().spec | {"limits": {"languages": [{"language": "de", "growth": 0.02}]}}
    report = report_of(spec=spec, evaluation=[evaluation("de", 1.2, error=0.01), evaluation("en", 1.0, error=0.01)])
    verdict = next(verdict for verdict in report.verdicts if verdict.kind == "LIMIT_EXCEEDED")
    assert (verdict.language, verdict.evidence["threshold"]) == ("de", 0.02)
    assert report.decision.answer == "FAIL"
    assert report.decision.languages == {"de": "FAIL"}
    assert report_of().decision.answer is None
    assert report.decision.tasks == {}
    limited = make_report().spec | {"limits": {"languages": [], "task_loss": 0.02}}
    both = [answered("xnli_de", lost=5), answered("xnli_de", metric="acc_norm"), answered("many_de", items=2000)]
    assert report_of(spec=limited, tasks=both).decision.tasks == {"xnli_de": "FAIL", "many_de": "PASS"}


def test_a_report_of_an_older_release_lacks_what_that_did_not_know():
    content = report_of()
    del content["decision"]
    for entry in content["evaluation"]:
        del entry["intervals"], entry["kl_divergence"], entry["agreement"]
    report = Report(content)
    assert report.decision is None
    assert report.languages["de"].intervals == {}
    assert report.languages["de"].agreement is None


def test_languages_are_a_table_of_pandas():
    pytest.importorskip("pandas")
    report = report_of(evaluation=[evaluation("de", 1.1, error=0.01), evaluation("uk", 1.2)])
    frame = report.frame()
    assert list(frame.index) == ["de", "uk"]
    assert frame.loc["de", "perplexity_ratio"] == pytest.approx(1.1)
    assert frame.loc["de", "perplexity_ratio_low"] < 1.1 < frame.loc["de", "perplexity_ratio_high"]
    assert frame["perplexity_ratio_low"].isna().tolist() == [False, True]


def job(**changes):
    plain = {field.name: None for field in fields(Job)} | {"name": "pruneJobs/1", "state": JobState.SUCCEEDED}
    times = {
        "start_time": datetime(2026, 11, 28, 1, 12, tzinfo=UTC),
        "end_time": datetime(2026, 11, 28, 1, 16, tzinfo=UTC),
    }
    return Job(**plain | times | {"attempt": 2} | changes)


def test_the_command_line_tells_what_the_page_tells(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    figures = {"in_mix": True, "documents": 30, "digest": "12ef" * 16, "identified": Identified(20, 0.9, "en", 0.1)}
    whole = make_report(
        evaluation=[evaluation("de", 2.1, **figures), evaluation("es", 1.4, in_mix=False)],
        job=JobPart(id="1", secateur_version="1", device="a GPU"),
    )
    told = report_text(Report(json.loads(whole.to_bytes())), job())
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert lines[0] == "The perplexity of de (German) grew ×2.10: a heavy loss."
    assert lines[1] == "Also measured, and not in the mix: es (Spanish) ×1.40 (a noticeable loss)."
    assert lines[2].startswith("No tasks were measured.")
    assert "de (German) 8.000 16.800 2.100 heavy 1.5000 2.0352" in lines
    assert "windows 128 tokens, which do not overlap" in lines
    assert "update none: the weights that are kept stay as they were" in lines
    assert "computed on a GPU" in lines
    assert "run 2026-11-28 01:12 UTC, in 4 min 0 s, at attempt 2" in lines
    assert "de yes 30 40 5000 90% of 20 12ef12ef12ef" in lines
    assert "es no - 40 5000 - -" in lines
    assert "run" not in {line.split()[0] for line in report_text(report_of(), job(end_time=None)).splitlines() if line}


def test_the_headline_and_how_much_was_lost_are_typed():
    report = report_of(ratios={"de": 2.0, "es": 1.2})
    assert (report.headline.languages, report.headline.band) == (("de",), "heavy")
    assert report.headline.perplexity_ratio == pytest.approx(2.0)
    assert {name: entry.band for name, entry in report.languages.items()} == {"de": "heavy", "es": "noticeable"}
    older = Report({name: value for name, value in report.items() if name != "headline"})
    assert older.headline is None
