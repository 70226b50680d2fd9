"""What the report says where text does not seem to be in the language that it claims."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from secateur_service.calibration.identification import Identified
from secateur_service.evaluation.html import render_html
from secateur_service.evaluation.report import Report
from support.reports import calibration, evaluation, kinds, make_report

SCHEMA = Path(__file__).parents[3] / "docs" / "report.schema.json"
HOSTILE = "\"><script>alert('x')</script>{{ 7*7 }}"
SOUND = Identified(200, 1.0, "", 0.0)


def other(share, name="en"):
    return Identified(200, share, name, 1 - share)


def report(drawn=SOUND, held_out=SOUND, *, dropped=None, **changes):
    """A report on text of one language, German, that seems to be in these languages."""
    mix = calibration("de", dropped=dropped, identified=drawn)
    evaluated = evaluation("de", 1.05, identified=held_out)
    return make_report(calibration=[mix], evaluation=[evaluated], **changes)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.495])
@pytest.mark.parametrize("purpose", ["calibration", "evaluation"])
def test_text_of_which_less_than_half_is_in_its_language_is_pointed_out(purpose, share):
    made = report(other(share)) if purpose == "calibration" else report(held_out=other(share))
    [verdict] = [verdict for verdict in made.verdicts if verdict.kind == "OTHER_LANGUAGE"]
    assert verdict.language == "de"
    assert verdict.message.startswith(
        f"The {purpose} text of de (German) seems to be in another language: of 200 documents "
    )
    assert f"{1 - share:.0%} read like en" in verdict.message
    assert "Look at the corpus." in verdict.message


def test_text_of_both_purposes_is_judged_by_itself():
    made = report(other(0.1, "nl"), other(0.2, "da"))
    messages = [verdict.message for verdict in made.verdicts if verdict.kind == "OTHER_LANGUAGE"]
    assert [message.split()[1] for message in messages] == ["calibration", "evaluation"]
    assert ["nl" in message for message in messages] == [True, False]


@pytest.mark.parametrize("found", [None, other(0.5), other(0.9), SOUND])
def test_text_of_which_half_is_in_its_language_or_that_cannot_be_told_is_not(found):
    assert kinds(report(found, found)) == set()


def test_the_report_has_the_figures_and_they_are_valid_against_the_published_schema():
    made = report(other(0.25), None, dropped=7)
    document = json.loads(made.to_bytes())
    jsonschema.validate(document, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert document["calibration"][0]["identified"] == {
        "documents": 200,
        "share": 0.25,
        "other": "en",
        "other_share": 0.75,
    }
    assert document["calibration"][0]["dropped_texts"] == 7
    assert document["evaluation"][0]["identified"] is None
    assert Report.model_validate_json(made.to_bytes()) == made


def table_cells(page):
    """The cells of the row of German in the table of calibration text."""
    table = re.search(r"<table>\s*<thead><tr>[^\n]*In the language</th>.*?</table>", page, re.DOTALL)[0]
    return re.findall(r"<td>(.*?)</td>", table)


def test_the_page_shows_the_share_of_the_calibration_text_that_is_in_its_language():
    assert table_cells(render_html(report(other(0.27))).decode())[-1] == "27% of 200"
    assert table_cells(render_html(report(SOUND)).decode())[-1] == "100% of 200"
    assert table_cells(render_html(report(None)).decode())[-1] == "–"


def test_the_page_points_out_the_other_language_and_does_not_say_that_pruning_cost_it():
    page = render_html(report(other(0.27))).decode()
    assert '<li class="bad"><b>Other language</b>' in page
    assert "73% read like en" in page
    assert "not evenly" not in page


def test_the_name_of_the_other_language_cannot_inject_markup():
    page = render_html(report(other(0.1, HOSTILE), other(0.1, HOSTILE))).decode()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 2
    assert "{{ 7*7 }}" in page


def test_the_page_says_where_the_model_wrote_the_text_and_how_much_was_left_out():
    plain = report()
    assert "wrote this text itself" not in render_html(plain).decode()
    mix = {**plain.spec["calibration"], "generation": {"prefix_tokens": 64}}
    written = report(dropped=7).model_copy(update={"spec": {**plain.spec, "calibration": mix}})
    page = render_html(written).decode()
    assert "wrote this text itself" in page
    assert "left out (7 in all)" in page
