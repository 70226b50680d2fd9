"""The page that compares jobs: whole by itself, safe, and readable without colours."""

import dataclasses
import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from secateur._text import duration
from secateur_service.evaluation.charts import Point, scatter
from secateur_service.evaluation.comparison import Candidate, Found, compare
from secateur_service.evaluation.comparison_page import OTHERS_HERE, render_comparison, with_others
from secateur_service.evaluation.html import render_html
from secateur_service.evaluation.recommendation import times
from support.pages import Page, loads_nothing
from support.reports import make_report, task

HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>&lt;{{ 7*7 }}\u202e"


def comparison(names=("one", "two"), **changes):
    jobs = [
        Candidate.of(names[0], make_report(ratios={"de": 1.1, "en": 1.4}, mix={"de": 1.0}, **changes), 60.0),
        Candidate.of(names[1], make_report(ratios={"de": 1.5, "en": 1.2}, mix={"en": 1.0}, **changes), 4000.0),
    ]
    return compare(jobs, ["de"])


def text_of(content):
    return " ".join(" ".join(Page(content).text).split())


def test_the_page_is_well_formed_and_loads_nothing_from_outside():
    content = render_comparison(comparison())
    loads_nothing(Page(content))
    style = re.search(r"<style>(.*?)</style>", content.decode(), re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_says_what_to_take_and_marks_the_best_by_more_than_colour():
    content = render_comparison(comparison())
    text = text_of(content)
    assert "Recommended for de" in text
    assert "de loses least in A, where perplexity grows at most ×1.100 (de); B follows with ×1.500 (de)." in text
    assert "measure the tasks that you ship" in text
    cells = re.findall(r'<td class="cell([^"]*)"[^>]*><span class="growth">([^<]*)</span>', content.decode())
    assert cells == [(" best", "×1.100"), (" outside", "×1.400"), (" outside", "×1.500"), (" best", "×1.200")]
    assert "★" in content.decode()


def test_tasks_stand_beside_with_their_differences():
    tasks = [task("xnli_de", [1] * 60 + [0] * 40, [1] * 40 + [0] * 60), task("xnli_de", [0], [1], metric="acc_norm")]
    jobs = [
        Candidate.of("one", make_report(ratios={"de": 1.1}, tasks=tasks), 1.0),
        Candidate.of("two", make_report(ratios={"de": 1.2}), 1.0),
    ]
    found = compare(jobs)
    page = render_comparison(found).decode()
    assert "What became of the tasks" in page
    assert "0.400<small>-0.200 ± 0.020</small>" in page
    assert "acc_norm" not in page
    assert any("not the tasks" in caveat for caveat in found.recommendation.caveats)


def test_a_comparison_without_a_choice_says_so():
    jobs = [Candidate.of("one", make_report(ratios={"de": 1.1})), Candidate.of("two", make_report(ratios={"en": 1.1}))]
    assert "No recommendation" in text_of(render_comparison(compare(jobs)))
    assert "No job will do." in text_of(render_comparison(compare(jobs, ["de"], max_growth=1.0)))


def test_what_does_not_compare_is_told_apart_with_the_reason():
    jobs = [Candidate.of(str(n), make_report(ratios={"de": 1.1}, tokens=tokens)) for n, tokens in enumerate((5, 5, 9))]
    content = render_comparison(compare(jobs))
    assert content.count(b'<tr class="apart">') == 1
    assert "the evaluation text of de is another, although it is named alike" in text_of(content)


def test_names_of_jobs_models_and_languages_cannot_inject_markup():
    report = make_report(uri=f"file:///{HOSTILE}", ratios={HOSTILE: 1.5}, mix={HOSTILE: 1.0})
    page = Page(render_comparison(compare([Candidate.of(HOSTILE, report, 1.0), Candidate.of("b", report, 2.0)])))
    loads_nothing(page)
    assert not any("\u202e" in text for text in page.text)
    assert any("alert" in text for text in page.text)


@pytest.mark.parametrize("values", [[1.0, 1.0], [1.0, 1.02], [1.1, 900.0], [0.99, 1.5, 1e9], [5.0]])
def test_a_scatter_plot_keeps_every_point_on_the_paper(values):
    points = [Point(chr(65 + n), 10.0**n, value, marked=n == 0) for n, value in enumerate(values)]
    drawn = scatter(points, title="t", x_label="x", y_label="y", show_x=str, show_y=str)
    root = ET.fromstring(drawn)
    _, _, width, height = map(float, root.get("viewBox").split())
    discs = [element for element in root if element.tag.endswith("circle")]
    assert len(discs) == len(points)
    for disc in discs:
        assert 9 <= float(disc.get("cx")) <= width - 9
        assert 9 <= float(disc.get("cy")) <= height - 9


@pytest.mark.parametrize("values", [[1.4464] * 3, [1.4461, 1.4464], [26203485.7] * 2, [1.2, 26203485.7]])
def test_the_ticks_of_a_scatter_plot_differ_and_stay_on_the_paper(values):
    points = [Point(chr(65 + n), 60.0 + 180 * n, value) for n, value in enumerate(values)]
    root = ET.fromstring(scatter(points, title="t", x_label="x", y_label="y", show_x=duration, show_y=times))
    texts = [each for each in root if each.tag.endswith("text")]
    told = [each for each in texts if each.text.startswith("×")]
    assert len(told) > 1
    assert len({each.text for each in told}) == len(told)
    assert all(float(each.get("x")) >= 7 * len(each.text) for each in told)


def test_equal_reasons_are_told_once_for_all_jobs_that_have_them():
    def spec(tokens):
        return make_report().spec | {"evaluation": {"tokens_per_language": tokens}}

    named = Candidate.of("own", make_report(ratios={"de": 1.1}, spec=spec(8192)))
    report = make_report(ratios={"de": 1.2}, tokens=2500, spec=spec(4096))
    others = tuple(Candidate.of(f"job-{number}", report) for number in range(10))
    other_language = Candidate.of("uk", make_report(ratios={"uk": 1.2}, spec=spec(8192)))
    text = text_of(render_comparison(compare([named], ["de"], found=Found((*others, other_language), 0, {}))))
    reason = "evaluation.tokens_per_language is 4096, and not 8192"
    assert f"Not considered: B, C and 8 others : {reason} ." in text
    assert "Not considered: L : de was not evaluated ." in text
    assert text.count(reason) == 1


def test_rows_name_their_model_where_there_are_several():
    one = Candidate.of("one", make_report(uri="file:///models/garden-llama"))
    other = dataclasses.replace(
        one, name="two", model=one.model.model_copy(update={"uri": "hf://org/forest-7b", "digest": "ef" * 32})
    )
    assert "forest-7b; wanda; 50 % sparse" in text_of(render_comparison(compare([one, other])))
    assert "garden-llama; wanda" not in text_of(render_comparison(compare([one, one])))


def with_related(*names, left_out=0, **changes):
    report = make_report(ratios={"de": 1.1, "en": 1.4}, mix={"de": 1.0}, **changes)
    others = [Candidate.of(name, make_report(ratios={"de": 1.2}, mix={"de": 1.0}), 5.0) for name in names]
    return report, compare([Candidate.of("own", report)], found=Found(tuple(others), left_out, {}))


def test_a_report_gets_a_section_before_its_provenance_and_keeps_all_it_had():
    report, found = with_related("other", HOSTILE, left_out=1200)
    page = render_html(report).decode()
    whole = with_others(page, found)
    loads_nothing(Page(whole.encode()))
    before, after = page.split(OTHERS_HERE)
    assert whole.endswith(OTHERS_HERE + after)
    assert whole.replace("</style>", "", 1).startswith(before[: before.index("</style>")])
    text = text_of(whole.encode())
    assert "the newest 2 other jobs of the same dense model that have a report" in text
    assert "1,200 older ones are left out." in text
    assert whole.index("Other jobs on this model") < whole.index("<h2>Provenance")
    headings = [int(level) for level in re.findall(r"<h([1-6])", whole)]
    assert all(late <= early + 1 for early, late in itertools.pairwise(headings))
    one = text_of(with_others(page, with_related("other")[1]).encode())
    assert "beside it stands the newest other job of the same dense model that has a report" in one


def test_a_page_of_another_release_gets_the_section_at_its_end():
    page = "<html><head><style>a { b }</style></head><body><main><p>old</p></main></body></html>"
    whole = with_others(page, with_related("other")[1])
    assert whole.startswith("<html><head><style>a { b }")
    assert "<p>old</p><section" in whole
    assert whole.endswith("</section>\n\n</main></body></html>")
