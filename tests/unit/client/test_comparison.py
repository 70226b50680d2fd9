"""What the SDK makes of a comparison, and how it looks on a terminal."""

import dataclasses

from secateur._comparison import comparison_of
from secateur._terminal import UNSAFE
from secateur.cli._comparing import comparison_text
from secateur_service.evaluation.comparison import Candidate, Found, compare
from support.reports import make_report, task

HOSTILE = "x\x1b[2J\u202e\ny"


def content_of(*candidates, targets=(), max_growth=None):
    return compare(candidates, targets, max_growth).model_dump(mode="json")


def pair(uri="file:///models/garden-llama"):
    return (
        Candidate.of("pruneJobs/one", make_report(uri=uri, ratios={"de": 1.1, "en": 1.4}, mix={"de": 1.0}), 61.0),
        Candidate.of("pruneJobs/two", make_report(uri=uri, ratios={"de": 1.5, "en": 1.2}, mix={"en": 0.7, "de": 0.3})),
    )


def test_all_that_the_service_says_is_there_by_name():
    content = content_of(*pair(), targets=["de"], max_growth=2)
    found = comparison_of({**content, "newer": 1}, "<html>")
    assert found.recommended.name == "pruneJobs/one"
    assert found.html == "<html>"
    assert found.best == {"de": ("A",), "en": ("B",)}
    assert found.recommendation.max_growth == 2.0
    assert (found.jobs["A"].seconds, found.jobs["B"].seconds) == (61.0, None)
    for label, entry in zip("AB", content["jobs"], strict=True):
        job = dataclasses.asdict(found.jobs[label])
        job["languages"] = list(job["languages"].values())
        assert {name: list(value) if isinstance(value, tuple) else value for name, value in job.items()} == {
            **entry,
            "verdicts": {kind: tuple(languages) for kind, languages in entry["verdicts"].items()},
        }


def test_the_text_has_the_jobs_the_matrix_and_what_to_take():
    lines = comparison_text(comparison_of(content_of(*pair(), targets=["de"]))).splitlines()
    assert lines[1].split()[:3] == ["A", "pruneJobs/one", "de"]
    assert "en=0.70,de=0.30" in lines[2]
    assert lines[4].split() == ["de", "en"]
    assert lines[5].split() == ["A", "×1.100*", "×1.400", "~"]
    assert lines[6].split() == ["B", "×1.500", "×1.200*"]
    assert "recommended for de (German): pruneJobs/one (A)" in lines


def test_tasks_stand_beside_with_their_differences():
    tasks = [task("xnli_de", [1] * 60 + [0] * 40, [1] * 40 + [0] * 60), task("xnli_de", [0], [1], metric="acc_norm")]
    content = content_of(Candidate.of("one", make_report(tasks=tasks)), Candidate.of("two", make_report()))
    found = comparison_of(content)
    assert [entry.metric for entry in found.jobs["A"].tasks] == ["acc", "acc_norm"]
    assert found.jobs["B"].tasks == ()
    assert "xnli_de  acc     A  0.600   0.400  -0.200 ± 0.020" in comparison_text(found)


def test_many_languages_are_shown_in_several_tables():
    ratios = {f"q{letter}a": 1.1 for letter in "abcdefghijklmnopqrst"}
    text = comparison_text(comparison_of(content_of(Candidate.of("one", make_report(ratios=ratios)))))
    assert text.count("growth of perplexity") == 3
    assert all(language in text for language in ratios)


def test_no_name_steers_the_terminal():
    report = make_report(uri=HOSTILE, ratios={HOSTILE: 1.5}, mix={HOSTILE: 1.0})
    other = make_report(ratios={HOSTILE: 1.5}, mix={HOSTILE: 1.0}, tokens=7)
    text = comparison_text(comparison_of(content_of(*(Candidate.of(HOSTILE, entry) for entry in (report, other)))))
    assert not UNSAFE.search(text.replace("\n", ""))
    assert "\\x1b" in text


def test_what_was_found_beside_the_named_jobs_is_told():
    one, two = pair()
    text = comparison_text(
        comparison_of(compare([one], found=Found((two,), 3, {HOSTILE: "old"})).model_dump(mode="json"))
    )
    assert "B: the newest other jobs of the same model; and 3 older, left out; name those that matter; x" in text
    assert not UNSAFE.search(text.replace("\n", ""))
    alone = comparison_of(compare([one], found=Found((), 0, {})).model_dump(mode="json"))
    assert alone.related.jobs == ()
    assert "there is no other job of the same model with a report" in comparison_text(alone)
    assert comparison_of(content_of(one)).related is None
