"""What a smaller model may cost."""

import json

import pytest

from secateur_service.errors import PermanentError
from secateur_service.pipeline.observer import RecordingObserver
from support.shrinking import (
    VOCABULARY,
    WIDTH,
    data_of,
    refusals,
    run,
)


def limited(model, corpora, growth, **shrink):
    return {**data_of(model, corpora, **shrink), "limits": {"languages": [{"language": "en", "growth": growth}]}}


def test_a_job_that_costs_more_than_it_may_publishes_its_report_and_its_plan_alone(model, corpora, tmp_path):
    with pytest.raises(
        PermanentError, match=r"limits\.languages: en \(English\): bits per byte grew by .*%, more than"
    ) as caught:
        run(limited(model, corpora, 0.0, **VOCABULARY), tmp_path / "out")
    assert caught.value.reason == "LIMIT_EXCEEDED"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    names = {file["path"] for file in manifest["files"]}
    assert names == {"plan.json", "provenance.json", "report/report.html", "report/report.json"}
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_bytes())
    (verdict,) = [entry for entry in report["verdicts"] if entry["kind"] == "LIMIT_EXCEEDED"]
    (en,) = [entry for entry in report["evaluation"] if entry["language"] == "en"]
    growth = en["pruned_bits_per_byte"] / en["dense_bits_per_byte"] - 1
    assert verdict["language"] == "en"
    assert float(caught.value.metadata["growth_en"]) == pytest.approx(growth, abs=1e-6)
    page = (tmp_path / "out" / "report" / "report.html").read_text(encoding="utf-8")
    assert "There is no checkpoint" in page
    assert "from_pretrained" not in page


def test_a_job_within_its_limits_is_published(model, corpora, tmp_path):
    observer = RecordingObserver()
    report = run(limited(model, corpora, 5.0, **WIDTH), tmp_path, observer=observer).report
    assert not report.exceeded
    decision = report.decision
    assert [entry.language for entry in decision.languages] == ["en"]
    assert ("info", decision.sentence, {"decision": decision.answer}) in observer.lines
    assert (tmp_path / "checkpoint" / "config.json").exists()


@pytest.mark.parametrize(
    ("limits", "field", "told"),
    [
        ([{"language": "ar", "growth": 0.1}], "limits.languages[0]", "ar is not evaluated"),
        ([{"language": "uk", "growth": -0.1}], "limits.languages[0].growth", "greater than or equal to 0"),
        ([{"language": "uk"}], "limits.languages[0].growth", "is missing"),
        ([{"language": "uk", "growth": 1}, {"language": "UK", "growth": 2}], "limits.languages", "one language"),
        ([], "limits.languages", "there is no limit"),
    ],
)
def test_limits_that_make_no_sense_are_refused(model, corpora, limits, field, told):
    assert told in refusals({**data_of(model, corpora), "limits": {"languages": limits}})[field]
