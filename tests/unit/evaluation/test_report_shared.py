"""What the report says about what languages share: the affinity with the mix, and language neurons."""

import json

import jsonschema
import pytest

from secateur import Report as ClientReport
from secateur_service.evaluation.html import render_html
from secateur_service.evaluation.language_parts import AffinityPart, LanguageNeuronsPart
from secateur_service.evaluation.report import Report, report_schema
from secateur_service.pruning.affinity import Affinities, LanguageAffinity
from secateur_service.pruning.language_neurons import NeuronSurvey, Survival
from support.pages import Page
from support.reports import kinds, make_report

ESTIMATES = {"de": 0.96, "en": 0.95, "es": 0.7, "uk": 0.8}


def affinity(estimates=ESTIMATES, *, spread=0.02, threshold=0.9):
    languages = {name: LanguageAffinity(value, (value - 0.01, value + 0.01)) for name, value in estimates.items()}
    return AffinityPart.model_validate(Affinities(4096, 0.95, spread, threshold, languages))


def neurons(*, kept=None):
    count = 1000 if kept is None else kept
    languages = tuple(Survival(name, 7, min(7, count), 9, 0.8, 0.5, 0.55) for name in ESTIMATES)
    return LanguageNeuronsPart.model_validate(NeuronSurvey(1000, count, 0.52, languages))


def text_of(report):
    return " ".join(" ".join(Page(render_html(report)).text).split())


def test_a_language_below_the_mixs_own_text_is_not_covered_and_the_remedy_depends_on_the_mix():
    found = [each for each in make_report(affinity=affinity()).verdicts if each.kind == "MIX_DOES_NOT_COVER"]
    assert [each.language for each in found] == ["es", "uk"]
    assert "It has no es: add it" in found[0].message
    assert "Raise its weight" in found[1].message
    evidence = found[0].evidence
    assert (evidence.estimate, evidence.threshold, evidence.interval) == (0.7, 0.9, (0.69, 0.71))
    assert evidence.z == pytest.approx((0.7 - 0.95) / 0.02)


def test_a_language_that_is_not_covered_is_not_reported_as_not_calibrated_too():
    def kinds(**changes):
        report = make_report(ratios={"de": 1.1, "es": 1.4, "uk": 1.2}, mix={"de": 0.5, "uk": 0.5}, **changes)
        return [each.kind for each in report.verdicts if each.language == "es"]

    assert kinds().count("NOT_CALIBRATED") == 1
    assert "NOT_CALIBRATED" not in kinds(affinity=affinity())
    assert "MIX_DOES_NOT_COVER" in kinds(affinity=affinity())


def test_without_spread_there_is_no_test_statistic_and_at_the_threshold_no_verdict():
    made = make_report(affinity=affinity({"de": 0.9, "es": 0.7}, spread=0.0))
    [verdict] = [each for each in made.verdicts if each.kind == "MIX_DOES_NOT_COVER"]
    assert (verdict.language, verdict.evidence.z) == ("es", None)
    assert "MIX_DOES_NOT_COVER" not in dict(kinds(make_report()))


def test_the_report_follows_its_schema_and_is_read_back_equal():
    for figures in ({}, {"affinity": affinity()}, {"affinity": affinity(), "language_neurons": neurons()}):
        report = make_report(**figures)
        plain = json.loads(report.to_bytes())
        jsonschema.validate(plain, report_schema())
        assert Report.model_validate(plain) == report
        assert ("language_neurons" in plain) == ("language_neurons" in figures)


def test_the_page_has_a_table_only_where_there_is_something_to_say():
    assert "What languages share" not in text_of(make_report())
    told = text_of(make_report(affinity=affinity()))
    assert "0.700 0.690 to 0.710" in told
    assert told.count("poorly covered") == 3  # twice in the table, once in its note
    assert "Language neurons" not in told
    told = text_of(make_report(affinity=affinity(), language_neurons=neurons()))
    assert "uk poorly covered 0.800 0.790 to 0.810 7 80 % 50 % 55 %" in told
    told = text_of(make_report(language_neurons=neurons(kept=5)))
    assert "uk 7 5 80 % 50 % 55 %" in told


def test_the_page_says_why_neurons_that_were_asked_for_are_left_out():
    spec = make_report().spec | {"evaluation": {"language_neurons": True}}
    assert "Language neurons were left out" in text_of(make_report(affinity=affinity(), spec=spec))


def test_the_sdk_has_the_figures_as_objects():
    report = ClientReport(json.loads(make_report(affinity=affinity(), language_neurons=neurons()).to_bytes()))
    assert report.affinity.poorly_covered == ["es", "uk"]
    assert report.affinity.intervals["uk"] == (0.79, 0.81)
    assert (report.affinity.of_mix, report.affinity.threshold) == (0.95, 0.9)
    found = report.language_neurons["uk"]
    assert (found.neurons, found.kept, found.in_output, found.survived) == (7, 7, 9, 0.5)
    older = ClientReport(json.loads(make_report().to_bytes()))
    del older["affinity"]
    assert (older.affinity, older.language_neurons) == (None, {})
