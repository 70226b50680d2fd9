"""What is said of texts that both models continue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.evaluation.continuations import Added, ContinuedLanguage, repetition
from support.models import TEXT

GERMAN, ENGLISH = ((TEXT / f"{name}.txt").read_text(encoding="utf-8").splitlines()[:3] for name in ("de", "en"))


def added(text, tokens=(1, 2, 3, 4)):
    return Added(text, tuple(tokens))


def test_repetition_is_the_share_of_sequences_of_four_that_were_there_before():
    assert repetition([1, 2, 3, 4, 5, 6, 7]) == 0
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)  # 1234 2341 3412 4123 1234
    assert repetition([7] * 48) == pytest.approx(44 / 45)
    assert repetition([1, 2, 3]) is None


@given(st.lists(st.integers(0, 2), min_size=4, max_size=40))
def test_repetition_counts_each_sequence_that_has_an_equal_one_before_it(tokens):
    spans = [tokens[at : at + 4] for at in range(len(tokens) - 3)]
    assert repetition(tokens) == pytest.approx(sum(span in spans[:at] for at, span in enumerate(spans)) / len(spans))


def test_rates_are_those_of_each_model_and_short_texts_say_nothing():
    found = ContinuedLanguage.of(
        "de",
        ["Es war"] * 3,
        [added(GERMAN[0]), added(GERMAN[1], [7] * 7), added("", ())],
        [added(ENGLISH[0]), added(GERMAN[2]), added(".", (5,))],
    )
    assert (found.dense_repetition, found.pruned_repetition) == (pytest.approx(3 / 4 / 2), 0)
    assert (found.dense_off_language, found.pruned_off_language) == (0, 0.5)
    assert (found.dense_judged, found.pruned_judged) == (2, 2)
    assert [text.pruned for text in found.texts] == [ENGLISH[0], GERMAN[2], "."]
    nothing = ContinuedLanguage.of("de", ["Es war"], [added("", ())], [added("!" * 48, [7] * 48)])
    assert (nothing.dense_repetition, nothing.dense_off_language) == (None, None)
    assert (nothing.dense_judged, nothing.pruned_judged) == (0, 0)
    assert (nothing.pruned_repetition, nothing.pruned_off_language) == (pytest.approx(44 / 45), None)
