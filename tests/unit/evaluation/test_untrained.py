"""A dense model that predicts no better than chance is pointed out."""

import pytest

from support.reports import evaluation, make_report


def told(*perplexities, rows=260):
    model = make_report().model.model_copy(update={"vocabulary": rows})
    entries = [evaluation(name, 1.5, dense=dense) for name, dense in zip(("de", "uk"), perplexities, strict=False)]
    report = make_report(model=model, evaluation=entries)
    return [each for each in report.verdicts if each.kind == "UNTRAINED_MODEL"], report.headline


@pytest.mark.parametrize("perplexities", [(130.5, 900.0), (700.0, 300.0)])
def test_where_every_language_is_at_chance(perplexities):
    (verdict,), headline = told(*perplexities)
    assert verdict.evidence.estimate == pytest.approx(min(perplexities) / 260)
    assert "guessing among its 260 tokens has 260" in verdict.message
    assert "predicts no better than chance" in headline.reservation


@pytest.mark.parametrize(("perplexities", "rows"), [((129.5, 900.0), 260), ((8.0,), 32_000), ((900.0,), None)])
def test_but_not_where_it_predicts_one_language_or_its_vocabulary_is_unknown(perplexities, rows):
    assert told(*perplexities, rows=rows)[0] == []
