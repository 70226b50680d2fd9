"""Whether a report may go on."""

import json
import math

import pytest

from secateur import InvalidRequestError, gate
from secateur.cli._comparing import gate_text
from secateur_service.evaluation.parts import Verdict
from support.reports import RATIOS, evaluation, make_report


def report_of(**changes):
    return json.loads(make_report(**changes).to_bytes())


def test_every_language_of_the_mix_is_checked_and_no_other():
    found = gate(report_of(), max_growth=1.1)
    assert found.passed
    assert [entry.language for entry in found.languages] == ["de", "en", "uk"]
    assert [entry.growth for entry in found.languages] == pytest.approx([RATIOS[name] for name in ("de", "en", "uk")])
    assert found.reason == "perplexity grew at most ×1.0600 (en), within ×1.1"


def test_stated_languages_are_checked_however_they_are_spelled():
    found = gate(report_of(), max_growth=1.1, languages=["ES", "de"])
    assert [(entry.language, entry.passed) for entry in found.languages] == [("es", False), ("de", True)]
    assert not found.passed
    assert found.reason == "perplexity grew more than ×1.1: es ×1.5000"
    lines = gate_text(found).splitlines()
    assert lines[0].startswith("FAIL  es  ×1.5000  perplexity 8.0000 -> 12.0000")
    assert lines[-1] == f"FAIL: {found.reason}"


def test_a_limit_is_reached_by_what_equals_it():
    report = report_of(ratios={"de": 1.25}, mix={"de": 1.0})
    (entry,) = report["evaluation"]
    entry["dense_perplexity"], entry["pruned_perplexity"] = 8.0, 10.0
    assert gate(report, max_growth=1.25).passed
    assert not gate(report, max_growth=1.2499).passed


def test_bits_per_byte_grow_less_than_perplexity_and_are_judged_alone():
    report = report_of(ratios={"de": 1.5}, mix={"de": 1.0})
    assert not gate(report, max_growth=1.3).passed
    found = gate(report, max_growth=1.3, bits_per_byte=True)
    assert found.passed
    assert found.measure == "bits_per_byte"
    assert found.languages[0].growth == pytest.approx(1.195, abs=1e-3)
    assert "bits per byte 1.5000 -> 1.7925" in gate_text(found)


@pytest.mark.parametrize("languages", [["fr"], ["de", "fr"]])
def test_a_language_that_was_not_evaluated_is_an_error_that_names_those_that_were(languages):
    with pytest.raises(InvalidRequestError, match="fr was not evaluated; the report has de, en, es, uk"):
        gate(report_of(), max_growth=1.1, languages=languages)


def test_a_language_of_the_mix_that_was_not_evaluated_is_not_passed_over():
    with pytest.raises(InvalidRequestError, match="uk was not evaluated"):
        gate(report_of(ratios={"de": 1.0, "en": 1.0}), max_growth=1.1)


@pytest.mark.parametrize("limit", [0.05, 0.0, -1.0, float("nan"), float("inf")])
def test_a_share_where_a_ratio_is_meant_is_refused(limit):
    with pytest.raises(InvalidRequestError, match=r"is no ratio to the dense model; 1\.05 permits"):
        gate(report_of(), max_growth=limit)


def test_a_result_without_a_checkpoint_does_not_pass():
    report = make_report()
    report = report.model_copy(
        update={"verdicts": (Verdict(kind="LIMIT_EXCEEDED", language="de", message="too much"),)}
    )
    found = gate(json.loads(report.to_bytes()), max_growth=2.0)
    assert all(entry.passed for entry in found.languages)
    assert not found.passed
    assert "has no checkpoint" in found.reason


def test_something_else_than_a_report_is_refused():
    with pytest.raises(InvalidRequestError, match="is not the report of a job"):
        gate({"a": 1}, max_growth=1.1)


def test_to_be_sure_the_whole_interval_has_to_be_within_the_limit():
    measured = [evaluation("de", 1.04, error=0.01), evaluation("uk", 1.01, error=0.001)]
    report = report_of(evaluation=measured, mix={"de": 0.5, "uk": 0.5})
    assert gate(report, max_growth=1.05).passed
    found = gate(report, max_growth=1.05, sure=True)
    assert [entry.passed for entry in found.languages if entry.language == "de"] == [False]
    assert "de up to ×1.06" in found.reason
    assert gate(report, max_growth=1.05, languages=["uk"], sure=True).passed
    high = found.languages[0].interval[1]
    assert high == pytest.approx(1.04 * math.exp(1.96 * 0.01), rel=1e-4)
    assert gate(report, max_growth=1.0625, sure=True).passed
    bits = gate(report, max_growth=1.05, bits_per_byte=True, sure=True)
    assert bits.languages[0].interval[1] == pytest.approx(1 + math.log(high) / math.log(8), rel=1e-6)


def test_without_an_interval_nothing_is_sure():
    report = report_of(ratios={"de": 1.0}, mix={"de": 1.0})
    assert "de has no interval" in gate(report, max_growth=1.05, sure=True).reason
