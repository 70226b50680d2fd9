"""May it ship? The answer by limits and confidence intervals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.evaluation.decision import decide
from secateur_service.evaluation.limits import limit_exceeded
from support.reports import answered, evaluation, kinds, make_report

LOSS = math.log(8.0)


def language(name, growth, *, error=0.001, tokens=5000, known=True):
    """A language whose bits per byte grew by a share; `error` is of that share."""
    return evaluation(name, math.exp(growth * LOSS), tokens=tokens, error=error * LOSS if known else None)


def test_without_limits_the_report_says_how_to_get_an_answer():
    found = decide([language("de", 0.01)], {})
    assert found.answer is None
    assert "limits.languages" in found.sentence
    assert found.languages == ()


def test_a_language_passes_only_with_its_whole_interval():
    found = decide([language("de", 0.007), language("uk", 0.009)], {"de": 0.01, "uk": 0.01, "fr": 0.01})
    assert [(each.language, each.answer) for each in found.languages] == [("de", "PASS"), ("uk", "CANNOT_TELL")]
    assert found.answer == "CANNOT_TELL"
    assert "for uk (Ukrainian) cannot be told" in found.sentence
    assert "within the limits for de (German)" in found.sentence


def test_a_language_fails_by_its_growth_whatever_the_interval():
    found = decide(
        [language("de", 0.0101), language("uk", 0.0), language("en", 0.0)], dict.fromkeys(("de", "uk", "en"), 0.01)
    )
    assert found.answer == "FAIL"
    assert found.sentence.startswith("This may not ship for de (German): bits per byte +1.01% (")
    assert "uk (Ukrainian) and en (English)" in found.sentence


def test_what_is_as_large_as_its_limit_is_told_to_be_so_and_no_number_is_asked_for():
    found = decide([language("de", 0.01 - 1e-12)], {"de": 0.01})
    assert found.answer == "CANNOT_TELL"
    assert found.languages[0].needed_tokens is None
    assert "so near to the limit that no evaluation" in found.sentence


def test_without_an_interval_nobody_can_tell_and_more_documents_would_help():
    found = decide([language("de", 0.0, known=False)], {"de": 0.01})
    assert found.answer == "CANNOT_TELL"
    assert found.languages[0].needed_tokens is None
    assert "more documents" in found.sentence


@given(growth=st.floats(0, 0.0099), error=st.floats(1e-4, 0.1), tokens=st.integers(100, 10**6))
def test_with_the_tokens_that_it_asks_for_the_language_would_pass(growth, error, tokens):
    (found,) = decide([language("de", growth, error=error, tokens=tokens)], {"de": 0.01}).languages
    if found.answer == "PASS":
        assert growth + 1.96 * error <= 0.01 + 1e-6
        assert found.needed_tokens is None
        return
    assert found.answer == "CANNOT_TELL"
    if found.needed_tokens is None:  # 400 times the text would not do
        assert 0.01 - growth <= 1.97 * error / 20
        return
    assert found.needed_tokens >= tokens
    narrower = error * math.sqrt(tokens / found.needed_tokens)
    assert growth + 1.95 * narrower <= 0.01 + 1e-6
    enough = decide([language("de", growth, error=0.99 * narrower, tokens=found.needed_tokens)], {"de": 0.01})
    assert enough.answer == "PASS"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_languages_are_listed_as_people_do(count):
    names = ["de", "uk", "en"][:count]
    found = decide([language(name, 0.0) for name in names], dict.fromkeys(names, 0.01))
    assert found.answer == "PASS"
    de, uk, en = "de (German)", "uk (Ukrainian)", "en (English)"
    assert [f"for {de}:", f"for {de} and {uk}:", f"for {de}, {uk} and {en}:"][count - 1] in found.sentence


def test_a_task_passes_with_its_whole_interval_and_fails_by_its_loss():
    tasks = [
        answered("many", items=1000, lost=10, won=5),
        answered("few", items=100, lost=1),
        answered("worse", items=100, lost=5),
        answered("whole", metric="word_perplexity", flips=None, higher_is_better=False),
    ]
    found = decide([language("de", 0.0)], {"de": 0.01}, tasks, 0.02)
    assert [(each.task, each.answer) for each in found.tasks] == [
        ("many", "PASS"),
        ("few", "CANNOT_TELL"),
        ("worse", "FAIL"),
    ]
    assert found.answer == "FAIL"
    assert found.sentence.startswith("This may not ship by its tasks, which may lose 0.02: acc of worse lost 0.050 (")
    assert "Whether tasks lost at most 0.02 cannot be told: acc of few lost 0.010 (" in found.sentence
    assert f"Raise evaluation.task_limit to about {found.tasks[1].needed_samples:,}" in found.sentence
    assert "within the limits for de (German): bits per byte" in found.sentence
    assert found.sentence.endswith("No limit applies to word_perplexity of whole.")


@given(items=st.integers(10, 10_000), share=st.floats(0, 0.019))
def test_with_the_items_that_it_asks_for_a_task_would_pass(items, share):
    lost = round(share * items)
    (found,) = decide([], {}, [answered("plain", items=items, lost=lost)], 0.02).tasks
    if found.answer == "CANNOT_TELL" and found.needed_samples is not None:
        assert found.needed_samples > items
        more = answered("plain", items=found.needed_samples, lost=int(found.needed_samples * lost / items))
        assert decide([], {}, [more], 0.02).answer == "PASS"


def test_a_loss_is_told_with_its_interval_and_a_gain_as_a_gain():
    spec = make_report().spec | {"limits": {"languages": [], "task_loss": 0.02}}
    report = make_report(spec=spec, tasks=[answered("worse", lost=8, won=4), answered("better", lost=4, won=6)])
    worse, better = report.decision.tasks
    low, high = worse.interval
    assert f"acc of worse lost 0.040 ({low:.3f} to {high:.3f})" in report.decision.sentence
    low, high = better.interval
    assert f"acc of better gained 0.020 ({-high:.3f} to {-low:.3f})" in report.decision.sentence
    (unclear,) = [verdict.message for verdict in report.verdicts if verdict.kind == "LIMIT_UNCLEAR"]
    assert unclear.startswith("better: acc gained 0.0200, within the limit of 0.02, but over all items")


def test_many_tasks_are_not_all_named():
    tasks = [answered(f"subject_{number}", lost=10 + number) for number in range(40)]
    found = decide([], {}, tasks, 0.02)
    assert len(found.tasks) == 40
    assert "subject_39" in found.sentence
    assert "35 more" in found.sentence
    assert len(found.sentence) < 700


def test_a_limit_of_tasks_in_the_specification_is_judged_in_the_report():
    spec = make_report().spec | {"limits": {"languages": [], "task_loss": 0.02}}
    report = make_report(spec=spec, tasks=[answered("worse", lost=5), answered("few", lost=1)])
    assert report.decision.answer == "FAIL"
    assert {("LIMIT_EXCEEDED", "de"), ("LIMIT_UNCLEAR", "de")} <= kinds(report)
    (told,) = report.exceeded
    assert told.message == "worse: acc lost 0.0500, more than the limit of 0.02."
    failure = limit_exceeded(report, "ab" * 32, ["report/report.json", "provenance.json"])
    assert failure.message.startswith("limits.task_loss: worse: acc lost 0.0500")
    assert " Its report is published, its checkpoint is not;" in failure.message
    with_plan = limit_exceeded(report, "ab" * 32, ["report/report.json", "plan.json"])
    assert " Its report and its plan are published, its checkpoint is not;" in with_plan.message
    for entry in report.evaluation:
        told = float(failure.metadata[f"perplexity_growth_{entry.language}"])
        assert told == pytest.approx(entry.perplexity_ratio, abs=1e-6)
    assert "tasks" not in make_report().model_dump(mode="json")["decision"]
