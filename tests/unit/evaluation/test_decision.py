"""May it ship? The answer by limits and confidence intervals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.evaluation.decision import decide
from support.reports import evaluation

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
    assert "for uk cannot be told" in found.sentence
    assert "within the limits for de" in found.sentence


def test_a_language_fails_by_its_growth_whatever_the_interval():
    found = decide(
        [language("de", 0.0101), language("uk", 0.0), language("en", 0.0)], dict.fromkeys(("de", "uk", "en"), 0.01)
    )
    assert found.answer == "FAIL"
    assert found.sentence.startswith("This may not ship for de: bits per byte +1.01% (")
    assert "uk and en" in found.sentence


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
    assert ["for de:", "for de and uk:", "for de, uk and en:"][count - 1] in found.sentence
