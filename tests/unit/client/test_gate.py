"""Whether a report may go on."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur import InvalidRequestError, gate
from secateur.cli._comparing import gate_text
from secateur_service.evaluation.parts import Verdict
from support.reports import RATIOS, answered, evaluation, make_report


def report_of(**changes):
    return json.loads(make_report(**changes).to_bytes())


REPORT = report_of()


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
    assert lines[0].startswith("FAIL  es (Spanish)  ×1.5000  perplexity 8.0000 -> 12.0000")
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


@pytest.mark.parametrize("languages", [["deu", "UKR"], ["de-Latn", "uk_Cyrl"], ["DE", "uk", "ukr"]])
def test_a_language_has_many_spellings_also_with_its_tasks(languages):
    found = gate(report_of(tasks=TASKS), max_growth=1.1, max_task_loss=0.1, languages=languages)
    assert [entry.language for entry in found.languages] == ["de", "uk"]
    assert [entry.task for entry in found.tasks] == ["trains_de", "trains_uk"]


@pytest.mark.parametrize("languages", [["FRA"], ["de", "FRA"]])
def test_a_language_that_was_not_evaluated_is_an_error_that_names_those_that_were(languages):
    with pytest.raises(InvalidRequestError, match="FRA was not evaluated; the report has de, en, es, uk"):
        gate(report_of(), max_growth=1.1, languages=languages)


@pytest.mark.parametrize(
    ("language", "remedy"),
    [("", "expected a tag"), ("german", r"did you mean de \(German\)\?"), ("de uk", "expected a tag")],
)
def test_what_is_no_language_is_refused_as_such(language, remedy):
    with pytest.raises(InvalidRequestError, match=f"'{language}' is not a language that BCP 47 knows; {remedy}"):
        gate(report_of(tasks=TASKS), max_task_loss=0.1, languages=["de", language])


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


def test_all_that_fails_is_named_what_has_surely_lost_and_what_may_have():
    measured = [evaluation("de", 1.04, error=0.01), evaluation("uk", 1.2, error=0.001)]
    asked = [answered("few_de", items=20), answered("many_uk", lost=10), answered("plain", items=10)]
    report = report_of(evaluation=measured, mix={"de": 0.5, "uk": 0.5}, tasks=asked)
    found = gate(report, max_growth=1.05, max_task_loss=0.05, sure=True)
    failed = {entry.language for entry in found.languages} | {f"acc of {entry.task}" for entry in found.tasks}
    assert not any(entry.passed for entry in (*found.languages, *found.tasks))
    assert all(f"{name} " in found.reason for name in failed)
    assert "acc of many_uk 0.1000; tasks may have lost more than 0.05: acc of few_de up to" in found.reason


def test_without_an_interval_nothing_is_sure():
    report = report_of(ratios={"de": 1.0}, mix={"de": 1.0})
    assert "de has no interval" in gate(report, max_growth=1.05, sure=True).reason


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"languages": "de"}, "languages: expected a list, not the text 'de'; a single one goes into a list"),
        ({"tasks": "xnli_de"}, "tasks: expected a list, not the text 'xnli_de'"),
        ({"languages": [None]}, "languages[0]: expected a text, not nothing"),
        ({"languages": 1}, "languages: expected a list, not the number 1"),
        ({"max_growth": "1.5"}, "max_growth: expected a number, not the text '1.5'"),
        ({"max_growth": True}, "max_growth: expected a number, not the truth value True"),
        ({"max_task_loss": "0.1"}, "max_task_loss: expected a number, not the text '0.1'"),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused_by_its_name(arguments, told):
    with pytest.raises(InvalidRequestError, match=re.escape(told)):
        gate(REPORT, **{"max_growth": 1.1, **arguments})


def test_an_empty_list_is_the_whole_mix_and_an_iterator_is_read_once():
    assert gate(REPORT, max_growth=1.1, languages=[]) == gate(REPORT, max_growth=1.1)
    assert [entry.language for entry in gate(REPORT, max_growth=1.1, languages=iter(["uk"])).languages] == ["uk"]


PERPLEXITY = {"metric": "word_perplexity", "dense": 20.0, "pruned": 21.0, "difference": 1.0, "flips": None} | {
    "higher_is_better": False
}
TASKS = [
    answered("trains_de", lost=6, won=2),
    answered("trains_uk", language="uk", lost=1),
    answered("whole_uk", language="uk", **PERPLEXITY),
    answered("plain", language=None),
]


def with_task(**figures):
    return {**REPORT, "tasks": [answered("plain", **figures).model_dump(mode="json")]}


def test_a_task_may_lose_what_the_limit_says_and_no_more():
    found = gate(report_of(tasks=TASKS), max_task_loss=0.02)
    assert [(entry.task, entry.passed) for entry in found.tasks] == [
        ("trains_de", False),
        ("trains_uk", True),
        ("plain", True),
    ]
    assert found.tasks[0].loss == pytest.approx(0.04)
    assert found.reason == "tasks lost more than 0.02: acc of trains_de 0.0400"
    assert found.not_limited == ("word_perplexity of whole_uk",)
    assert found.languages == ()
    text = gate_text(found).splitlines()
    assert text[0].startswith("FAIL  trains_de  lost 0.0400  (-0.0211 to 0.0995)  acc 0.520 -> 0.480")
    assert text[-2] == "not checked, since no amount limits it: word_perplexity of whole_uk"
    assert text[-1] == f"FAIL: {found.reason}"
    within = gate(report_of(tasks=TASKS), max_task_loss=0.04)
    assert within.passed
    assert within.reason == "tasks lost at most 0.0400 (acc of trains_de), within 0.04"


@given(items=st.integers(1, 3000), data=st.data())
def test_a_loss_and_its_interval_are_told_with_one_sign(items, data):
    lost = data.draw(st.integers(0, items))
    won = data.draw(st.integers(0, items - lost))
    found = gate(with_task(items=items, lost=lost, won=won), max_task_loss=1.0)
    line = gate_text(found).splitlines()[0]
    told = re.search(r" (lost|gained) (\d\.\d{4})  \((-?\d\.\d{4}) to (-?\d\.\d{4})\) ", line)
    amount, low, high = map(float, told.groups()[1:])
    assert (told[1] == "gained") == (won > lost)
    assert amount == pytest.approx(abs(won - lost) / items, abs=1e-4)
    assert low - 1e-4 <= amount <= high + 1e-4
    assert "-0.0000" not in line


@given(items=st.integers(1, 3000), data=st.data())
def test_a_loss_that_equals_the_limit_is_within_it_whatever_its_binary_fraction(items, data):
    lost = data.draw(st.integers(0, items))
    report = with_task(items=items, lost=lost)
    assert gate(report, max_task_loss=lost / items).passed
    if lost:
        assert not gate(report, max_task_loss=(lost - 0.01) / items).passed


@given(items=st.integers(1, 3000), data=st.data())
def test_sure_is_stricter_than_measured_and_few_items_are_never_sure(items, data):
    lost = data.draw(st.integers(0, items))
    won = data.draw(st.integers(0, items - lost))
    (found,) = gate(with_task(items=items, lost=lost, won=won), max_task_loss=1.0).tasks
    low, high = found.interval
    assert low < high
    assert low - 1e-9 <= found.loss <= high + 1e-9
    if items < 100 and won <= lost:
        assert high > 0.02


def test_to_be_sure_of_tasks_the_whole_interval_has_to_be_within_the_limit():
    report = report_of(tasks=[answered("few_de", items=100), answered("many_de", items=1000)])
    found = gate(report, max_task_loss=0.01, sure=True)
    assert [entry.passed for entry in found.tasks] == [False, True]
    assert found.reason == (
        "tasks may have lost more than 0.01: acc of few_de up to 0.0272; raise evaluation.task_limit to be sure"
    )
    assert gate(report, max_task_loss=0.01, tasks=["many_de"], sure=True).reason == (
        "no task lost anything, within 0.01 with its whole confidence interval"
    )
    unknown = report_of(tasks=[answered("pairs_de", metric="f1", flips=None, difference_stderr=None)])
    assert "f1 of pairs_de has no interval" in gate(unknown, max_task_loss=0.5, sure=True).reason


def test_of_a_metric_of_which_less_is_better_more_is_lost():
    worse = answered("pairs_fr", metric="pct_stereotype", won=5, higher_is_better=False)
    (found,) = gate(report_of(tasks=[worse]), max_task_loss=0.02).tasks
    assert (found.loss, found.passed) == (pytest.approx(0.05), False)
    assert found.interval[1] > 0.05
    older = {**json.loads(make_report(tasks=[answered("plain", lost=5)]).to_bytes())}
    del older["tasks"][0]["higher_is_better"]
    assert gate(older, max_task_loss=0.02).tasks[0].loss == pytest.approx(0.05)


def test_a_metric_that_is_no_number_any_more_does_not_pass():
    broken = answered("pairs_de", metric="f1", pruned=None, difference=None, flips=None)
    found = gate(report_of(tasks=[broken]), max_task_loss=1.0)
    assert not found.passed
    assert found.reason == "tasks lost more than 1: f1 of pairs_de is no number"
    assert "f1 0.500 -> -" in gate_text(found)


def test_tasks_are_checked_by_language_and_by_name():
    report = report_of(tasks=TASKS)
    assert [entry.task for entry in gate(report, max_task_loss=0.1, languages=["UK"]).tasks] == ["trains_uk"]
    assert [entry.task for entry in gate(report, max_task_loss=0.1, tasks=["plain"]).tasks] == ["plain"]
    both = gate(report, max_growth=1.1, max_task_loss=0.02, languages=["uk", "en"])
    assert ([entry.language for entry in both.languages], [entry.task for entry in both.tasks]) == (
        ["uk", "en"],
        ["trains_uk"],
    )
    assert both.reason == (
        "perplexity grew at most ×1.0600 (en), within ×1.1; tasks lost at most 0.0100 (acc of trains_uk), within 0.02"
    )
    one = gate(report, max_growth=1.1, max_task_loss=0.02)
    assert one.reason == "tasks lost more than 0.02: acc of trains_de 0.0400"


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({}, "max_growth: there is no limit; give max_growth, max_task_loss or both"),
        ({"max_growth": 1.1, "tasks": ["plain"]}, "tasks: there is no limit for tasks; give max_task_loss"),
        ({"max_task_loss": 2.0}, "max_task_loss: 2 is no loss of a metric; 0.02 permits"),
        ({"max_task_loss": math.nan}, "max_task_loss: nan is no loss"),
        ({"max_task_loss": 0.1, "tasks": ["trains_fr"]}, "tasks: trains_fr was not asked; the report has trains_de"),
        ({"max_task_loss": 0.1, "tasks": ["whole_uk"]}, "whole_uk has word_perplexity, which no amount limits; limit"),
        ({"max_task_loss": 0.1, "languages": ["en"]}, "en has no task with a limit; the report has tasks of de, uk"),
        ({"max_task_loss": 0.1, "languages": ["de", "en"]}, "en has no task with a limit"),
        ({"max_task_loss": 0.1, "languages": ["de"], "tasks": ["trains_uk"]}, "trains_uk is of no language that was"),
        ({"max_growth": 1.1, "max_task_loss": 0.1, "languages": ["en"]}, "en has no task with a limit"),
    ],
)
def test_a_limit_that_nothing_can_be_checked_by_is_refused(limits, told):
    with pytest.raises(InvalidRequestError, match=re.escape(told)):
        gate(report_of(tasks=TASKS), **limits)


def test_a_report_without_tasks_is_refused_with_the_remedy():
    with pytest.raises(InvalidRequestError, match=r"the report has no tasks; run the job with evaluation\.tasks"):
        gate(report_of(), max_task_loss=0.02)
    without = report_of(tasks=[answered("whole_uk", **PERPLEXITY)])
    with pytest.raises(InvalidRequestError, match="whole_uk has word_perplexity, which no amount limits"):
        gate(without, max_task_loss=0.02)
