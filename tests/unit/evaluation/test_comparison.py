"""Jobs side by side: what compares with what, what is best, and which one to take."""

import json
import math
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.errors import NotReadyError
from secateur_service.evaluation.comparison import Candidate, Found, compare, labels, readable_report
from secateur_service.evaluation.comparison_parts import schema_bytes
from secateur_service.evaluation.parts import OutputPart, Verdict
from support.reports import evaluation, make_report, task

GERMAN, ENGLISH = {"de": 1.0}, {"en": 1.0}


SCHEMA = Path(__file__).parents[3] / "docs" / "comparison.schema.json"


def smaller(parameters, size_bytes):
    return OutputPart(parameters=parameters, blocks=2, size_bytes=size_bytes, decoding_bytes=size_bytes, cache_bytes=64)


def job(name, ratios, *, seconds=None, **changes):
    return Candidate.of(name, make_report(ratios=ratios, **changes), seconds)


def other_model(digest="cd" * 32):
    return make_report().model.model_copy(update={"uri": "file:///models/other", "digest": digest})


def with_settings(report, **evaluation_settings):
    return report.model_copy(update={"spec": {**report.spec, "evaluation": evaluation_settings}})


def best(comparison):
    return {column.language: column.best for column in comparison.columns}


def test_the_best_of_every_column_is_the_job_that_calibrated_on_it():
    found = compare([job("one", {"de": 1.1, "en": 1.4}, mix=GERMAN), job("two", {"de": 1.5, "en": 1.2}, mix=ENGLISH)])
    assert best(found) == {"de": ("A",), "en": ("B",)}
    assert [entry.in_mix for entry in found.jobs[0].languages] == [True, False]
    assert found.measure == "perplexity"
    assert found.jobs[0].languages[1].growth == pytest.approx(1.4)


def test_without_a_limit_the_job_is_taken_whose_worst_target_language_loses_least():
    jobs = [job("one", {"de": 1.05, "en": 1.30, "uk": 1.0}), job("two", {"de": 1.20, "en": 1.10, "uk": 9.0})]
    both = compare(jobs, ["de", "en"]).recommendation
    assert (both.chosen.job, both.chosen.language, both.runner_up.job) == ("B", "de", "A")
    assert both.evidence == (
        "Of de and en, the one that loses most loses least in B, where perplexity grows at most ×1.200 (de); A follows "
        "with ×1.300 (en)."
    )
    assert compare(jobs, ["de"]).recommendation.chosen.job == "A"
    everything = compare(jobs).recommendation
    assert (everything.languages, everything.stated, everything.chosen.job) == (("de", "en", "uk"), False, "A")


def test_tasks_whose_items_differ_do_not_compare():
    def caveats(*items):
        jobs = [
            job(str(number), {"de": 1.1}, tasks=[task("xnli_de", [1, 0], [1, 0], items=digest)])
            for number, digest in enumerate(items)
        ]
        return [told for told in compare(jobs).recommendation.caveats if "the same items" in told]

    assert caveats("a", "b") == ["xnli_de: not all jobs were asked the same items, so these figures do not compare."]
    assert not caveats("a", "a")
    assert not caveats("a", "")  # an older report does not say


def test_of_jobs_that_look_alike_the_smaller_is_taken():
    jobs = [job("one", {"de": 1.1000}), job("two", {"de": 1.1001}, output=smaller(3000, 6000))]
    assert compare(jobs, ["de"]).recommendation.chosen.job == "B"


def test_within_a_limit_the_smallest_is_taken_although_another_loses_less():
    jobs = [
        job("one", {"de": 1.01}),
        job("two", {"de": 1.04}, output=smaller(3000, 6000)),
        job("three", {"de": 1.20}, output=smaller(2000, 4000)),
    ]
    found = compare(jobs, ["de"], max_growth=1.05).recommendation
    assert (found.chosen.job, found.runner_up.job) == ("B", "A")
    assert "B is the smallest of 2 that keep de within ×1.05: 6.0 kB" in found.evidence
    assert compare(jobs, ["de"]).recommendation.chosen.job == "A"


def test_the_nearest_is_named_where_no_job_is_within_the_limit():
    found = compare([job("one", {"de": 1.3}), job("two", {"de": 1.2})], ["de"], max_growth=1.05).recommendation
    assert found.chosen is found.runner_up is None
    assert found.evidence == "No job keeps de within ×1.05: the nearest, B, has ×1.200 (de)."
    assert found.caveats == ()


def test_a_job_that_did_not_evaluate_a_target_or_has_no_checkpoint_is_not_taken():
    exceeded = make_report(ratios={"de": 1.0, "uk": 1.0})
    verdict = Verdict(kind="LIMIT_EXCEEDED", language="de", message="too much")
    exceeded = exceeded.model_copy(update={"verdicts": (*exceeded.verdicts, verdict)})
    jobs = [
        job("one", {"de": 1.01}),
        job("two", {"de": 1.2, "uk": 1.2}),
        Candidate.of("three", exceeded),
    ]
    found = compare(jobs, ["de", "uk"])
    assert found.recommendation.chosen.job == "B"
    assert found.recommendation.left_out == {
        "A": "uk was not evaluated",
        "C": "a limit of the specification is exceeded, and there is no checkpoint",
    }
    assert (
        "B is the only one of those that compare which has a checkpoint and evaluated de and uk"
        in found.recommendation.evidence
    )
    assert not found.jobs[2].has_checkpoint
    timed = [
        Candidate.of("one", exceeded, 1.0),
        job("two", {"de": 1.1}, seconds=2),
        job("three", {"de": 1.2}, seconds=3),
    ]
    assert [point.job for point in compare(timed, ["de"]).tradeoffs[0].points] == ["B", "C"]


def test_jobs_without_a_language_in_common_leave_the_choice_to_the_caller():
    found = compare([job("one", {"de": 1.1}), job("two", {"en": 1.1})])
    assert found.recommendation.chosen is None
    assert found.recommendation.evidence.startswith("There is no language that every job evaluated")
    assert best(found) == {"de": (), "en": ()}


def test_figures_of_other_text_are_shown_but_never_best():
    ours = with_settings(make_report(ratios={"de": 1.3}), tokens_per_language=5000)
    longer = make_report(ratios={"de": 1.0}, tokens=9000)
    longer = with_settings(longer, tokens_per_language=9000)
    jobs = [Candidate.of("one", ours), Candidate.of("two", longer), Candidate.of("three", ours)]
    found = compare(jobs, ["de"])
    assert found.jobs[1].differences == ("evaluation.tokens_per_language is 9000, and not 5000",)
    assert found.jobs[0].differences == found.jobs[2].differences == ()
    assert "B" not in best(found)["de"]
    assert found.recommendation.left_out["B"].startswith("its figures do not compare: evaluation.tokens_per_language")
    assert "B" not in {point.job for tradeoff in found.tradeoffs for point in tradeoff.points}


def test_text_that_changed_behind_one_name_is_noticed_by_the_dense_model():
    changed = make_report(evaluation=[evaluation("de", 1.0, dense=9.0)])
    found = compare([job("one", {"de": 1.3}), job("two", {"de": 1.2}), Candidate.of("three", changed)])
    assert found.jobs[2].differences == ("the evaluation text of de is another, although it is named alike",)


def test_the_same_text_compares_wherever_it_was_measured_and_lay():
    device = with_settings(make_report(evaluation=[evaluation("de", 1.2, dense=8.01)]), corpus="file:///elsewhere")
    found = compare([job("one", {"de": 1.3}), Candidate.of("two", device)])
    assert [entry.differences for entry in found.jobs] == [(), ()]


def test_two_jobs_that_agree_with_a_third_but_not_with_each_other_are_not_put_together():
    first = make_report(evaluation=[evaluation("de", 1.2), evaluation("uk", 1.2, dense=8.0)])
    second = make_report(evaluation=[evaluation("de", 1.2), evaluation("uk", 1.1, dense=20.0)])
    found = compare([Candidate.of("one", first), Candidate.of("two", second), job("three", {"de": 1.3})])
    assert sum(bool(entry.differences) for entry in found.jobs) == 1
    assert best(found)["uk"] == ()


def test_base_models_compare_by_bits_per_byte_against_the_best_of_them():
    weak = make_report(model=other_model(), evaluation=[evaluation("de", 1.0, dense=16.0)])
    strong = make_report(evaluation=[evaluation("de", 1.5, dense=8.0)])
    found = compare([Candidate.of("one", weak), Candidate.of("two", strong)], ["de"])
    assert found.measure == "bits_per_byte"
    ratio = math.log(16) / math.log(8)
    assert found.jobs[0].languages[0].growth == pytest.approx(ratio)
    assert found.jobs[0].languages[0].bits_per_byte_ratio == pytest.approx(1.0)
    assert found.jobs[1].languages[0].growth == pytest.approx(math.log(12) / math.log(8))
    assert found.recommendation.chosen.job == "B"
    assert any("different base models" in caveat for caveat in found.recommendation.caveats)


def test_what_a_recommendation_does_not_show_is_said():
    found = compare([job("one", {"de": 1.1, "uk": 1.1}, mix=GERMAN, tokens=100)], ["uk"]).recommendation
    assert any("measure the tasks" in caveat for caveat in found.caveats)
    assert "A was not calibrated on uk: what it kept, it kept by accident." in found.caveats
    assert "uk: few tokens were scored, and the figures are rough." in found.caveats


def test_jobs_that_the_noise_may_have_told_apart_are_named():
    def measured(name, ratio, error):
        return Candidate.of(name, make_report(evaluation=[evaluation("de", ratio, error=error)]), 1.0)

    found = compare([measured("one", 1.30, 0.01), measured("two", 1.31, 0.01), measured("three", 1.5, 0.01)])
    entry = found.jobs[0].languages[0]
    assert entry.interval[0] < entry.growth < entry.interval[1]
    assert any("A and B may have lost as much" in caveat for caveat in found.recommendation.caveats)
    clear = compare([measured("one", 1.30, 0.001), measured("two", 1.31, 0.001)])
    assert not any("may have lost the same" in caveat for caveat in clear.recommendation.caveats)
    unknown = compare([job("one", {"de": 1.3}), job("two", {"de": 1.31})])
    assert any("may be chance" in caveat for caveat in unknown.recommendation.caveats)


def test_size_is_left_out_where_all_are_as_large():
    found = compare([job("one", {"de": 1.1}, seconds=10), job("two", {"de": 1.2}, seconds=5)])
    (tradeoff,) = found.tradeoffs
    assert tradeoff.axis == "seconds"
    assert [(point.job, point.optimal) for point in tradeoff.points] == [("A", True), ("B", True)]
    assert compare([job("one", {"de": 1.1}), job("two", {"de": 1.2})]).tradeoffs == ()
    assert compare([job("one", {"de": 1.1}, seconds=1000), job("two", {"de": 1.2}, seconds=1009)]).tradeoffs == ()


def test_a_report_of_a_newer_release_is_read_and_one_that_lacks_figures_is_refused_by_name():
    content = json.loads(make_report().to_bytes())
    newer = {**content, "tasks": [], "evaluation": [{**entry, "new": 1} for entry in content["evaluation"]]}
    assert readable_report("pruneJobs/x", newer) == make_report()
    for broken in ({**content, "schema_version": "1"}, {"schema_version": "2"}, [], None):
        with pytest.raises(NotReadyError, match="the report of pruneJobs/x cannot be compared") as caught:
            readable_report("pruneJobs/x", broken)
        assert caught.value.reason == "REPORT_NOT_COMPARABLE"


def test_every_job_has_a_letter_of_its_own():
    assert labels(3) == ["A", "B", "C"]
    assert len(set(labels(50))) == 50


def test_the_published_schema_is_that_of_the_code_and_describes_a_comparison():
    message = "run: python -m secateur_service.evaluation.comparison_parts > docs/comparison.schema.json"
    assert SCHEMA.read_bytes() == schema_bytes(), message
    found = compare([job("one", {"de": 1.1}), job("two", {"de": 1.2}, seconds=3)], max_growth=1.15)
    jsonschema.validate(found.model_dump(mode="json"), json.loads(schema_bytes()))


GROWTHS = st.lists(
    st.tuples(
        st.floats(0.9, 3.0), st.floats(0.9, 3.0), st.integers(1, 5).map(lambda blocks: blocks * 1000), st.floats(1, 9)
    ),
    min_size=1,
    max_size=8,
)


@given(GROWTHS, st.none() | st.floats(0.9, 3.0))
def test_the_recommendation_and_the_front_are_those_of_an_exhaustive_search(rows, max_growth):
    jobs = [
        job(str(number), {"de": de, "uk": uk}, output=smaller(size, 2 * size), blocks=(), seconds=seconds)
        for number, (de, uk, size, seconds) in enumerate(rows)
    ]
    found = compare(jobs, ["de", "uk"], max_growth)
    worst = [max(entry.growth for entry in compared.languages) for compared in found.jobs]
    sizes = [compared.size_bytes for compared in found.jobs]
    chosen = found.recommendation.chosen
    within = [number for number, growth in enumerate(worst) if max_growth is None or growth <= max_growth]
    assert (chosen is None) == (not within)
    if chosen is not None:
        number = labels(len(jobs)).index(chosen.job)
        assert number in within
        if max_growth is None:
            assert round(worst[number], 3) == min(round(worst[other], 3) for other in within)
        else:
            assert sizes[number] == min(sizes[other] for other in within)
    for tradeoff in found.tradeoffs:
        for point in tradeoff.points:
            beaten = any(
                (other.amount <= point.amount and other.growth < point.growth)
                or (other.amount < point.amount and other.growth <= point.growth)
                for other in tradeoff.points
            )
            assert point.optimal == (not beaten)


def test_the_named_jobs_decide_what_compares_however_many_are_found_beside():
    others = tuple(job(f"other {number}", {"de": 1.01}) for number in range(4))
    named = job("named", {"de": 1.3}, tokens=4000)
    found = compare([named], found=Found(others, 7, {"gone": "no report"}))
    assert [bool(each.differences) for each in found.jobs] == [False, True, True, True, True]
    assert found.recommendation.chosen.job == "A"
    assert found.related.jobs == ("B", "C", "D", "E")
    assert (found.related.left_out, found.related.unreadable) == (7, {"gone": "no report"})
    assert compare([named, *others]).jobs[0].differences
    assert "related" not in compare([named]).model_dump(mode="json")


def pruned(ratios, mix, method="magnitude", shrink=None, **pruning):
    report = make_report(ratios=ratios, mix=mix)
    changed = {"method": method, "update": "none", "sparsity": 0.5, "allocation": {"policy": "uniform"}, **pruning}
    return report.model_copy(update={"spec": {**report.spec, "pruning": changed, "shrink": shrink}})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([{}, {}], True),
        ([{}, {"sparsity": 0.6}], False),
        ([{"method": "wanda"}, {"method": "wanda"}], False),
        ([{"update": "cg"}, {"update": "cg"}], False),
        ([{"allocation": {"policy": "owl"}}] * 2, False),
        ([{"shrink": {"blocks": {"remove": 1}}}] * 2, False),
    ],
)
def test_jobs_whose_mixes_had_no_effect_are_said_to_be_the_same_model(changes, told):
    ratios = {"de": 1.1, "en": 1.1}
    mixes = zip((GERMAN, ENGLISH), changes, strict=True)
    jobs = [Candidate.of(f"of {list(mix)}", pruned(ratios, mix, **each)) for mix, each in mixes]
    hints = [caveat for caveat in compare(jobs).recommendation.caveats if "are the same model" in caveat]
    assert [hint.partition(":")[0] for hint in hints] == (["A and B are the same model"] if told else [])
    again = [Candidate.of(name, pruned(ratios, GERMAN)) for name in ("one", "two")]
    assert not [caveat for caveat in compare(again).recommendation.caveats if "are the same model" in caveat]
