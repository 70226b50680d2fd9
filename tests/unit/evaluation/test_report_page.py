import itertools
import math
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime

import pytest

from secateur._facts import Run
from secateur_service.calibration.identification import Identified
from secateur_service.evaluation.card import render_card
from secateur_service.evaluation.html import model_name, render_html, row_label, target
from secateur_service.evaluation.parts import JobPart, OutputPart, TaskPart, WindowsPart
from support.pages import Page, loads_nothing
from support.reports import Block, Layer, answered, continued, evaluation, make_report

HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>&lt;{{ 7*7 }}"


def hostile_report():
    block = Block(0, (Layer(f"model.layers.0.{HOSTILE}.weight", (4, 4), 8, (HOSTILE,)),), {HOSTILE: 12.0})
    return make_report(
        uri=f"file:///models/{HOSTILE}",
        job=JobPart(id=HOSTILE, secateur_version="0.1.0"),
        ratios={HOSTILE: 1.5, "de": 1.1},
        mix={HOSTILE: 1.0},
        blocks=[block],
    )


def test_the_page_is_well_formed_and_loads_nothing_from_outside():
    page = Page(render_html(make_report()))
    loads_nothing(page)
    style = re.search(r"<style>(.*?)</style>", render_html(make_report()).decode(), re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_names_of_models_languages_and_layers_cannot_inject_markup():
    content = render_html(hostile_report())
    page = Page(content)
    assert not {"script", "img"} & set(page.elements)
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert any(HOSTILE in text for text in page.text)
    assert any(HOSTILE in value for _, name, value in page.attributes if name == "aria-label")
    assert b"{{ 7*7 }}" in content


def test_texts_that_models_wrote_are_text_in_their_language_and_direction():
    report = make_report(continuations=[continued("de", (HOSTILE, HOSTILE, " ")), continued("ar-EG"), continued("hi")])
    page = Page(render_html(report))
    loads_nothing(page)
    assert not {"script", "img"} & set(page.elements)
    assert any(HOSTILE in text for text in page.text)
    found = [(name, value) for element, name, value in page.attributes if element == "p" and name in ("lang", "dir")]
    each = {"de": "ltr", "ar-EG": "rtl", "hi": "ltr"}
    expected = [(("lang", name), ("dir", way)) for name, way in each.items() for _ in range(2)]
    assert found == [pair for both in expected for pair in both]
    text = " ".join(" ".join(page.text).split())
    assert "nothing was added" in text
    whole = render_html(make_report(continuations=[continued("de", ("Herr", "n Jahre", " Meier\n"))])).decode()
    assert '<span class="prompt">Herr</span>n Jahre</p>' in whole
    assert '<span class="prompt">Herr</span> Meier</p>' in whole
    assert "de 25 % 50 % 0 of 1 – ar-EG" in text
    assert "Look and see" not in render_html(make_report()).decode()


def test_every_plot_is_an_svg_that_an_xml_parser_reads():
    for report in (make_report(), hostile_report()):
        plots = re.findall(r"<svg .*?</svg>", render_html(report).decode(), re.DOTALL)
        assert len(plots) == 3
        for plot in plots:
            assert ET.fromstring(plot).tag.endswith("svg")


def test_the_page_says_what_was_kept_and_lost():
    text = " ".join(" ".join(Page(render_html(make_report())).text).split())
    assert "garden-llama" in text
    assert (
        "The perplexity of the 3 languages of the mix grew ×1.05 on average: a slight loss; "
        "at worst en (English) ×1.06." in text
    )
    assert "Also measured, and not in the mix: es (Spanish) ×1.50 (a heavy loss)." in text
    assert "×1.50" in text
    assert "es (Spanish) is left behind" in text
    assert "Zeros alone make a model neither smaller nor faster to serve in today’s general servers." in text
    assert "ab" * 32 in text
    assert "640 of 1,280 weights" in text


def test_the_page_is_the_same_every_time_but_for_when_it_ran():
    run = Run(datetime(2026, 11, 28, 1, 12, tzinfo=UTC), datetime(2026, 11, 28, 3, 17, tzinfo=UTC), 2, 1)
    before, after = render_html(make_report()).decode(), render_html(make_report(), run).decode()
    told = "2026-11-28 01:12 UTC, in 2 h 5 min; attempt 2, to which earlier ones left 1 of 2 blocks"
    assert [line.strip() for line in after.splitlines() if line not in before.splitlines()] == [
        f"<dt>Run</dt><dd><bdi>{told}</bdi></dd>"
    ]


def test_languages_have_their_names_beside_their_tags():
    text = " ".join(" ".join(Page(render_html(make_report(ratios={"de": 1.1, "zh-TW": 1.2}))).text).split())
    assert "de German 50 %" in text  # in the mix
    assert "de German 8.00 8.80" in text
    assert "zh-TW Chinese, Taiwan not in the mix 8.00 9.60" in text


def test_the_page_says_how_it_was_made_and_measured():
    spec = make_report().spec
    spec["calibration"]["corpus"] = "hf://datasets/org/text"
    corpora = {"file:///held/out": "file:///held/out", "hf://datasets/org/text": "documents of the same corpus"}
    for corpus, told in corpora.items():
        entries = [evaluation("de", 1.1, documents=30, digest="12ef" * 16, identified=Identified(20, 0.9, "en", 0.1))]
        report = make_report(spec=spec | {"evaluation": {"corpus": corpus}}, evaluation=entries)
        text = " ".join(" ".join(Page(render_html(report)).text).split())
        assert "Windows 128 tokens" in text
        assert told in text
        assert "40 windows, 30 documents (18 of 20 that were looked at seem to be in their language)" in text
        assert "90% of 20 12ef12ef12ef" in text
        assert "Evaluation text of de " + "12ef" * 16 in text


def test_a_language_outside_the_mix_is_marked():
    assert render_html(make_report()).count(b"not in the mix</small>") == 1


@pytest.mark.parametrize("count", [1, 32, 120])
def test_models_of_any_depth_can_be_drawn(count):
    blocks = [Block(i, (Layer(f"h.{i}.x.weight", (2, 2), 2),), {"de": 20.0 / (i + 1)}) for i in range(count)]
    Page(render_html(make_report(blocks=blocks)))


def test_names_and_targets_are_written_for_people():
    assert model_name("hf://org/aya-23-8B") == "aya-23-8B"
    assert model_name("file:///models/x/") == "x"
    assert target({"sparsity": 0.5, "pattern": None}) == "50 % sparse"
    assert target({"sparsity": 0.625}) == "62.5 % sparse"
    assert target({"sparsity": None, "pattern": "2:4"}) == "2:4 pattern"
    assert row_label("model.layers.3.mlp.up_proj.weight", 3) == "mlp.up_proj"
    assert row_label("transformer.h.12.self_attention.dense.weight", 12) == "self_attention.dense"


def test_the_mean_growth_is_geometric():
    assert make_report(ratios={"de": 1.0, "en": 4.0}).headline.perplexity_ratio == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("windows", "told"),
    [
        (
            (("<s>",), ("</s>", "<s>")),
            "begin with <code>&lt;s&gt;</code>; between two documents",
        ),
        (
            ((), ("<|end|>",)),
            "do not overlap; between two documents stands <code>&lt;|end|&gt;",
        ),
        (
            ((), ()),
            "do not overlap. Tokens that stand for no text are never scored.",
        ),
    ],
)
def test_the_page_says_what_was_counted(windows, told):
    beginning, separator = windows
    windows = WindowsPart(tokens=128, beginning=beginning, separator=separator)
    assert told in render_html(make_report(windows=windows)).decode()


def test_the_page_says_what_was_written_where_it_is_smaller():
    smaller = OutputPart(parameters=3000, blocks=1, size_bytes=6000, decoding_bytes=5000, cache_bytes=32)
    assert "written: 1 blocks, 3,000 parameters" in render_html(make_report(output=smaller)).decode()
    assert "written:" not in render_html(make_report()).decode()


def task(name, difference, error, *, metric="acc", flips=0.25, dense=0.5):
    return TaskPart(
        task=name,
        language="de",
        metric=metric,
        samples=100,
        dense=dense,
        pruned=None if difference is None else dense + difference,
        dense_stderr=0.05,
        pruned_stderr=0.05,
        difference=difference,
        difference_stderr=error,
        flips=flips,
    )


def test_tasks_have_a_table_with_intervals_on_one_scale():
    tasks = [
        answered("lost", lost=30),
        answered("same", lost=2, won=2),
        answered("pairs", metric="pct_stereotype", lost=10, higher_is_better=False),
        task("words", -3.0, 1.0, metric="perplexity", flips=None),
        task("unknown", None, None),
    ]
    spec = make_report().spec | {"limits": {"languages": [], "task_loss": 0.1}}
    page = Page(render_html(make_report(spec=spec, tasks=tasks)))
    styles = [value for tag, name, value in page.attributes if tag in {"i", "b"} and name == "style"]
    places = [tuple(float(number) for number in re.findall(r"[\d.]+(?=%)", value)) for value in styles]
    (left, width), (point,), (limit,), (even_left, even_width), (even,), _, (better_left, _), (better,), _ = places
    assert left == 0.0
    assert left < point < left + width < limit < 50.0
    assert even == 50.0 == pytest.approx(even_left + even_width / 2, abs=0.06)
    assert 50.0 < better_left < better
    classes = [value for tag, name, value in page.attributes if tag == "i" and name == "class"]
    assert [value for value in classes if value in {"", "clear"}] == ["clear", "", "clear"]
    assert {"-0.300", "-0.387 to -0.202", "-0.100", "-0.162 to -0.034", "30.0\u202f%"} <= set(page.text)
    assert sum("(less is better)" in text for text in page.text) == 1
    assert "Tasks" not in Page(render_html(make_report())).text


def test_every_chart_has_its_figures_as_text():
    known = [evaluation("de", 1.05, error=0.01), evaluation("uk", 1.2, error=0.02)]
    page = Page(render_html(make_report(evaluation=known)))
    charts = page.elements.count("svg")
    # Perplexities are in the first table, ratios of blocks at the end.
    assert page.text.count("Figures") == charts - 2
    growth = 100 * math.log(1.2) / math.log(8.0)
    assert f"{growth:+.2f} %" in page.text
    assert "50.00%" in page.text
    names = [value for tag, name, value in page.attributes if name == "aria-label" and tag == "div"]
    assert all(names)
    assert "Sparsity of every pruned layer" in names


def test_headings_are_in_order_and_every_scrolling_table_can_be_reached_by_keyboard():
    page = render_html(make_report(tasks=[answered("lost", lost=3)])).decode()
    headings = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert headings[0] == 1
    assert all(late <= early + 1 for early, late in itertools.pairwise(headings))
    scrolling = re.findall(r'<div class="scroll"([^>]*)>', page)
    assert scrolling
    assert all('tabindex="0" role="region" aria-label="' in attributes for attributes in scrolling)


def test_the_decision_is_a_sentence_and_a_list_and_says_what_has_no_limit():
    limits = [{"language": name, "growth": 0.02} for name in ("de", "en")]
    spec = make_report().spec | {"limits": {"languages": limits}}
    lost = {"evaluation": [evaluation("de", 1.3, error=0.01), evaluation("en", 1.4, error=0.01)], "spec": spec}
    page = render_html(make_report(**lost)).decode()
    assert "<p><bdi>This may not ship for de (German) and en (English):</bdi></p>" in page
    assert page.count("limit +2.00%</bdi></li>") == 2
    kept = [evaluation(name, 1.001, error=0.001) for name in ("de", "en")]
    untold, measured = "No tasks were measured", "Tasks were measured, and no limit was given"
    alone = render_html(make_report(spec=spec, evaluation=kept)).decode()
    assert untold in alone
    assert measured not in alone
    beside = render_html(make_report(spec=spec, evaluation=kept, tasks=[answered("same", lost=2, won=2)])).decode()
    assert untold not in beside
    assert measured in beside


def test_names_of_tasks_stay_text():
    page = Page(render_html(make_report(tasks=[task(HOSTILE, 0.0, 0.1)])))
    assert "script" not in page.elements
    assert HOSTILE in page.text
    long = Page(render_html(make_report(tasks=[task("mmlu_<b>_\u202e", 0.0, 0.1)])))
    start = long.text.index("mmlu_")
    assert "".join(long.text[start : start + 3]) == "mmlu_<b>_\\u202e"
    assert long.elements.count("wbr") == 2


def luminance(colour):
    """WCAG 2's relative luminance of #rgb or #rrggbb."""
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_can_be_read_in_every_colour_on_screen_in_the_dark_and_on_paper():
    style = re.search(r"<style>(.*?)</style>", render_html(make_report()).decode(), re.DOTALL)[1]
    palettes = [
        dict(re.findall(r"--(\w+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(palettes) == 3
    for palette in palettes:
        for name, colour in palette.items():
            for ground in ("paper", "soft"):
                light, dark = sorted((luminance(colour), luminance(palette[ground])), reverse=True)
                if name not in {"paper", "soft", "rule", "dense"}:
                    assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, colour, ground)


def test_a_growth_is_shown_with_the_digits_that_its_word_is_true_of():
    report = make_report(mix={"de": 1.0}, ratios={"de": 1.0996, "en": 1.5})
    page = render_html(report).decode()
    assert page.count("<b>×1.0996</b>") == 1
    assert re.search(r'class="times">×1\.0996<.*>slight<', page)
    assert re.search(r'class="times">×1\.50<.*>heavy<', page)
    assert "| ×1.0996 | slight |" in render_card(report).decode()
