"""The first sentences of a report."""

import pytest

from support.reports import answered, make_report


def test_the_headline_is_about_the_languages_of_the_mix_and_the_others_stand_apart():
    report = make_report(mix={"de": 0.5, "uk": 0.5}, ratios={"de": 1.2, "uk": 1.3, "en": 5.0, "fr": 12.0})
    found = report.headline
    assert found.languages == ("de", "uk")
    assert found.perplexity_ratio == pytest.approx((1.2 * 1.3) ** 0.5)
    assert found.sentence == (
        "The perplexity of the 2 languages of the mix grew ×1.25 on average: a noticeable loss; "
        "at worst uk (Ukrainian) ×1.30."
    )
    assert found.also_measured == (
        "Also measured, and not in the mix: en (English) ×5.00 (a severe loss) and fr (French) ×12.00 (all but lost)."
    )
    assert "evaluation.tasks" in found.caveat
    assert make_report(tasks=[answered("same")]).headline.caveat is None


def test_an_uneven_loss_is_called_so():
    ratios = {"de": 2.01, "uk": 1.1, "en": 1.1}
    assert make_report(ratios=ratios).headline.sentence.endswith("and not evenly: de (German) ×2.01 (a heavy loss).")
    worst = make_report(ratios={"de": 1.52, "uk": 1.45, "en": 1.45}).headline.sentence
    assert worst.endswith("a noticeable loss; most of all de (German) ×1.52 (a heavy loss).")


def test_without_a_language_of_the_mix_it_is_about_all_and_says_so():
    found = make_report(mix={"de": 1.0}, ratios={"uk": 1.3, "en": 1.2}).headline
    assert found.sentence.startswith("The perplexity of the 2 languages, none of which is in the mix, grew ×1.25")
    assert found.also_measured is None
    alone = make_report(mix={"de": 1.0}, ratios={"de": 1.3}).headline
    assert alone.sentence == "The perplexity of de (German) grew ×1.30: a noticeable loss."
    assert make_report(evaluation=[]).headline is None
